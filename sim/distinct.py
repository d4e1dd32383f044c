"""Rows that agree in some columns: what depends on these alone is computed once for all of them.

A table of thousands of configurations has a few hundred different tiles, rasters or pipelines.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import ConfigTable

__all__ = ["Distinct", "distinct_rows"]

I64 = NDArray[np.int64]
_Item = TypeVar("_Item", bound=np.generic)

#: Values below this are looked up in a table; larger ones are sorted, some ten times as slow.
_TABLE = 2**16
#: Columns below this have few values as they are.
_SMALL = 16
#: Rows up to this many cost less than finding out which of them agree.
_FEW = 8


@dataclass(frozen=True, slots=True)
class Distinct:
    """The distinct rows of a table in some of its columns, and which of them every row equals."""

    table: ConfigTable  #: one row for each of them; the other columns are those of any such row
    row: I64  #: for every row of the long table its row in the short one

    @classmethod
    def of(cls, table: ConfigTable, *names: str) -> "Distinct":
        """Those of the columns ``names``, whose values are not negative."""
        rows, inverse = distinct_rows(*(table[name] for name in names))
        return cls(table.take(rows), inverse)

    def spread(self, column: NDArray[_Item]) -> NDArray[_Item]:
        """A column of the short table, an entry for every row of the long one."""
        return column[self.row]


def distinct_rows(*columns: NDArray[Any]) -> tuple[I64, I64]:
    """Row numbers of the distinct rows, and for every row which of them it equals.

    A handful of rows stand for themselves, equal or not.

    Args:
        columns: integers or truth values, not negative, all of one length, at least one.
    """
    if len(columns[0]) <= _FEW:
        every = np.arange(len(columns[0]))
        return every, every
    key, count = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        values, end = column, int(column.max()) + 1
        if end > _SMALL:
            values, end = _ranks(column, end)
        if count * end > _TABLE:
            key, count = _ranks(key, count)
        # Both are at most the number of rows, or small: the product is far below 2^63.
        key, count = key * end + values, count * end
    key, count = _ranks(key, count)
    rows = np.empty(count, np.int64)
    rows[key] = np.arange(len(key))
    return rows, key


def _ranks(values: NDArray[Any], end: int) -> tuple[I64, int]:
    """Every value's rank among the distinct ones, and their number; all lie below ``end``."""
    if end > _TABLE:
        found, inverse = np.unique(values, return_inverse=True)
        return inverse, len(found)
    present = np.zeros(end, np.bool_)
    present[values] = True
    ranks = np.cumsum(present) - 1
    return ranks[values], int(ranks[-1]) + 1
