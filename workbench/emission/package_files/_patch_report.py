"""What became of a model's linear layers."""

from dataclasses import dataclass
from typing import Any

SCHEMA = "tile-workbench/patch/1"


@dataclass(frozen=True)
class Replaced:
    """A layer that was replaced."""

    name: str
    out_features: int
    in_features: int
    tuned: bool  #: False where a conservative default runs


@dataclass(frozen=True)
class Left:
    """A layer that stays as it is."""

    name: str
    reason: str


@dataclass(frozen=True)
class PatchReport:
    """What :func:`patch` did."""

    recipe: str
    chosen: str  #: why this recipe
    replaced: tuple[Replaced, ...]
    left: tuple[Left, ...]
    bytes_before: int  #: of the replaced weights
    bytes_after: int  #: of their codes and scales

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping."""
        return {
            "schema": SCHEMA,
            "recipe": self.recipe,
            "chosen": self.chosen,
            "replaced": [vars(one) for one in self.replaced],
            "left": [vars(one) for one in self.left],
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
        }

    def __str__(self) -> str:
        saved = f"{self.bytes_before / 1e6:.1f} MB -> {self.bytes_after / 1e6:.1f} MB"
        lines = [f"{len(self.replaced)} layers replaced, {self.chosen}; their weights {saved}"]
        for one in self.replaced:
            tuned = "tuned" if one.tuned else "never tuned: a conservative default"
            lines.append(f"  {one.name}: {one.in_features} -> {one.out_features}, {tuned}")
        lines += [f"  {one.name}: left, {one.reason}" for one in self.left]
        return "\n".join(lines)
