"""Configurations as columns, so that legality and cost are computed for thousands at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
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
        """The Cartesian product of the axes, the last axis fastest."""
        names = [f.name for f in fields(config_type)]
        if set(names) != set(axes):
            raise ValueError(
                f"{config_type.__name__}: axes {sorted(axes)} != fields {sorted(names)}"
            )
        grids = np.meshgrid(*(np.asarray(axes[name]) for name in names), indexing="ij")
        return cls(config_type, {n: g.ravel() for n, g in zip(names, grids, strict=True)})

    @classmethod
    def of(cls, configs: Sequence[TileConfig]) -> "ConfigTable":
        """A table of the given configurations, in their order; needs at least one."""
        names = [f.name for f in fields(configs[0])]
        columns = {name: np.array([getattr(c, name) for c in configs]) for name in names}
        return cls(type(configs[0]), columns)

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


@dataclass(frozen=True, slots=True)
class Rule:
    """One legality rule applied to a table: who breaks it, and how to say so."""

    name: str  #: short and stable, e.g. "shared memory"; rejections are counted by it
    broken: NDArray[np.bool_]  #: a row is true where the configuration breaks the rule
    explain: Callable[[int], str]  #: one line with the values, for a row that breaks it
