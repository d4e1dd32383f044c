"""How far predictions of measured configurations are off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from workbench.reporting.site.studies import Timing

__all__ = ["FamilyError", "family_error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyError:
    """Errors of some configurations, relative in time.

    Distances are taken in log time, so that half and twice the time count alike.
    """

    configurations: int
    problems: int
    median: float  #: of max(measured / predicted, predicted / measured) - 1
    p90: float  #: the same at nine tenths
    bias: float  #: median of measured / predicted: above 1 slower than foretold
    inside: float  #: share within the 90 % interval


def family_error(timings: Sequence[Timing]) -> FamilyError:
    """The errors of at least one timing."""
    logs = sorted(abs(math.log(one.ratio)) for one in timings)
    inside = sum(t.predicted_low_us <= t.measured_us <= t.predicted_high_us for t in timings)
    return FamilyError(
        configurations=len(timings),
        problems=len({one.problem for one in timings}),
        median=math.expm1(_quantile(logs, 0.5)),
        p90=math.expm1(_quantile(logs, 0.9)),
        bias=_quantile(sorted(one.ratio for one in timings), 0.5),
        inside=inside / len(timings),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours, as numpy's default."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
