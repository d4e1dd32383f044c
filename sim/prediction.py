"""What the cost model answers with: times with intervals, terms, traffic, and what binds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, NumericPath, TileConfig
from tiles.problems import Problem

__all__ = ["Prediction", "PricedTable"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One configuration's predicted cost.  Every number here is predicted, none is measured."""

    problem: Problem
    kernel: str
    gpu: str
    path: NumericPath
    config: TileConfig
    time_us: float
    low_us: float  #: lower end of the 90 % interval
    high_us: float  #: upper end of the 90 % interval
    binding: str  #: the term that limits, a key of ``terms_us``
    terms_us: Mapping[str, float]  #: time that each resource alone would take
    dram_read_bytes: float
    dram_write_bytes: float
    l2_read_bytes: float  #: bytes from L2 to the multiprocessors
    calibrated: bool = False  #: constants or interval come from measurements of such a GPU
    extrapolated: str = ""  #: what lies beyond the measurements it was calibrated on; "" if nothing

    @property
    def tflops(self) -> float:
        """Predicted TFLOP/s, counting 2·M·N·K; 0 for problems without products."""
        return self.problem.flops / self.time_us / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PricedTable:
    """A table of configurations with the cost model's columns beside it."""

    problem: Problem
    kernel: str
    gpu: str
    path: NumericPath
    table: ConfigTable
    time_us: F64
    low_us: F64
    high_us: F64
    terms_us: dict[str, F64]
    dram_read_bytes: F64
    dram_write_bytes: F64
    l2_read_bytes: F64
    calibrated: bool = False  #: as :class:`Prediction`'s
    extrapolated: str = ""  #: as :class:`Prediction`'s

    def __len__(self) -> int:
        return len(self.table)

    def ranking(self) -> NDArray[np.int64]:
        """Row indices, fastest predicted first; ties keep enumeration order."""
        return np.argsort(self.time_us, kind="stable")

    def prediction(self, row: int) -> Prediction:
        """One row as a record."""
        terms = {name: float(column[row]) for name, column in self.terms_us.items()}
        return Prediction(
            problem=self.problem,
            kernel=self.kernel,
            gpu=self.gpu,
            path=self.path,
            config=self.table.config(row),
            time_us=float(self.time_us[row]),
            low_us=float(self.low_us[row]),
            high_us=float(self.high_us[row]),
            binding=max(terms, key=terms.__getitem__),
            terms_us=terms,
            dram_read_bytes=float(self.dram_read_bytes[row]),
            dram_write_bytes=float(self.dram_write_bytes[row]),
            l2_read_bytes=float(self.l2_read_bytes[row]),
            calibrated=self.calibrated,
            extrapolated=self.extrapolated,
        )

    def best(self) -> Prediction:
        """The fastest predicted configuration."""
        return self.prediction(int(np.argmin(self.time_us)))
