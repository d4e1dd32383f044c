"""An ordinary model of torch's own layers, and what it is fed."""

import torch
from torch import nn

__all__ = ["IDS", "Tied", "model"]


class Tied(nn.Module):
    """An ordinary model with a tied head and operators that no recipe knows."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(48, 32)
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 64)
        self.act = nn.GELU()
        self.drop = nn.Dropout(0.1)
        self.down = nn.Linear(64, 32)
        self.tanh = nn.Tanh()
        self.odd = nn.Linear(32, 10)
        self.head = nn.Linear(32, 48, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        x = x + self.drop(self.down(self.act(self.up(self.norm(x)))))
        return self.head(self.tanh(x)) + self.odd(x).mean()  # type: ignore[no-any-return]


def model() -> Tied:
    torch.manual_seed(0)
    return Tied()


IDS = torch.arange(40).view(2, 20) % 48
