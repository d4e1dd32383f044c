"""Times of the tried configurations over a range of M: told by trials, or by the model between.

Studies searched some M, each with its own configurations.  What a configuration takes at an M where
it was not tried comes from the cost model, scaled by how far it was off for the same configuration
at the nearest M where it was (in log space, between two of them along a line).  The two never share
a column: a table has the told times, with gaps, beside the modelled ones.

What runs at one M runs at every other that its family serves: N and K decide what is legal, and
rules that look at M spare the search what cannot win there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, TileConfig, kernel
from tiles.problems import GroupedGemm, Problem
from tuning.candidates import pricing
from tuning.records import StudyRecord

if TYPE_CHECKING:
    from sim import Gpu

__all__ = ["RowTimes", "row_times", "rows_between"]

F64 = NDArray[np.float64]

#: M that are looked at between tuned ones: so many for each doubling.
ROWS_AN_OCTAVE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTimes:
    """A table of (candidates, rows); a candidate is a family's configuration."""

    rows: tuple[int, ...]  #: M, ascending: the tuned ones and some between them
    tuned: tuple[int, ...]  #: of these the ones that a study searched
    candidates: tuple[tuple[str, TileConfig], ...]  #: (kernel family, configuration)
    #: Times of correct trials, as of one rule (:attr:`tuning.TrialRecord.outpaced`); infinite
    #: where a trial failed, NaN where there was none.
    told_us: F64
    #: Modelled times, scaled to the told ones; infinite where the family does not serve so many.
    modelled_us: F64
    simulated: bool  #: told by the model too: no time of the table was measured

    @property
    def times_us(self) -> F64:
        """Told times, and modelled ones in the gaps.

        At a tuned M nothing that was not tried counts as faster than the winner of the search.
        """
        tried = ~np.isnan(self.told_us)
        winners = np.where(np.isfinite(self.told_us), self.told_us, np.inf).min(axis=0)
        beside = np.where(np.isfinite(winners), np.maximum(self.modelled_us, winners), np.inf)
        tuned = np.isin(self.rows, self.tuned)
        times: F64 = np.where(tried, self.told_us, np.where(tuned, beside, self.modelled_us))
        return times

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Where a trial of a candidate was correct."""
        found: NDArray[np.bool_] = np.isfinite(self.told_us)
        return found


def row_times(
    studies: Sequence[StudyRecord], gpu: "Gpu", rows: Sequence[int] | None = None
) -> RowTimes:
    """Collect the table of studies that differ in M, and in their kernel family, alone.

    Args:
        studies: at least one of them with a correct trial.
        gpu: that they were searched for.
        rows: M to look at, ascending, those of the studies among them; default:
            :func:`rows_between`.
    """
    tuned = sorted({one.problem.tokens for one in studies if one.best is not None})
    first = studies[0].problem
    if rows is None:
        rows = rows_between(tuned, first.top_k if isinstance(first, GroupedGemm) else 1)
    rows = tuple(m for m in rows if m in tuned or _exists(first, m))
    candidates = list(
        dict.fromkeys(
            (one.kernel, trial.config)
            for one in studies
            for trial in one.trials
            if trial.measurement.time_us is not None and not trial.stale
        )
    )
    told = np.full((len(candidates), len(rows)), np.nan)
    place = {candidate: index for index, candidate in enumerate(candidates)}
    for one in studies:
        if one.problem.tokens not in rows:
            continue  # nothing was correct there
        at = rows.index(one.problem.tokens)
        for trial in one.trials:
            index = place.get((one.kernel, trial.config))
            if index is not None and not trial.stale:
                time = trial.measurement.time_us
                time = np.inf if time is None else trial.beside_turns(time)
                told[index, at] = np.fmin(told[index, at], time)
    priced = _priced(first, candidates, rows, gpu)
    return RowTimes(
        rows=rows,
        tuned=tuple(tuned),
        candidates=tuple(candidates),
        told_us=told,
        modelled_us=_scaled(priced, told, rows),
        simulated=all(one.simulated for one in studies),
    )


def rows_between(tuned: Sequence[int], multiple: int = 1) -> tuple[int, ...]:
    """The tuned M and, between the first and the last of them, some of each octave.

    Args:
        tuned: ascending, multiples of ``multiple``.
        multiple: what M must be a multiple of.
    """
    low, high = tuned[0], tuned[-1]
    steps = int(np.ceil(np.log2(high / low) * ROWS_AN_OCTAVE))
    between = multiple * np.rint(np.geomspace(low, high, steps + 1) / multiple).astype(int)
    return tuple(sorted({*tuned, *map(int, between)}))


def _exists(problem: Problem, m: int) -> bool:
    """Whether a problem has so many rows: gathered rows come in multiples of what a token takes."""
    try:
        problem.with_tokens(m)
    except ValueError:
        return False
    return True


def _priced(
    problem: Problem,
    candidates: Sequence[tuple[str, TileConfig]],
    rows: Sequence[int],
    gpu: "Gpu",
) -> F64:
    """What the model says; infinite where the family does not serve so many rows."""
    times = np.full((len(candidates), len(rows)), np.inf)
    for name in dict.fromkeys(name for name, _ in candidates):
        family = kernel(name)
        own = [index for index, (owner, _) in enumerate(candidates) if owner == name]
        table = ConfigTable.of([candidates[index][1] for index in own])
        for at, m in enumerate(rows):
            resized = problem.with_tokens(m)
            if family.refusal(resized, gpu.limits) is not None:
                continue
            times[own, at] = pricing(resized, family)(resized, family, table, gpu).time_us
    return times


def _scaled(priced: F64, told: F64, rows: Sequence[int]) -> F64:
    """The model's times, scaled by what it was off for each candidate where that was tried."""
    scaled = priced.copy()
    log_rows = np.log(np.asarray(rows, dtype=float))
    for index in range(len(priced)):
        known = np.isfinite(told[index]) & np.isfinite(priced[index])
        if known.any():
            off = np.log(told[index, known] / priced[index, known])
            scaled[index] *= np.exp(np.interp(log_rows, log_rows[known], off))
    return scaled
