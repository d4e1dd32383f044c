"""A pair of a model and a task: what a quantiser is given, how it is judged, what it is made of."""

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from workbench.ptq.task import Task

__all__ = ["Batch", "Card", "Pair", "Tokens", "device_of", "parameters_of"]

#: Positional arguments of a model.
Batch = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Tokens of the texts on one side of a task, after truncation."""

    texts: int
    mean: float
    longest: int
    truncated: int  #: texts that were longer than the limit
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a pair is made of, counted on the data itself."""

    name: str
    family: str  #: "encoder", "text", "vision" or "table"
    architecture: str
    metric: str
    parameters: int
    samples: int  #: that the score is a mean over
    calibration_samples: int
    source: str  #: where the data comes from: packages with their versions
    digest: str  #: SHA-256 of the data, first 16 digits
    counted: bool = False  #: the score counts samples, so one of them moves it by 1 / samples
    chance: float | None = None  #: score of guessing, where it is known
    tokens: dict[str, Tokens] = field(default_factory=dict)

    @property
    def resolution(self) -> float | None:
        """What one sample moves the score by; ``None`` where the score is continuous."""
        return 1 / self.samples if self.counted else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"resolution": self.resolution}


class Pair(Task, Protocol):
    """A task that says what it is made of."""

    @property
    def family(self) -> str:
        """ "encoder", "text", "vision" or "table"."""

    def card(self) -> Card:
        """Sizes, source and digest; reads the data and trains nothing."""

    def digest(self) -> str:
        """Of data and code that decide the score; another digest makes a stored score stale."""


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first parameter or buffer lies; the CPU where it has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def parameters_of(model: nn.Module) -> int:
    """Numbers that training set; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())
