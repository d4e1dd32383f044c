"""Proposals that are always legal and always new: optuna's TPE on an enumerated space."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial

from tiles.kernels import ConfigTable
from tuning.plan import Strategy

__all__ = ["LegalSampler", "LegalTable", "diverse_best"]

#: Trials before TPE models anything; until then it would answer with independent random values.
STARTUP_TRIALS = 10
#: Squared distance from which two configurations are unlike: two doublings or flags apart.
UNLIKE = 2.0


def _coordinates(column: NDArray[Any], values: Any) -> NDArray[np.float64]:
    """Values of a field on the axis that distances are taken on.

    A factor of two in a tile extent counts as much as switching a flag.
    """
    plain = np.asarray(values, dtype=np.float64)
    logarithmic = column.dtype != np.bool_ and bool((column > 0).all())
    return np.log2(plain) if logarithmic else plain


def diverse_best(table: ConfigTable, ranking: NDArray[np.int64], count: int) -> list[int]:
    """Rows to measure first: half by rank, half by rank among those unlike every row before.

    The best predicted rows are often one tile with another raster or pipeline depth; where the
    model is wrong about that tile, they are wrong together.

    Args:
        ranking: rows, best first.
        count: how many; fewer come back only from a smaller table.
    """
    points = np.stack([_coordinates(c, c) for c in table.columns.values()], axis=1)
    chosen = [int(row) for row in ranking[: (count + 1) // 2]]
    nearest = np.full(len(table), np.inf)
    for row in chosen:
        nearest = np.minimum(nearest, ((points - points[row]) ** 2).sum(axis=1))
    rest = ranking[len(chosen) :]
    while len(chosen) < count and len(rest):
        unlike = rest[nearest[rest] >= UNLIKE]
        row = int(unlike[0] if len(unlike) else rest[0])
        chosen.append(row)
        rest = rest[rest != row]
        nearest = np.minimum(nearest, ((points - points[row]) ** 2).sum(axis=1))
    return chosen


class LegalTable:
    """The legal configurations of a study as points: rows, which of them were tried, distances.

    Args:
        table: legal configurations, at least one.
        predicted_us: (rows,) the model's times; decides among equally near configurations.
    """

    def __init__(self, table: ConfigTable, predicted_us: NDArray[np.float64]) -> None:
        self.table = table
        self.predicted_us = predicted_us
        self.untried = np.ones(len(table), dtype=np.bool_)
        self.space = {name: _distribution(column) for name, column in table.columns.items()}
        columns = [column.tolist() for column in table.columns.values()]
        self._rows = {values: row for row, values in enumerate(zip(*columns, strict=True))}
        self._points = np.stack(
            [self._coordinate(name, column) for name, column in table.columns.items()], axis=1
        )

    def __len__(self) -> int:
        return len(self.table)

    def _coordinate(self, name: str, values: Any) -> NDArray[np.float64]:
        return _coordinates(self.table.columns[name], values)

    def row(self, values: Mapping[str, Any]) -> int | None:
        """The row of a configuration, or None when it is not legal here."""
        if values.keys() != self.space.keys():
            return None
        return self._rows.get(tuple(values[name] for name in self.space))

    def params(self, row: int) -> dict[str, int | bool]:
        """A row as optuna parameters."""
        return {name: column[row].item() for name, column in self.table.columns.items()}

    def nearest_untried(self, values: Mapping[str, Any]) -> int:
        """The untried row nearest to a point; among equally near ones the fastest predicted.

        Distance is Euclidean over log2 of integer fields and 0/1 of flags.
        """
        point = np.array([self._coordinate(name, values[name]) for name in self.space])
        distance = ((self._points - point) ** 2).sum(axis=1)
        distance[~self.untried] = np.inf
        near = np.flatnonzero(distance <= distance.min() + 1e-9)
        return int(near[np.argmin(self.predicted_us[near])])


def _distribution(column: NDArray[Any]) -> BaseDistribution:
    if column.dtype == np.bool_:
        # Both choices even when one is legal: choices of a stored study may never change.
        return CategoricalDistribution([False, True])
    low, high = int(column.min()), int(column.max())
    return IntDistribution(low, high, log=low >= 1)


class LegalSampler(BaseSampler):
    """Chooses untried legal rows for a strategy; a trial's parameters are the row's values.

    Args:
        legal: the study's configurations; chosen rows are marked as tried.
        strategy: model and exhaustive go by the model's order, random and TPE do not use it.
        seed: of this study.
        batch: TPE proposals drawn at a time, so that compilers can work ahead of the GPU.
        announce: called with every batch of more than one row before its first is returned.
    """

    def __init__(
        self,
        legal: LegalTable,
        strategy: Strategy,
        seed: int,
        *,
        batch: int = 1,
        announce: Callable[[list[int]], None] | None = None,
    ) -> None:
        self._legal = legal
        self._strategy = strategy
        self._rng = np.random.default_rng(seed)
        self._order = np.argsort(legal.predicted_us, kind="stable")
        self._batch = batch
        self._announce = announce
        self._ahead: list[int] = []
        self._tpe = TPESampler(
            seed=seed,
            multivariate=True,
            n_startup_trials=STARTUP_TRIALS,
            constant_liar=False,  # proposals are de-duplicated here, and it costs a journal entry
        )
        self._varied = {
            name: distribution
            for name, distribution in legal.space.items()
            if not distribution.single()
        }

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter that has a choice, whatever earlier trials hold."""
        return self._varied

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """An untried legal configuration."""
        if "fixed_params" in trial.system_attrs:
            return {}
        if not self._ahead:
            self._ahead = self._propose(study, trial)
            if self._announce is not None and len(self._ahead) > 1:
                self._announce(self._ahead)
        params = self._legal.params(self._ahead.pop(0))
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

    def _propose(self, study: optuna.Study, trial: FrozenTrial) -> list[int]:
        rows: list[int] = []
        while len(rows) < self._batch and self._legal.untried.any():
            row = self._next_row(study, trial)
            self._legal.untried[row] = False
            rows.append(row)
        assert rows, "sampled from an exhausted space"
        return rows

    def _next_row(self, study: optuna.Study, trial: FrozenTrial) -> int:
        untried = self._legal.untried
        if self._strategy in (Strategy.MODEL, Strategy.EXHAUSTIVE):
            return int(self._order[np.argmax(untried[self._order])])
        if self._strategy in (Strategy.HYBRID, Strategy.TPE) and self._varied:
            proposal = self._tpe.sample_relative(study, trial, self._varied)
            if proposal:
                fixed = {n: d.low for n, d in self._legal.space.items() if n not in proposal}  # type: ignore[attr-defined]  # single() means an integer range of one
                return self._legal.nearest_untried({**fixed, **proposal})
        return int(self._rng.choice(np.flatnonzero(untried)))
