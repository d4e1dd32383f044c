"""The predicted speed-up of a format over bf16, where both were measured at one shape."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.measured import MeasuredTable
from tiles.problems import Gemm, Problem

__all__ = ["Speedup", "speedup_error", "speedups", "twin_text"]

F64 = NDArray[np.float64]

BASELINE = "bf16"
#: Formats whose measured times are nearer than this to bf16's are on neither side of it.
UNDECIDED = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """Best bf16 time over a format's best at one shape; times over all families measured."""

    problem: Problem
    cold: bool
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """|predicted / measured - 1|."""
        return abs(self.predicted / self.measured - 1)


def twin_text(problem: Problem) -> str | None:
    """The text of the bf16 problem that a problem is compared with; None where it has no recipe.

    The same shape and layout, and bf16 in place of codes as output.
    """
    recipe = getattr(problem, "recipe", None)
    if recipe is None:
        return None
    fields = [BASELINE if field == recipe.name else field for field in problem.formats]
    if isinstance(problem, Gemm):
        fields[-1] = problem.baseline_out
    return ":".join([problem.kind, "x".join(map(str, problem.shape)), *fields])


def speedups(tables: Sequence[MeasuredTable], predicted: Sequence[F64]) -> list[Speedup]:
    """Every problem that is not bf16's and whose bf16 twin was measured too.

    The measured speed-up is that of the fastest configurations measured, the predicted one that of
    the fastest predicted among the same configurations: what is told about a format before any
    measurement.

    Args:
        predicted: (rows,) times for each table.
    """
    best: dict[tuple[str, bool], tuple[float, float]] = {}
    problems: dict[tuple[str, bool], Problem] = {}
    for table, times in zip(tables, predicted, strict=True):
        key = (str(table.problem), table.cold)
        before = best.get(key, (np.inf, np.inf))
        best[key] = (min(before[0], float(table.time_us.min())), min(before[1], float(times.min())))
        problems[key] = table.problem
    found = []
    for (text, cold), (measured, told) in best.items():
        twin = twin_text(problems[text, cold])
        if twin is None or twin == text or (twin, cold) not in best:
            continue
        baseline = best[twin, cold]
        found.append(
            Speedup(
                problem=problems[text, cold],
                cold=cold,
                measured=baseline[0] / measured,
                predicted=baseline[1] / told,
            )
        )
    return found


def speedup_error(found: Sequence[Speedup]) -> tuple[float | None, float | None]:
    """Mean error, and how often it is told rightly whether the format is faster at all.

    Formats within :data:`UNDECIDED` of bf16 are not asked the second question.

    Returns:
        Two shares; None where there is nothing to tell.
    """
    if not found:
        return None, None
    decided = [one for one in found if abs(np.log(one.measured)) > np.log1p(UNDECIDED)]
    right = [(one.measured > 1) == (one.predicted > 1) for one in decided]
    return (
        float(np.mean([one.error for one in found])),
        float(np.mean(right)) if right else None,
    )
