"""A search strategy as an optuna sampler: proposals that are always legal and always new."""

from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from tuning.strategies import History, Proposals, SearchStrategy

__all__ = ["LegalSampler"]


class LegalSampler(BaseSampler):
    """Answers optuna with the rows of a strategy; a trial's parameters are the row's values.

    Args:
        strategy: who chooses.
        look: gives the history as a trial sees it, and how many trials begun before it have no
            row yet (see :meth:`Proposals.next`).
        batch: rows drawn at a time, so that compilers can work ahead of the GPU.
        announce: called with every batch of more than one row before its first is returned.
    """

    def __init__(
        self,
        strategy: SearchStrategy,
        look: Callable[[FrozenTrial], tuple[History, int]],
        *,
        batch: int = 1,
        announce: Callable[[list[int]], None] | None = None,
    ) -> None:
        self._legal = strategy.legal
        self._look = look
        self._proposals = Proposals(strategy, batch)
        self._announce = announce

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter that has a choice, whatever earlier trials hold."""
        return self._legal.varied

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """An untried legal configuration."""
        if "fixed_params" in trial.system_attrs:
            return {}
        history, ahead = self._look(trial)
        row = self._proposals.next(history, ahead)
        if self._announce is not None and len(self._proposals.fresh) > 1:
            self._announce(self._proposals.fresh)
        params = self._legal.params(row)
        return {name: params[name] for name in search_space}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Never: parameters are sampled together or they are fixed."""
        raise AssertionError(f"{param_name} was sampled apart from its configuration")
