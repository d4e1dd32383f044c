"""The cost model's best, in its order."""

from typing import ClassVar

from tuning.plan import Strategy
from tuning.strategies.base import History, SearchStrategy

__all__ = ["ModelStrategy"]


class ModelStrategy(SearchStrategy):
    """The model's top K, then stop; K is the budget."""

    name: ClassVar[Strategy] = Strategy.MODEL
    seeded: ClassVar[bool] = False

    def search(self, history: History, count: int) -> list[int]:
        """The best predicted rows that are left."""
        return [int(row) for row in self.legal.ranked(history.untried)[:count]]
