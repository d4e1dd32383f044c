"""Workload coverage: the share of pairs that lose at most so much of their score."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from workbench.ptq.criterion import holds

__all__ = ["CRITERION", "Coverage"]

#: Largest relative loss of accuracy that passes. Source: arXiv 2309.14592.
CRITERION = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many pairs a recipe serves, and by how much it misses the others."""

    recipe: str
    scheme: str
    tuned: bool
    family: str  #: "" over all
    pairs: int  #: those that have no score among them
    passed: int
    unscored: tuple[str, ...]  #: refused or failed: counted as missed
    missed: tuple[str, ...]  #: scored, and lost more than the criterion
    mean_change: float | None  #: over what was scored
    worst_change: float | None

    @property
    def share(self) -> float:
        """Passed of all pairs; NaN without any."""
        return self.passed / self.pairs if self.pairs else math.nan

    @classmethod
    def of(
        cls,
        *,
        recipe: str,
        scheme: str,
        tuned: bool,
        family: str,
        changes: Mapping[str, float | None],
        criterion: float = CRITERION,
    ) -> "Coverage":
        """Count relative changes of scores by pair.

        Args:
            changes: by pair's name; ``None`` or NaN where there is none.  A gain passes, as the
                paper has it: only a loss is counted against a format.
        """
        scored = {n: c for n, c in changes.items() if c is not None and math.isfinite(c)}
        missed = tuple(name for name, change in scored.items() if not holds(-change, criterion))
        return cls(
            recipe=recipe,
            scheme=scheme,
            tuned=tuned,
            family=family,
            pairs=len(changes),
            passed=len(scored) - len(missed),
            unscored=tuple(name for name in changes if name not in scored),
            missed=missed,
            mean_change=sum(scored.values()) / len(scored) if scored else None,
            worst_change=min(scored.values(), default=None),
        )
