"""Measured times of one family's configurations on one problem, as the cost model is judged by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, Kernel
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Problem

__all__ = ["MeasuredTable"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTable:
    """Configurations with the times that a GPU took for them; nothing here is predicted.

    The rows stand to one another as ``PricedTable``'s do: row ``i`` of every column is ``table``'s.
    """

    problem: Problem
    kernel: Kernel
    gpu: str  #: name of the GPU file that describes the board
    table: ConfigTable
    time_us: F64  #: median over the samples, in microseconds
    iqr_us: F64  #: interquartile range over the samples, in microseconds
    whole_space: bool  #: every legal configuration is here, not a sample of them
    facts: Mapping[int, CompileFacts] = field(default_factory=dict)  #: by row

    def __post_init__(self) -> None:
        for name, column in (("time_us", self.time_us), ("iqr_us", self.iqr_us)):
            if np.shape(column) != (len(self.table),):
                raise ValueError(
                    f"{self.problem}, {self.kernel.name}: {name} has shape {np.shape(column)}: "
                    f"give one number for each of the {len(self.table)} configurations"
                )
        if not (np.isfinite(self.time_us).all() and (self.time_us > 0).all()):
            raise ValueError(
                f"{self.problem}, {self.kernel.name}: a measured time is not positive and finite: "
                "leave out configurations that failed"
            )

    def __len__(self) -> int:
        return len(self.table)
