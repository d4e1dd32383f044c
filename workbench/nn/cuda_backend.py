"""The layers' operators on the kernels of ``tiles.kernels``, launched on torch's current stream.

What no kernel serves is computed by the reference twin, on the GPU and slowly; ``unserved`` lists
it with the reasons.
"""

import torch
from torch.nn import functional

from workbench.nn.backend import Attended
from workbench.nn.cuda_norms import CudaNorms
from workbench.nn.fused_attention import chosen_kernel, fused_backward, fused_forward

__all__ = ["CudaBackend"]

#: Widths of heads that fused kernels take: multiples of a step, up to the largest.
FUSED_STEP = 8
FUSED_WIDTH = 256


class CudaBackend(CudaNorms):
    """Kernels for everything that a family serves; see the module's docstring."""

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> Attended:
        width = q.shape[-1]
        if width > FUSED_WIDTH:
            twin = self._by_twin("attention", f"heads of {width}: up to {FUSED_WIDTH}")
            return twin.attend(q, k, v, causal=causal)
        q, k, v = (_filled(x) for x in (q, k, v))
        scale = width**-0.5
        kernel = chosen_kernel(q, k, v, causal=causal, scale=scale)
        out, log_sum = fused_forward(kernel, q, k, v, causal=causal, scale=scale)
        return Attended(out=out[..., :width], log_sum=log_sum, kernel=kernel)

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
        if width > FUSED_WIDTH:
            twin = self._by_twin("attention", f"heads of {width}: up to {FUSED_WIDTH}")
            return twin.attend_backward(dy, q, k, v, attended, causal=causal)
        if attended.kernel is None:
            raise ValueError("what no fused kernel attended to has no fused backward pass")
        dy, q, k, v, out = (_filled(x) for x in (dy, q, k, v, attended.out))
        d_q, d_k, d_v = fused_backward(
            *(attended.kernel, dy, q, k, v, out, attended.log_sum),
            causal=causal,
            scale=width**-0.5,
        )
        return d_q[..., :width], d_k[..., :width], d_v[..., :width]


def _filled(x: torch.Tensor) -> torch.Tensor:
    """Heads as wide as fused kernels take them, zeros behind their end, as torch's own has it."""
    pad = -x.shape[-1] % FUSED_STEP
    return functional.pad(x, (0, pad)) if pad else x
