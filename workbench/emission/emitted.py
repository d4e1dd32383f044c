"""What a target answers with, and what it has to have."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tuning import Run

__all__ = ["Emitted", "EmittedFiles", "Writer"]


class Emitted(Protocol):
    """What a target has written."""

    def lines(self) -> list[str]:
        """What a person is told."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, with a schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmittedFiles:
    """Files without more to say about them."""

    target: str
    files: tuple[Path, ...]

    def lines(self) -> list[str]:
        """A path a line."""
        return [str(path) for path in self.files]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": "tile-workbench/emitted-files/1",
            "target": self.target,
            "files": [str(path) for path in self.files],
        }


class Writer(Protocol):
    """What a target's ``home`` names."""

    def write(self, run: "Run", output: Path, **options: Any) -> Emitted | Sequence[Path]:
        """Write what ships of a run to ``output``, all or nothing."""
