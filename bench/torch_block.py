"""A transformer block in torch, built from the extents that the cost model is given.

Llama-like where it is gated, rotated and normalised by mean squares, GPT-like otherwise;
normalisations stand before, linear layers have no bias, no dropout.  Imports torch.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from sim.network import Activation, Block, Normalization

__all__ = ["TransformerBlock"]

_ACTIVATIONS: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    Activation.GELU: functional.gelu,
    Activation.SILU: functional.silu,
    Activation.RELU: functional.relu,
}
#: Base of the rotation's angles, as in RoFormer.
THETA = 10_000.0


class TransformerBlock(nn.Module):
    """Attention and a feed-forward part on ``(sequences, length, hidden)``."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(
        self, block: Block, length: int, *, dtype: torch.dtype, device: str, seed: int = 0
    ) -> None:
        super().__init__()
        self.block = block
        linears = {
            one.name: nn.Linear(one.k, one.n, bias=False, dtype=dtype, device=device)
            for one in block.linears
        }
        norm = nn.RMSNorm if block.normalization is Normalization.RMS else nn.LayerNorm
        self.linears = nn.ModuleDict(linears)
        self.norms = nn.ModuleList(norm(block.hidden, dtype=dtype, device=device) for _ in range(2))
        generator = torch.Generator(device=device).manual_seed(seed)
        for linear in linears.values():
            # Outputs stay near one, as in a trained network.
            spread = 1 / math.sqrt(linear.in_features)
            linear.weight.data.normal_(0.0, spread, generator=generator)
        half = block.head_dim // 2
        angles = torch.outer(
            torch.arange(length, dtype=torch.float32),
            THETA ** (-torch.arange(half, dtype=torch.float32) / half),
        ).repeat(1, 2)
        for name, values in (("cos", angles.cos()), ("sin", angles.sin())):
            self.register_buffer(name, values.to(device, dtype), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attention(self.norms[0](x))
        return x + self._feed_forward(self.norms[1](x))

    def _attention(self, x: torch.Tensor) -> torch.Tensor:
        block = self.block
        sequences, length, _ = x.shape
        widths = [heads * block.head_dim for heads in (block.heads, *[block.kv_heads] * 2)]
        q, k, v = (
            part.view(sequences, length, -1, block.head_dim).transpose(1, 2)
            for part in self.linears["qkv"](x).split(widths, dim=-1)
        )
        if block.rotary:
            q, k = self._rotated(q), self._rotated(k)
        out = functional.scaled_dot_product_attention(
            q, k, v, is_causal=block.causal, enable_gqa=block.heads != block.kv_heads
        )
        merged = out.transpose(1, 2).reshape(sequences, length, block.query_width)
        projected: torch.Tensor = self.linears["o"](merged)
        return projected

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        act = _ACTIVATIONS[self.block.activation]
        if self.block.gated:
            gate, up = self.linears["gate_up"](x).chunk(2, dim=-1)
            inner = act(gate) * up
        else:
            inner = act(self.linears["up"](x))
        out: torch.Tensor = self.linears["down"](inner)
        return out
