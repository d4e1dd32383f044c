"""Uniformly among the legal configurations: what every other strategy has to beat."""

from typing import ClassVar

import numpy as np

from tuning.plan import Strategy
from tuning.strategies.base import History, SearchStrategy

__all__ = ["RandomStrategy"]


class RandomStrategy(SearchStrategy):
    """Untried rows in random order."""

    name: ClassVar[Strategy] = Strategy.RANDOM

    def search(self, history: History, count: int) -> list[int]:
        """Random untried rows; a longer answer begins with the shorter one."""
        left = np.flatnonzero(history.untried)
        return [int(row) for row in self.rng(history).permutation(left)[:count]]
