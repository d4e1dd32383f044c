"""The layers' operators on the kernels of ``tiles.kernels``, launched on torch's current stream.

What no kernel serves is computed by the reference twin, on the GPU and slowly; ``unserved`` lists
it with the reasons.
"""

import torch
from torch.nn import functional

from workbench.nn.backend import Attended
from workbench.nn.cuda_norms import CudaNorms

__all__ = ["CudaBackend"]

#: Widths of heads that FlashAttention takes: multiples of a step, up to the largest.
FLASH_STEP = 8
FLASH_WIDTH = 256


class CudaBackend(CudaNorms):
    """Kernels for everything that a family serves; see the module's docstring."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> Attended:
        width = q.shape[-1]
        if width > FLASH_WIDTH:
            twin = self._by_twin("attention", f"heads of {width}: up to {FLASH_WIDTH}")
            return twin.attend(q, k, v, causal=causal)
        operands = (_filled(x) for x in (q, k, v))
        out, log_sum = flash_forward(*operands, causal=causal, scale=width**-0.5)
        return Attended(out=out[..., :width], log_sum=log_sum)

    def attend_backward(
        self,
        dy: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attended: Attended,
        *,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        width = q.shape[-1]
        if width > FLASH_WIDTH:
            twin = self._by_twin("attention", f"heads of {width}: up to {FLASH_WIDTH}")
            return twin.attend_backward(dy, q, k, v, attended, causal=causal)
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        tokens = (q.shape[2], k.shape[2])
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # dropout's, and there is none
        operands = (_filled(x) for x in (dy, q, k, v, attended.out))
        d_q, d_k, d_v = backward(
            *operands, attended.log_sum, None, None, *tokens, 0.0, causal, state, state,
            scale=width**-0.5,
        )  # fmt: skip
        return d_q[..., :width], d_k[..., :width], d_v[..., :width]


def flash_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Torch's FlashAttention: output and the logarithms of its sums."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention
    out, log_sum = forward(q, k, v, 0.0, causal, scale=scale)[:2]
    return out, log_sum


def _filled(x: torch.Tensor) -> torch.Tensor:
    """Heads as wide as FlashAttention takes them, zeros behind their end, as torch's own has it."""
    pad = -x.shape[-1] % FLASH_STEP
    return functional.pad(x, (0, pad)) if pad else x
