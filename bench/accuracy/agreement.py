"""How far a quantised model's outputs on a device lie from those of its codes on the CPU."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from bench.accuracy.task import Batch

__all__ = ["ROWS", "Agreement", "agreement"]

#: Samples whose outputs are compared: the CPU takes a second for them.
ROWS = 8


class Stored(Protocol):
    """A quantised model that can be written down, as ``workbench.ptq`` makes them."""

    @property
    def model(self) -> nn.Module:
        """On its device."""

    def save(self, path: Path) -> Any:
        """Write codes and scales into a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Norms of differences over the norm of the exact model's outputs."""

    apart: float  #: of the device's outputs and the CPU's, both of the same codes
    noise: float  #: of the CPU's and the exact model's: what quantising costs


@torch.no_grad()
def agreement(made: Stored, recipe: str, exact: nn.Module, batch: Batch, device: str) -> Agreement:
    """Compare outputs of a batch's first samples.

    Samples must not share scales: the device is given the whole batch, whose kernels are compiled.

    Args:
        exact: the unquantised model, on the CPU.
        batch: of inputs, on the CPU.
    """
    from workbench.ptq import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        made.save(path)
        twin = load(exact, path, recipe).model.eval()
    few = tuple(one[:ROWS] for one in batch)
    found = made.model(*(one.to(device) for one in batch)).double().cpu()[:ROWS]
    expected, plain = twin(*few).double(), exact.eval()(*few).double()
    size = float(plain.norm())
    return Agreement(
        apart=float((found - expected).norm()) / size,
        noise=float((expected - plain).norm()) / size,
    )
