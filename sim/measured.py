"""Measured times of one family's configurations on one problem, as the cost model is judged by."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
    iqr_us: F64  #: interquartile range over the samples, in microseconds; NaN where not known
    whole_space: bool  #: every legal configuration is here, not a sample of them
    facts: Mapping[int, CompileFacts] = field(default_factory=dict)  #: by row
    cold: bool = True  #: the L2 held nothing of the operands; otherwise it was left as it was
    in_view: bool = False  #: constants of the cost model were set with these times in view
    source: str = ""  #: SHA-256 of the kernel source that ran; empty where not known
    environment: Mapping[str, str] = field(default_factory=dict)  #: driver and versions, by name
    clock_mhz: F64 | None = None  #: SM clock beside the samples; NaN where none was read
    power_w: F64 | None = None  #: board power, likewise

    def __post_init__(self) -> None:
        for name in ("time_us", "iqr_us", "clock_mhz", "power_w"):
            column = getattr(self, name)
            if column is not None and np.shape(column) != (len(self.table),):
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

    def __str__(self) -> str:
        return f"{self.problem} with {self.kernel.name}"

    def take(self, rows: NDArray[Any]) -> "MeasuredTable":
        """The rows chosen by indices or by a mask; a part of a whole space is a sample of it."""
        chosen = np.arange(len(self))[rows]
        clock, power = self.clock_mhz, self.power_w
        return replace(
            self,
            table=self.table.take(chosen),
            time_us=self.time_us[chosen],
            iqr_us=self.iqr_us[chosen],
            whole_space=self.whole_space and len(np.unique(chosen)) == len(self),
            facts={new: self.facts[old] for new, old in enumerate(chosen) if old in self.facts},
            clock_mhz=None if clock is None else clock[chosen],
            power_w=None if power is None else power[chosen],
        )

    def blinded(self) -> "MeasuredTable":
        """The same question without its answer: times of 1, and nothing else that was measured.

        What is judged by these times is asked with this, so that it cannot have seen them.
        """
        return replace(
            self,
            time_us=np.ones(len(self)),
            iqr_us=np.full(len(self), np.nan),
            clock_mhz=None,
            power_w=None,
        )
