"""Optuna's TPE on an enumerated space: its proposals are snapped to legal, untried rows."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from tuning.plan import Strategy
from tuning.strategies.base import History, Outcome, SearchStrategy
from tuning.strategies.legal_table import LegalTable

__all__ = ["TpeStrategy"]

#: TPE learns from the latest outcomes, this many to twice as many, and the fastest before them:
#: its proposals cost time in proportion.
LATEST, FASTEST = 1000, 100
#: Outcomes before TPE models anything; until then rows are drawn at random.
STARTUP_TRIALS = 10


class TpeStrategy(SearchStrategy):
    """TPE alone: it does not look at predicted times."""

    name: ClassVar[Strategy] = Strategy.TPE

    def __init__(
        self,
        legal: LegalTable,
        *,
        seed: int,
        budget: int,
        neighbours: Sequence[int] = (),
        early_stop: bool = True,
    ) -> None:
        super().__init__(
            legal, seed=seed, budget=budget, neighbours=neighbours, early_stop=early_stop
        )
        # TPE walks over the places of a field's values: they are few, where the values themselves
        # span a range that costs it ten times the time.
        self._values = {name: np.unique(legal.table[name]) for name in legal.varied}
        self._places = {
            name: np.searchsorted(values, legal.table[name])
            for name, values in self._values.items()
        }
        self._axes: dict[str, BaseDistribution] = {
            name: IntDistribution(0, len(values) - 1) for name, values in self._values.items()
        }
        self._told: list[tuple[int, Outcome]] = []
        self._mirror = optuna.storages.InMemoryStorage()

    def search(self, history: History, count: int) -> list[int]:
        """TPE's proposals, each moved to the nearest row that is legal and left."""
        rng = self.rng(history)
        left = history.untried.copy()
        told = _learnt(history.told)
        modelled = len(told) >= STARTUP_TRIALS and bool(self.legal.varied)
        if modelled:
            begun = create_trial(state=TrialState.RUNNING)
            sampler = TPESampler(
                seed=int(rng.integers(2**32)),
                multivariate=True,
                n_startup_trials=STARTUP_TRIALS,
                constant_liar=False,  # rows are de-duplicated here
            )
            study = self._study(told, sampler)
        rows: list[int] = []
        for _ in range(count):
            if modelled:
                places = sampler.sample_relative(study, begun, self._axes)
                proposal = {name: self._values[name][place] for name, place in places.items()}
                row = self.legal.nearest(proposal, left)
            else:
                row = int(rng.choice(np.flatnonzero(left)))
            left[row] = False
            rows.append(row)
        return rows

    def _study(self, told: list[tuple[int, Outcome]], sampler: TPESampler) -> optuna.Study:
        """The history as a study in memory, which is what optuna's sampler reads."""
        if not self._told or self._told != told[: len(self._told)]:
            self._mirror, self._told = optuna.storages.InMemoryStorage(), []
            self._mirror.create_new_study([StudyDirection.MINIMIZE], self.name.value)
        # A new object each time: a Study keeps the trials that it has read.
        study = optuna.load_study(study_name=self.name.value, storage=self._mirror, sampler=sampler)
        for row, outcome in told[len(self._told) :]:
            failed = outcome.value is None
            study.add_trial(
                create_trial(
                    # Pruned trials rank behind all others, so TPE learns to avoid them.
                    state=TrialState.PRUNED if failed else TrialState.COMPLETE,
                    value=outcome.value,
                    params={name: int(places[row]) for name, places in self._places.items()},
                    distributions=self._axes,
                )
            )
        self._told = told
        return study


def _learnt(told: list[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
    """What of a long history TPE looks at; it grows at its end, but for every 1000th outcome."""
    begin = max(0, len(told) // LATEST - 1) * LATEST
    timed = [(o.value, i) for i, (_, o) in enumerate(told[:begin]) if o.value is not None]
    fastest = sorted(i for _, i in sorted(timed)[:FASTEST])
    return [told[i] for i in fastest] + told[begin:]
