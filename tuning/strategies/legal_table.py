"""The legal configurations of a study as points: rows, predicted times, distances."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from sim.prediction import PricedTable
from tiles.kernels import ConfigTable

__all__ = ["LegalTable", "diverse_best"]

F64 = NDArray[np.float64]

#: Squared distance from which two configurations are unlike: two doublings or flags apart.
UNLIKE = 2.0


class LegalTable:
    """What a strategy knows before anything is measured; nothing here ever changes.

    Args:
        table: legal configurations, at least one.
        predicted, low, high: (rows,) predictions of what is searched for, times or energies, and
            their 90 % intervals.
    """

    def __init__(self, table: ConfigTable, predicted: F64, low: F64, high: F64) -> None:
        self.table = table
        self.predicted = predicted
        self.low = low
        self.high = high
        #: Rows by what is predicted, least first; ties keep the table's order.
        self.ranking: NDArray[np.int64] = np.argsort(predicted, kind="stable")
        self.space = {name: _distribution(column) for name, column in table.columns.items()}
        #: The fields that have a choice.
        self.varied = {name: d for name, d in self.space.items() if not d.single()}
        columns = [column.tolist() for column in table.columns.values()]
        self._rows = {values: row for row, values in enumerate(zip(*columns, strict=True))}
        #: (rows, fields) where a row lies, in doublings and flags.
        self.points = _points(table)

    @classmethod
    def of(cls, priced: PricedTable) -> "LegalTable":
        """The configurations that the cost model has priced, by their times."""
        return cls(priced.table, priced.time_us, priced.low_us, priced.high_us)

    def __len__(self) -> int:
        return len(self.table)

    def row(self, values: Mapping[str, Any]) -> int | None:
        """The row of a configuration, or None when it is not legal here."""
        if values.keys() != self.space.keys():
            return None
        return self._rows.get(tuple(values[name] for name in self.space))

    def params(self, row: int) -> dict[str, int | bool]:
        """A row as optuna parameters."""
        return {name: column[row].item() for name, column in self.table.columns.items()}

    def nearest(self, values: Mapping[str, Any], among: NDArray[np.bool_]) -> int:
        """The row nearest to a point, among those allowed; of equally near ones the first.

        Distance is Euclidean over log2 of integer fields and 0/1 of flags.

        Args:
            values: a value for every field that has a choice.
            among: (rows,) which rows may be chosen, at least one.
        """
        columns = self.table.columns
        point = np.array([_axis(c, values[n] if n in values else c[0]) for n, c in columns.items()])
        distance = ((self.points - point) ** 2).sum(axis=1)
        distance[~among] = np.inf
        return int(np.flatnonzero(distance <= distance.min() + 1e-9)[0])


def diverse_best(table: ConfigTable, ranking: NDArray[np.int64], count: int) -> list[int]:
    """Rows to measure first: half by rank, half by rank among those unlike every row before.

    The best predicted rows are often one tile with another raster or pipeline depth; where the
    model is wrong about that tile, they are wrong together.

    Args:
        ranking: rows, best first.
        count: how many; fewer come back only from a smaller table.
    """
    points = _points(table)
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


def _points(table: ConfigTable) -> F64:
    return np.stack([_axis(column, column) for column in table.columns.values()], axis=1)


def _axis(column: NDArray[Any], values: Any) -> F64:
    """Values of a field on the axis that distances are taken on.

    A factor of two in a tile extent counts as much as switching a flag.
    """
    plain = np.asarray(values, dtype=np.float64)
    logarithmic = column.dtype != np.bool_ and bool((column > 0).all())
    return np.log2(plain) if logarithmic else plain


def _distribution(column: NDArray[Any]) -> BaseDistribution:
    if column.dtype == np.bool_:
        # Both choices even when one is legal: choices of a stored study may never change.
        return CategoricalDistribution([False, True])
    low, high = int(column.min()), int(column.max())
    return IntDistribution(low, high, log=low >= 1)
