"""Tiny models and what the tests of post-training quantisation share."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat, decode, encode
from workbench.ptq import MatMul

__all__ = [
    "Convolutional",
    "Encoder",
    "Functional",
    "assert_close",
    "normal",
    "rounded_by_numpy",
    "tokens",
]


def assert_close(
    found: torch.Tensor, expected: torch.Tensor, *, rtol: float = 1e-5, atol: float = 1e-5
) -> None:
    """As ``torch.testing.assert_close``, which loads a second's worth of torch."""
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    over = (found - expected).abs() - (atol + rtol * expected.abs())
    assert float(over.max()) <= 0, f"off by {float((found - expected).abs().max())}"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 20, shape, generator=torch.Generator().manual_seed(seed))


def rounded_by_numpy(x: torch.Tensor, fmt: str, scale: float | None = None) -> torch.Tensor:
    """The slow twin of an operand: the NumPy codec under one scale, ``amax / max`` by default."""
    element = TensorFormat.parse(fmt).element
    values = x.numpy().astype(np.float32)
    if scale is None:
        scale = float(np.abs(values).max() / np.float32(element.max))
    ratio = (values / np.float32(scale)).astype(np.float32)
    return torch.from_numpy(decode(encode(ratio, element), element) * np.float32(scale))


class Encoder(nn.Module):
    """Embedding, torch's own transformer layer, a named product, a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.product = MatMul()
        self.head = nn.Linear(16, 5)
        self.eval()

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.embedding(ids))
        x = x + self.product(x.softmax(dim=-1), torch.eye(16, dtype=x.dtype) * 0.5)
        return self.head(x.mean(dim=1))


class Convolutional(nn.Module):
    """Two convolutions with batch normalisation, and a head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2, groups=2, bias=False)
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 2.0)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        return self.head(self.middle(self.second(x).mean(dim=(2, 3))))


class Functional(nn.Module):
    """Operators that are no modules, each once."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 8) * 0.3)
        self.turned = nn.Parameter(torch.randn(6, 6) * 0.3)
        self.kernel = nn.Parameter(torch.randn(4, 3, 3) * 0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight)  # (2, 3, 6)
        y = torch.addmm(torch.ones(6), y.reshape(-1, 6), self.turned).view(2, 3, 6)
        z = torch.bmm(y, y.transpose(1, 2))  # (2, 3, 3)
        z = z @ F.conv1d(x, self.kernel, padding=1)[:, :3]  # (2, 3, 8)
        z = F.layer_norm(z, (8,))
        z *= x
        return z + x
