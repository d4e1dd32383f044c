"""Baselines that know nothing but measured times: a copy of the nearest, and boosted trees."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.evaluation.predictor import Kind, Predicted
from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = ["BoostedTrees", "NearestCopy", "features"]

F64 = NDArray[np.float64]

#: What a table's problem says, in this order; configurations' fields follow.
_PROBLEM = ("m", "n", "k", "flops", "bytes", "a_bits", "b_bits", "scale_rows", "scale_cols")


def features(table: MeasuredTable) -> dict[str, F64]:
    """Columns of log2 (flags as 0 and 1) that say what is run: problem, format, configuration."""
    problem = table.problem
    rows = np.ones(len(table))
    extents = problem.shape
    recipe = getattr(problem, "recipe", None)
    scaling = None if recipe is None else recipe.weight.scaling
    facts: Mapping[str, float | None] = {
        "m": extents[0],
        "n": extents[-2] if len(extents) > 1 else 1,
        "k": extents[-1],
        "flops": max(1, problem.flops),
        "bytes": problem.min_bytes,
        "a_bits": 16 if recipe is None else recipe.activation.element.bits,
        "b_bits": 16 if recipe is None else recipe.weight.element.bits,
        # A scale for a whole extent lies beyond every block.
        "scale_rows": 1 if scaling is None else scaling.rows or 2**20,
        "scale_cols": 2**20 if scaling is None else scaling.cols or 2**20,
    }
    found: dict[str, F64] = {name: rows * np.log2(float(facts[name] or 1)) for name in _PROBLEM}
    for name, column in table.table.columns.items():
        plain = column.astype(np.float64)
        flag = column.dtype == np.bool_
        found[f"config.{name}"] = plain if flag else np.log2(np.maximum(plain, 0.5))
    return found


def _matrix(found: Mapping[str, F64], names: Sequence[str], rows: int) -> F64:
    """(rows, names); NaN where a table has no such column."""
    return np.stack([found.get(name, np.full(rows, np.nan)) for name in names], axis=1)


class NearestCopy:
    """The throughput of the nearest measured row: of the same family where it was measured."""

    name = "nearest measured, copied"
    kind = Kind.FITTED

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Remember every row; what is copied is time over work."""
        described = [features(one) for one in train]
        self._names = list(dict.fromkeys(name for one in described for name in one))
        self._points = np.concatenate(
            [_matrix(d, self._names, len(t)) for d, t in zip(described, train, strict=True)]
        )
        self._families = np.array([t.kernel.name for t in train for _ in range(len(t))])
        self._pace = np.concatenate([one.time_us / _work(one) for one in train])

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted:
        """Times of the nearest rows, scaled by the work."""
        mine = self._families == table.kernel.name
        near = np.flatnonzero(mine if mine.any() else np.ones(len(mine), np.bool_))
        points, theirs = _matrix(features(table), self._names, len(table)), self._points[near]
        # A field that one of two rows lacks tells them not apart.
        has, have = np.isfinite(points).astype(float), np.isfinite(theirs).astype(float)
        points, theirs = np.nan_to_num(points), np.nan_to_num(theirs)
        distance = (points**2) @ have.T + has @ (theirs**2).T - 2 * points @ theirs.T
        # Equally near ones in the order they came in, whatever the last bits of a sum are.
        nearest = near[np.argmin(np.round(distance, 6), axis=1)]
        return Predicted(time_us=self._pace[nearest] * _work(table))


def _work(table: MeasuredTable) -> float:
    return float(table.problem.flops or table.problem.min_bytes)


class BoostedTrees:
    """Gradient-boosted trees on log features alone, no physics.

    The log of time over work is learned: trees cannot extrapolate, and times themselves would
    have them answer for a shape with another's.
    """

    name = "boosted trees alone"
    kind = Kind.FITTED

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Fit scikit-learn's histogram trees; the same tables give the same trees."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        described = [features(one) for one in train]
        families = sorted({one.kernel.name for one in train})
        self._families = {name: float(index) for index, name in enumerate(families)}
        self._names = list(dict.fromkeys(name for one in described for name in one))
        points = np.concatenate([self._rows(d, t) for d, t in zip(described, train, strict=True)])
        target = np.log(np.concatenate([one.time_us / _work(one) for one in train]))
        trees = HistGradientBoostingRegressor(
            max_iter=250,
            learning_rate=0.08,
            max_leaf_nodes=15,
            min_samples_leaf=8,
            early_stopping=False,
            random_state=0,
        )
        # Threads that wait for one another by spinning take minutes where cores are shared.
        with threadpool_limits(limits=1):
            self._trees: Any = trees.fit(points, target)

    def _rows(self, found: Mapping[str, F64], table: MeasuredTable) -> F64:
        family = np.full((len(table), 1), self._families.get(table.kernel.name, np.nan))
        return np.concatenate([_matrix(found, self._names, len(table)), family], axis=1)

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted:
        """Times as the trees have them."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):
            told = self._trees.predict(self._rows(features(table), table))
        return Predicted(time_us=np.exp(told) * _work(table))
