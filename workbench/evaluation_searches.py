"""Searches that ``workbench evaluate`` replays, by the cost model and by what learned."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sim
from sim.evaluation.baselines.own import CostModelAsItIs
from sim.evaluation.predictor import Predicted
from sim.evaluation.score import MIN_ROWS
from sim.measured import MeasuredTable

if TYPE_CHECKING:
    from tuning.searched import Searched

__all__ = ["replay_searches", "shares_of"]

#: Searches a table and strategy: so many, or fewer where there are many tables.
SEARCH_SEEDS, SEARCH_WALKS = 10, 320


def replay_searches(
    own: CostModelAsItIs,
    judged: Sequence[MeasuredTable],
    told: Mapping[str, Sequence[tuple[MeasuredTable, Predicted | None]]],
    gpu: sim.Gpu,
) -> "list[Searched]":
    """Searches by the cost model as it is, and by what learned on other shapes."""
    from tuning.plan import Strategy
    from tuning.searched import searched

    pairs = {own.name: [(table, own.predict(table.blinded(), gpu)) for table in judged], **told}
    found = []
    for name, answers in pairs.items():
        known = [(t, a) for t, a in answers if a is not None and len(t) >= MIN_ROWS]
        if known:
            found += searched(
                [table for table, _ in known],
                [answer for _, answer in known],
                [Strategy.HYBRID, Strategy.TPE] if name == own.name else [Strategy.HYBRID],
                predictor=name,
                seeds=max(1, min(SEARCH_SEEDS, SEARCH_WALKS // len(known))),
            )
    return found


def shares_of(searches: "Sequence[Searched]", predictor: str) -> dict[str, float]:
    """What the default search reaches by a predictor, by measurements."""
    return {
        f"{one.strategy.value}{count}": share
        for one in searches
        if one.predictor == predictor
        for count, share in one.shares.items()
    }
