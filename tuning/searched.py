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
from tuning.strategies import STRATEGIES, LegalTable, Outcome

__all__ = ["Searched", "searched"]

#: Measurements that a search is given: it may open otherwise with more of them.
COUNTS = (1, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One strategy over all tables."""

    strategy: Strategy
    predictor: str  #: whose predictions it follows
    tables: int
    seeds: int  #: searches a table
    shares: dict[
        int, float
    ]  #: by measurements given: share of the optimum, geometric mean over all
    worst: dict[int, float]  #: the same of the table that fares worst, over its seeds


def searched(
    tables: Sequence[MeasuredTable],
    answers: Sequence[Predicted],
    strategies: Sequence[Strategy],
    *,
    predictor: str,
    seeds: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> list[Searched]:
    """Let the sweep's own strategies search tables by the times that were measured.

    A table stands for the space that it is a sample of.  The strategies draw one configuration at
    a time, in a search of its own for each of :data:`COUNTS`, and stop where they see fit.

    Args:
        answers: what ``predictor`` tells about each table, with intervals.
        seeds: searches a table, of a strategy that has any.
        progress: told how many searches are done, of how many.

    Raises:
        ValueError: an answer has no interval.
    """
    spaces = [_space(table, answer) for table, answer in zip(tables, answers, strict=True)]
    found = []
    walks_of = {one: seeds if STRATEGIES[one].seeded else 1 for one in strategies}
    done, total = 0, len(spaces) * sum(walks_of.values())
    with quiet_optuna():
        for strategy in strategies:
            logs = np.empty((len(spaces), walks_of[strategy], len(COUNTS)))
            for index, space in enumerate(spaces):
                for seed in range(walks_of[strategy]):
                    walks = (space.walk(strategy, seed, count, batch=1) for count in COUNTS)
                    reached = [walk.fractions[-1] for walk in walks]
                    logs[index, seed] = np.log(reached)
                    done += 1
                    progress(done, total)
            means = np.exp(logs.mean(axis=1))
            found.append(
                Searched(
                    strategy=strategy,
                    predictor=predictor,
                    tables=len(spaces),
                    seeds=walks_of[strategy],
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
