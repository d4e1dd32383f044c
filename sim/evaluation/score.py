"""Every number that a predictor is judged by, over a set of tables."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.evaluation.choice import expected_fraction, pruning_recall
from sim.evaluation.coverage import coverage
from sim.evaluation.errors import time_errors
from sim.evaluation.predictor import Kind, Predicted
from sim.evaluation.ranks import kendall, spearman
from sim.evaluation.speedup import speedup_error, speedups
from sim.measured import MeasuredTable

__all__ = ["DROPPED", "MIN_ROWS", "TOP", "Score", "score"]

F64 = NDArray[np.float64]

#: Configurations tried of those predicted fastest.
TOP = (1, 4, 8)
#: Shares of the configurations that are dropped unmeasured.
DROPPED = (0.5, 0.8, 0.9)
#: A smaller table leaves no room to choose or to rank; its times count all the same.
MIN_ROWS = 16
#: Share of the measured times that intervals are asked to hold.
COVERED = 0.90


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One predictor on one set of tables; shares, so 0.1 is 10 %.  None where it does not apply.

    Orders, choices and pruning are judged within a table (one problem, one family), of those with
    at least :data:`MIN_ROWS` rows; errors and coverage over all rows.
    """

    tables: int  #: that it had an answer for
    of_tables: int
    rows: int
    mape: float | None = None
    median_error: float | None = None
    p90_error: float | None = None
    bias: float | None = None  #: geometric mean of predicted / measured, less 1
    spearman: float | None = None  #: median over tables
    spearman_p10: float | None = None  #: a tenth of the tables are worse
    kendall: float | None = None
    kendall_p10: float | None = None
    top1: float | None = None  #: share of the optimum, geometric mean over tables
    top1_worst: float | None = None
    top4: float | None = None
    top4_worst: float | None = None
    top8: float | None = None
    top8_worst: float | None = None
    recall50: float | None = None  #: share of the tables that keep a winner when half is dropped
    recall80: float | None = None
    recall90: float | None = None
    coverage: float | None = None  #: of the 90 % interval
    coverage_low: float | None = None
    coverage_high: float | None = None
    width: float | None = None  #: upper over lower end, geometric mean
    speedup_error: float | None = None  #: over bf16
    speedup_sign: float | None = None
    speedups: int = 0  #: pairs of a format and bf16 at one shape

    @property
    def coverage_gap(self) -> float | None:
        """How far the bootstrap interval of the coverage stays from 90 %; 0 where it holds it."""
        if self.coverage_low is None or self.coverage_high is None:
            return None
        return max(0.0, self.coverage_low - COVERED, COVERED - self.coverage_high)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, numbers to six digits: what follows depends on the machine."""
        return {
            name: float(f"{value:.6g}") if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Score":
        """Inverse of :meth:`to_dict`."""
        return cls(**data)


def score(
    tables: Sequence[MeasuredTable],
    answers: Sequence[Predicted | None],
    kind: Kind,
    *,
    seed: int = 0,
) -> Score:
    """Judge answers by the measured times.

    Args:
        tables: what was measured.
        answers: one a table; None where there is none.
        kind: of the predictor; scores of an ORDER are never taken for times.
        seed: of the bootstrap.
    """
    pairs = [(t, a) for t, a in zip(tables, answers, strict=True) if a is not None]
    found: dict[str, Any] = {
        "tables": len(pairs),
        "of_tables": len(tables),
        "rows": sum(len(table) for table, _ in pairs),
    }
    if pairs and kind is not Kind.ORDER:
        found |= _of_times(pairs, seed)
    chosen = [(a.time_us, t.time_us) for t, a in pairs if len(t) >= MIN_ROWS]
    if chosen:
        found |= _of_orders(chosen)
    return Score(**found)


def _of_times(pairs: Sequence[tuple[MeasuredTable, Predicted]], seed: int) -> dict[str, Any]:
    measured = np.concatenate([table.time_us for table, _ in pairs])
    told = np.concatenate([answer.time_us for _, answer in pairs])
    errors = time_errors(told, measured)
    pairs_of_formats = speedups([t for t, _ in pairs], [a.time_us for _, a in pairs])
    error, sign = speedup_error(pairs_of_formats)
    found: dict[str, Any] = {
        "mape": errors.mape,
        "median_error": errors.median,
        "p90_error": errors.p90,
        "bias": errors.bias,
        "speedup_error": error,
        "speedup_sign": sign,
        "speedups": len(pairs_of_formats),
    }
    bounded = [(t, a.low_us, a.high_us) for t, a in pairs]
    lows = [low for _, low, _ in bounded if low is not None]
    highs = [high for _, _, high in bounded if high is not None]
    if len(lows) == len(highs) == len(pairs):
        shapes = [(t.problem.kind, t.problem.shape) for t, _ in pairs for _ in range(len(t))]
        held = coverage(np.concatenate(lows), np.concatenate(highs), measured, shapes, seed=seed)
        found |= {
            "coverage": held.share,
            "coverage_low": held.low,
            "coverage_high": held.high,
            "width": held.width,
        }
    return found


def _of_orders(chosen: Sequence[tuple[F64, F64]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, correlation in (("spearman", spearman), ("kendall", kendall)):
        values = [correlation(told, measured) for told, measured in chosen]
        found[name] = float(np.median(values))
        found[f"{name}_p10"] = float(np.percentile(values, 10))
    for count in TOP:
        shares = [expected_fraction(told, measured, count) for told, measured in chosen]
        found[f"top{count}"] = float(np.exp(np.log(shares).mean()))
        found[f"top{count}_worst"] = float(min(shares))
    for dropped in DROPPED:
        kept = [pruning_recall(told, measured, dropped) for told, measured in chosen]
        found[f"recall{round(100 * dropped)}"] = float(np.mean(kept))
    return found
