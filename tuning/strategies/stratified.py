"""Configurations unlike one another, over the whole range of predicted times: for calibration.

The fastest of a space say little about drains, spills and exposed latencies; random ones repeat
the commonest tiles.  Candidates are dealt into bins of predicted time, fast ones first, since those
are what a search chooses among; within a bin the one furthest from all rows before is taken.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tuning.plan import Strategy
from tuning.strategies.base import History, SearchStrategy

__all__ = ["StratifiedStrategy"]

#: Ends of the bins, as shares of the ranking: a half of the rows come from the faster fifth.
BINS = (0.0, 0.02, 0.2, 0.6, 1.0)
#: Candidates of a bin that are looked at.
MOST = 200


class StratifiedStrategy(SearchStrategy):
    """Bins of predicted time in turn, from one that the seed names; of each the unlikest row."""

    name: ClassVar[Strategy] = Strategy.STRATIFIED

    def choose_openers(self) -> list[int]:
        """All rows of the budget: no outcome changes the choice, so compilers begin with them."""
        return self.search(History(len(self.legal)), self.budget)

    def search(self, history: History, count: int) -> list[int]:
        """The next rows; a longer answer begins with the shorter one."""
        taken = list(history.rows)
        left = history.untried.copy()
        chosen: list[int] = []
        while len(chosen) < count:
            row = self._next(taken, left)
            chosen.append(row)
            taken.append(row)
            left[row] = False
        return chosen

    def _next(self, taken: list[int], left: NDArray[np.bool_]) -> int:
        ranking = self.legal.ranking
        rng = np.random.default_rng([self.seed, len(taken)])
        ends = [round(share * len(ranking)) for share in BINS]
        turn = (len(taken) + self.seed) % (len(BINS) - 1)
        rows = ranking[ends[turn] : max(ends[turn + 1], ends[turn] + 1)]
        rows = rows[left[rows]]
        if not len(rows):
            rows = np.flatnonzero(left)
        rows = rng.permutation(rows)[:MOST]
        if not taken:
            return int(rows[0])
        points = self.legal.points
        apart = ((points[rows][:, None, :] - points[taken][None, :, :]) ** 2).sum(axis=2)
        return int(rows[np.argmax(apart.min(axis=1))])
