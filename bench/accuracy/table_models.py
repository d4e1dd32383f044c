"""A transformer over the columns of a table; perceptrons are those of images."""

import torch
from torch import nn

from bench.accuracy.vision_models import Layer

__all__ = ["ColumnTransformer", "GatedPerceptron"]


class ColumnTransformer(nn.Module):
    """A token for each column, the number times a vector of its own (FT-Transformer)."""

    def __init__(self, columns: int, outputs: int, *, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(columns, width) / width**0.5)
        self.shift = nn.Parameter(torch.zeros(columns, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        stream = rows.unsqueeze(-1) * self.scale + self.shift
        return self.head(self.norm(self.layers(stream).mean(1)))


class GatedPerceptron(nn.Module):
    """Gated linear units (SwiGLU) around which the stream goes."""

    def __init__(self, columns: int, outputs: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(columns, width)
        self.gates = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.downs = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(depth))
        self.ups = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.silu, self.head = nn.SiLU(), nn.Linear(width, outputs)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        stream = self.first(rows)
        for gate, up, down in zip(self.gates, self.ups, self.downs, strict=True):
            stream = stream + down(self.silu(gate(stream)) * up(stream))
        return self.head(stream)
