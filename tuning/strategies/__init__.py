"""Search strategies behind one interface: what to measure next, and when to stop."""

from tuning.plan import Strategy
from tuning.strategies.base import History, Outcome, Proposals, SearchStrategy
from tuning.strategies.exhaustive import ExhaustiveStrategy
from tuning.strategies.hybrid import HybridStrategy
from tuning.strategies.legal_table import LegalTable
from tuning.strategies.model import ModelStrategy
from tuning.strategies.random import RandomStrategy
from tuning.strategies.stratified import StratifiedStrategy
from tuning.strategies.tpe import TpeStrategy

__all__ = ["STRATEGIES", "History", "LegalTable", "Outcome", "Proposals", "SearchStrategy"]

_ALL: tuple[type[SearchStrategy], ...] = (
    HybridStrategy,
    ModelStrategy,
    TpeStrategy,
    RandomStrategy,
    StratifiedStrategy,
    ExhaustiveStrategy,
)
#: Every strategy by its name in a plan.
STRATEGIES: dict[Strategy, type[SearchStrategy]] = {one.name: one for one in _ALL}
