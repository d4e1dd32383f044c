"""``F.scaled_dot_product_attention`` of two products that a caller names."""

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

__all__ = ["attention"]


def attention(
    scores_by: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    values_by: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """``F.scaled_dot_product_attention`` taken apart into its two products.

    Args:
        scores_by: multiplies queries by keys, (..., L, E) by (..., E, S).
        values_by: multiplies weights by values.
        query, key, value: (..., heads, tokens, width), and the rest as that function has it.
    """
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (t.repeat_interleave(times, dim=-3) for t in (key, value))
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = scores_by(query, key.transpose(-2, -1)) * factor
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype is torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    # Rows without any key left have weights of zero, as the fused function has it.
    weights = scores.softmax(dim=-1).nan_to_num(nan=0.0)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    return values_by(weights, value)
