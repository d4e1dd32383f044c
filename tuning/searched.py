"""Searches replayed on measured tables: what share of the optimum a few measurements reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sim.evaluation.predictor import Predicted
from sim.measured import MeasuredTable
from tiles.kernels import Status
from tuning.plan import Strategy
from tuning.replay_space import ReplaySpace
from tuning.store import quiet_optuna
from tuning.strategies import LegalTable, Outcome

__all__ = ["Searched", "searched"]

#: Measurements after which a search is looked at.
COUNTS = (1, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One strategy over all tables."""

    strategy: Strategy
    tables: int
    seeds: int
    shares: dict[int, float]  #: by measurements: share of the optimum, geometric mean over all
    worst: dict[int, float]  #: the same of the table that fares worst, over its seeds


def searched(
    tables: Sequence[MeasuredTable],
    answers: Sequence[Predicted],
    strategies: Sequence[Strategy],
    *,
    seeds: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Searched]:
    """Let the sweep's own strategies search tables by the times that were measured.

    A table stands for the space that it is a sample of.  The strategies draw one configuration at
    a time and stop after the last of :data:`COUNTS`, or before where they see fit.

    Args:
        answers: what the cost model tells about each table, with intervals.
        seeds: searches a table.
        progress: told how many searches are done, of how many.

    Raises:
        ValueError: an answer has no interval.
    """
    spaces = [_space(table, answer) for table, answer in zip(tables, answers, strict=True)]
    found = []
    done, total = 0, len(strategies) * len(spaces) * seeds
    with quiet_optuna():
        for strategy in strategies:
            logs = np.empty((len(spaces), seeds, len(COUNTS)))
            for index, space in enumerate(spaces):
                for seed in range(seeds):
                    fractions = space.walk(strategy, seed, COUNTS[-1], batch=1).fractions
                    reached = [fractions[min(n, len(fractions)) - 1] for n in COUNTS]
                    logs[index, seed] = np.log(reached)
                    done += 1
                    progress(done, total)
            means = np.exp(logs.mean(axis=1))
            found.append(
                Searched(
                    strategy=strategy,
                    tables=len(spaces),
                    seeds=seeds,
                    shares=dict(zip(COUNTS, np.exp(logs.mean(axis=(0, 1))).tolist(), strict=True)),
                    worst=dict(zip(COUNTS, means.min(axis=0).tolist(), strict=True)),
                )
            )
    return found


def _space(table: MeasuredTable, answer: Predicted) -> ReplaySpace:
    if answer.low_us is None or answer.high_us is None:
        raise ValueError(f"{table}: a search needs predictions with intervals")
    return ReplaySpace(
        problem=table.problem,
        kernel=table.kernel.name,
        simulated=False,
        legal_size=len(table),
        legal=LegalTable(table.table, answer.time_us, answer.low_us, answer.high_us),
        outcomes=tuple(Outcome(Status.CORRECT, float(time)) for time in table.time_us),
    )
