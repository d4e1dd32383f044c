"""``nn.MultiheadAttention`` taken apart: four linear layers and a product of three.

Torch computes it by one fused function, whose projections and products nothing could reach.
"""

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["PlainAttention", "take_attention_apart"]


class PlainAttention(nn.Module):
    """``nn.MultiheadAttention`` in inference, of ordinary layers and functions."""

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        """Take the parameters of a layer.

        Raises:
            ValueError: it adds rows of its own to keys and values.
        """
        super().__init__()
        if layer.bias_k is not None or layer.bias_v is not None or layer.add_zero_attn:
            raise ValueError("it adds rows of its own to keys and values (bias_k, add_zero_attn)")
        self.num_heads, self.batch_first = layer.num_heads, layer.batch_first
        self.dropout = layer.dropout
        self.embed_dim, self.head_dim = layer.embed_dim, layer.head_dim
        self.kdim, self.vdim = layer.kdim, layer.vdim
        # What nn.TransformerEncoderLayer looks at before its fused path, which it then leaves.
        self.in_proj_weight, self.in_proj_bias, self._qkv_same_embed_dim = None, None, False
        if layer.in_proj_weight is not None:
            weights = layer.in_proj_weight.chunk(3)
        else:
            weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        biases = (None,) * 3 if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (
            _linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)
        )
        self.out_proj = _linear(layer.out_proj.weight, layer.out_proj.bias)
        self.train(layer.training)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As ``nn.MultiheadAttention``; is_causal counts where there is no mask beside it."""
        single = query.ndim == 2
        tensors = [query, key, value]
        if single:
            tensors = [t[None] for t in tensors]
        elif not self.batch_first:
            tensors = [t.transpose(0, 1) for t in tensors]
        heads = [
            project(t).view(*t.shape[:2], self.num_heads, -1).transpose(1, 2)
            for project, t in zip((self.query, self.key, self.value), tensors, strict=True)
        ]
        mask = self._mask(attn_mask, key_padding_mask, heads[0], single)
        causal = is_causal and mask is None
        weights = None
        if need_weights:
            scores = heads[0] @ heads[1].transpose(-2, -1) * heads[0].shape[-1] ** -0.5
            weights = (scores if mask is None else scores + mask).softmax(dim=-1)
            out = weights @ heads[2]
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights[0] if single else weights
        else:
            rate = self.dropout if self.training else 0.0
            out = F.scaled_dot_product_attention(
                heads[0], heads[1], heads[2], attn_mask=mask, dropout_p=rate, is_causal=causal
            )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if single:
            return out[0], weights
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _mask(
        self,
        attn_mask: torch.Tensor | None,
        key_padding_mask: torch.Tensor | None,
        query: torch.Tensor,
        single: bool,
    ) -> torch.Tensor | None:
        """Both masks as one to be added, that broadcasts against (batch, heads, tokens, keys)."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, query.dtype)
            if mask.ndim == 3:
                mask = mask.view(-1, self.num_heads, *mask.shape[1:])
        if key_padding_mask is not None:
            padding = _added(key_padding_mask, query.dtype)
            padding = (padding[None] if single else padding)[:, None, None, :]
            mask = padding if mask is None else mask + padding
        return mask


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype is not torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -torch.inf)


def take_attention_apart(model: nn.Module) -> dict[str, str]:
    """Replace every ``nn.MultiheadAttention`` of a model, in place.

    Returns:
        Names of those that stay as they are, with the reasons.
    """
    left: dict[str, str] = {}
    for parent_name, parent in list(model.named_modules()):
        for name, child in list(parent._modules.items()):
            if type(child) is not nn.MultiheadAttention:
                continue
            path = f"{parent_name}.{name}" if parent_name else name
            try:
                setattr(parent, name, PlainAttention(child))
            except ValueError as error:
                left[path] = str(error)
    for layer in model.modules():
        if isinstance(layer, nn.TransformerEncoder):
            # Else it looks for the fused layers' weights as soon as it is given a padding mask.
            layer.use_nested_tensor = False
    return left
