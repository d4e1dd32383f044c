"""Every legal configuration."""

from collections.abc import Sequence
from typing import ClassVar

from tuning.plan import Strategy
from tuning.strategies.legal_table import LegalTable
from tuning.strategies.model import ModelStrategy

__all__ = ["ExhaustiveStrategy"]


class ExhaustiveStrategy(ModelStrategy):
    """All rows, the model's best first, so that one cut short has measured what matters."""

    name: ClassVar[Strategy] = Strategy.EXHAUSTIVE

    def __init__(
        self,
        legal: LegalTable,
        *,
        seed: int,
        budget: int,
        neighbours: Sequence[int] = (),
        early_stop: bool = True,
    ) -> None:
        super().__init__(legal, seed=seed, budget=len(legal), early_stop=early_stop)
