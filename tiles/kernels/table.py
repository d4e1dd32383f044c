"""Configurations as columns, so that legality and cost are computed for thousands at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.config import TileConfig

__all__ = ["ConfigTable", "Rule"]


@dataclass(frozen=True, slots=True)
class ConfigTable:
    """Configurations of one family, a NumPy column a field; a row is one configuration."""

    config_type: type[TileConfig]
    columns: dict[str, NDArray[Any]]  #: int64 or bool, all of one length

    @classmethod
    def product(cls, config_type: type[TileConfig], **axes: Sequence[int | bool]) -> "ConfigTable":
        """The Cartesian product of the axes, the last axis fastest; its columns are read-only.

        Fields that have a default may be left out.
        """
        names = _names(config_type)
        defaults = config_type.defaults()
        axes = {**{name: (value,) for name, value in defaults.items()}, **axes}
        if set(names) != set(axes):
            raise ValueError(
                f"{config_type.__name__}: axes {sorted(axes)} != fields {sorted(names)}"
            )
        values = tuple(tuple(axes[name]) for name in names)
        # 0 and False are equal, and columns of either are not.
        kinds = tuple(tuple(map(type, axis)) for axis in values)
        columns = _columns(values, kinds)
        return cls(config_type, dict(zip(names, columns, strict=True)))

    @classmethod
    def of(cls, configs: Sequence[TileConfig]) -> "ConfigTable":
        """A table of the given configurations, in their order; needs at least one."""
        names = _names(type(configs[0]))
        columns = {name: np.array([getattr(c, name) for c in configs]) for name in names}
        return cls(type(configs[0]), columns)

    @classmethod
    def joined(cls, tables: Sequence["ConfigTable"]) -> "ConfigTable":
        """The rows of several tables of one family, one table behind the other; at least one."""
        if len(tables) == 1:
            return tables[0]
        names = _names(tables[0].config_type)
        columns = {name: np.concatenate([t[name] for t in tables]) for name in names}
        return cls(tables[0].config_type, columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def config(self, row: int) -> TileConfig:
        """The configuration of one row."""
        return self.config_type(
            **{name: column[row].item() for name, column in self.columns.items()}
        )

    def __iter__(self) -> Iterator[TileConfig]:
        return (self.config(row) for row in range(len(self)))

    def take(self, rows: NDArray[Any]) -> "ConfigTable":
        """The rows chosen by a mask or by indices."""
        return ConfigTable(self.config_type, {n: c[rows] for n, c in self.columns.items()})


@lru_cache(maxsize=64)
def _columns(
    axes: tuple[tuple[int | bool, ...], ...], _: tuple[tuple[type, ...], ...]
) -> list[NDArray[Any]]:
    """Read-only: most families list the same space for every problem."""
    grids = np.meshgrid(*map(np.asarray, axes), indexing="ij")
    columns = [grid.ravel() for grid in grids]
    for column in columns:
        column.flags.writeable = False
    return columns


def _names(config_type: type[TileConfig]) -> list[str]:
    return [field.name for field in fields(config_type)]


@dataclass(frozen=True, slots=True)
class Rule:
    """One legality rule applied to a table: who breaks it, and how to say so."""

    name: str  #: short and stable, e.g. "shared memory"; rejections are counted by it
    broken: NDArray[np.bool_]  #: a row is true where the configuration breaks the rule
    explain: Callable[[int], str]  #: one line with the values, for a row that breaks it
