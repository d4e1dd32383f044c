"""Torch's fused attention kernels by name: layers save what forward leaves and give it back later.

``scaled_dot_product_attention`` keeps that inside its own graph of gradients; the operators behind
it do not.  What they take and return stands in torch's ``native_functions.yaml``.
"""

from enum import Enum

import torch
from torch.nn.attention import SDPBackend

__all__ = ["FusedKernel", "chosen_kernel", "fused_backward", "fused_forward"]

#: Widest heads whose gradients cuDNN's kernel computes.
CUDNN_WIDTH = 128
#: Bytes that its operands' first elements lie at a multiple of.
ALIGNED_BYTES = 16


class FusedKernel(Enum):
    """Who computes the core; what one's forward pass leaves is for its own backward pass alone."""

    FLASH_2 = "FlashAttention-2"
    CUDNN = "cuDNN"


def chosen_kernel(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> FusedKernel:
    """What torch would take of the two: cuDNN's warpgroup products on a Hopper, where they serve.

    ``torch.backends.cuda.enable_cudnn_sdp(False)`` leaves FlashAttention-2 alone to choose from,
    and so does ``torch.use_deterministic_algorithms``.

    Raises:
        RuntimeError: torch's own, all of its kernels are switched off.
    """
    if q.shape[-1] > CUDNN_WIDTH or torch.are_deterministic_algorithms_enabled():
        return FusedKernel.FLASH_2
    choice = torch._fused_sdp_choice(q, k, v, None, 0.0, causal, scale=scale)
    return FusedKernel.CUDNN if choice == SDPBackend.CUDNN_ATTENTION.value else FusedKernel.FLASH_2


def fused_forward(
    kernel: FusedKernel,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output (batch, heads, tokens, width) and the logarithms of its sums, batch first."""
    if kernel is FusedKernel.CUDNN:
        cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention
        out, log_sum = cudnn(q, k, v, None, True, 0.0, causal, scale=scale)[:2]
    else:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        out, log_sum = flash(q, k, v, 0.0, causal, scale=scale)[:2]
    return out, log_sum


def fused_backward(
    kernel: FusedKernel,
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    *,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of queries, keys and values; ``log_sum`` as the same kernel's forward gave it."""
    tokens = (q.shape[2], k.shape[2])
    if kernel is FusedKernel.CUDNN:
        backward = torch.ops.aten._scaled_dot_product_cudnn_attention_backward
        # Torch keeps cuDNN's plans by how queries, keys and values lie alone, and a plan reads the
        # gradient as the first one lay: each is given as the output lies.
        offset_bytes = dy.storage_offset() * dy.element_size()
        if dy.stride() != out.stride() or offset_bytes % ALIGNED_BYTES:
            dy = torch.empty_like(out).copy_(dy)
        seed, offset = torch.zeros(2, dtype=torch.int64, device=q.device)  # there is no dropout
        d_q, d_k, d_v = backward(
            dy, q, k, v, out, log_sum, seed, offset, None, None, None, *tokens, 0.0, causal,
            scale=scale,
        )  # fmt: skip
    else:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # dropout's
        d_q, d_k, d_v = backward(
            dy, q, k, v, out, log_sum, None, None, *tokens, 0.0, causal, state, state, scale=scale
        )
    return d_q, d_k, d_v
