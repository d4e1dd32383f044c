"""The model's best first, then the model set right by what was measured, until that is settled."""

import math
from typing import ClassVar

from tuning.plan import Strategy
from tuning.stopping import improvement_chance
from tuning.strategies.base import History, SearchStrategy
from tuning.strategies.correction import Correction
from tuning.strategies.legal_table import diverse_best

__all__ = ["HybridStrategy"]

#: Of the budget, the share that is decided before anything is measured.
OPENING_SHARE = 0.5
#: Of those, at most this share goes to winners of neighbouring problems.
NEIGHBOUR_SHARE = 0.5
#: Correct measurements before the stopping rule is asked.
ENOUGH = 8
#: The search stops when an improvement by 1 % is less likely than this.
UNLIKELY = 0.05


class HybridStrategy(SearchStrategy):
    """The default.

    It opens with the winners of neighbouring problems and with the model's best, half of them
    unlike the rest.  Then those follow that are expected to save most by the model and its errors
    so far.  It stops when an improvement by 1 % anywhere is unlikely.
    """

    name: ClassVar[Strategy] = Strategy.HYBRID
    seeded: ClassVar[bool] = False

    def choose_openers(self) -> list[int]:
        """Neighbours' winners, nearest first, then the model's best."""
        count = math.ceil(OPENING_SHARE * self.budget)
        winners = list(self.neighbours[: math.ceil(NEIGHBOUR_SHARE * count)])
        best = diverse_best(self.legal.table, self.legal.ranking, count)
        return list(dict.fromkeys(winners + best))[:count]

    def search(self, history: History, count: int) -> list[int]:
        """By expected improvement; before any outcome the model's best."""
        if not history.finished:
            ranking = self.legal.ranking
            return [int(row) for row in ranking[history.untried[ranking]][:count]]
        return Correction(self.legal, history.told).choose(history.untried, count)

    def satisfied(self, history: History) -> str:
        """The stopping rule: the chance that something unmeasured is more than 1 % better."""
        rows, values = history.correct()
        if len(rows) < ENOUGH:
            return ""
        legal = self.legal
        chance = improvement_chance(
            legal.predicted, legal.low, legal.high, history.untried, rows, values
        )
        if chance < UNLIKELY:
            return f"an improvement by 1 % has a chance of {chance:.3f}"
        return ""
