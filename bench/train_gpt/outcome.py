"""How a run ended: a model under a recipe and a seed."""

import json
import math
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from tiles.intake import shown
from workbench.outfile import write_outfile

__all__ = ["SCHEMA", "Outcome", "Run", "Status", "read_outcome", "write_outcome"]

SCHEMA = "tile-workbench/train-gpt-run/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A recipe and a seed, which decides initial weights, batches and random bits."""

    recipe: str
    seed: int

    def __str__(self) -> str:
        return f"{self.recipe}-{self.seed}"


class Status(Enum):
    """How far a run came."""

    FINISHED = "finished"
    DIVERGED = "diverged"  #: gradients that stay infinite, or a loss above a uniform guess's
    REFUSED = "refused"  #: the layers refuse the recipe (ValueError)
    FAILED = "failed"  #: its process broke; tried again by the next command
    UNFINISHED = "unfinished"  #: out of time; the next command goes on

    @property
    def final(self) -> bool:
        """Whether the same command leaves it as it is."""
        return self in (Status.FINISHED, Status.DIVERGED, Status.REFUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    recipe: str
    seed: int
    status: Status
    reason: str = ""  #: of every status but finished
    steps: int = 0  #: taken or refused
    refused: int = 0  #: steps whose gradients were not finite
    loss: float | None = None  #: of the held-out text behind the last step, nats a token
    train_curve: list[list[float]] = field(default_factory=list)  #: step, mean loss up to it
    held_out_curve: list[list[float]] = field(default_factory=list)  #: step, loss
    seconds: float = 0.0  #: in steps, of all processes that it took
    steps_per_s: float | None = None  #: beside the other processes of its GPU
    backend: str = ""
    unserved: dict[str, str] = field(default_factory=dict)  #: what no kernel computed, and why
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def run(self) -> Run:
        """What it is of."""
        return Run(recipe=self.recipe, seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: a loss that is no number is null."""
        content = asdict(self) | {"status": self.status.value}
        for name in ("train_curve", "held_out_curve"):
            content[name] = [[step, _finite(loss)] for step, loss in content[name]]
        return content | {"loss": _finite(self.loss)}

    @classmethod
    def from_dict(cls, data: Any) -> "Outcome":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(**dict(data) | {"status": Status(data["status"])})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"no outcome of a run: {shown(data)}: {error}") from error


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write a file, whole or not at all."""
    content = {"schema": SCHEMA} | outcome.to_dict()
    write_outfile(path, json.dumps(content, indent=1) + "\n")


def read_outcome(path: Path) -> Outcome | None:
    """What stands in a file; nothing where there is none.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise ValueError(f"not a {SCHEMA}")
        return Outcome.from_dict(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: move it away") from error
