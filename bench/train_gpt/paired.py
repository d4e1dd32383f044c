"""Losses of a recipe beside those of a baseline, seed by seed."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from bench.train_gpt.outcome import Outcome, Status

__all__ = ["CRITERION", "Comparison", "Verdict", "compare"]

#: Relative loss that counts as none.
CRITERION = 0.005
CONFIDENCE = 0.95


class Verdict(Enum):
    """Whether a recipe's loss lies within the criterion of its baseline's, in the mean of pairs."""

    WITHIN = "within"
    OUTSIDE = "outside"
    DIVERGED = "diverged"  #: one of its runs has: it is outside, whatever the others reach
    OPEN = "open"  #: no pair has finished, or a run is still to be finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A recipe against a baseline."""

    recipe: str
    baseline: str
    seeds: tuple[int, ...]  #: of the pairs that finished
    differences: tuple[float, ...]  #: (loss - baseline's) / baseline's, by seed
    mean: float | None
    standard_error: float | None  #: of the mean; nothing of one pair
    interval: tuple[float, float] | None  #: 95 %, by Student's t
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"verdict": self.verdict.value}


def compare(
    outcomes: Sequence[Outcome], recipe: str, baseline: str, criterion: float = CRITERION
) -> Comparison:
    """Pair the runs of two recipes by their seeds.

    Both signs count: a loss lower by more than the criterion is outside, too, and is seen as such.
    """
    own, other = (
        {one.seed: one for one in outcomes if one.recipe == name} for name in (recipe, baseline)
    )
    differences: dict[int, float] = {}
    for seed in sorted(own.keys() & other.keys()):
        loss, base = own[seed].loss, other[seed].loss
        if loss is not None and base is not None and base > 0:
            differences[seed] = (loss - base) / base
    values = list(differences.values())
    mean = statistics.fmean(values) if values else None
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    interval = None
    if mean is not None and error is not None:
        margin = _quantile(len(values) - 1) * error
        interval = (mean - margin, mean + margin)
    runs = [*own.values(), *other.values()]
    if any(one.status is Status.DIVERGED for one in runs):
        verdict = Verdict.DIVERGED
    elif mean is None or any(one.status is not Status.FINISHED for one in runs):
        verdict = Verdict.OPEN
    else:
        verdict = Verdict.WITHIN if abs(mean) <= criterion else Verdict.OUTSIDE
    return Comparison(
        recipe=recipe,
        baseline=baseline,
        seeds=tuple(differences),
        differences=tuple(values),
        mean=mean,
        standard_error=error,
        interval=interval,
        verdict=verdict,
    )


def _quantile(freedom: int) -> float:
    from scipy.stats import t  # type: ignore[import-untyped]  # it has no types

    return float(t.ppf(0.5 + CONFIDENCE / 2, freedom))
