"""The calibrated cost model as something that is fitted to measured tables and then predicts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sim.calibration.learn import Learned, learn
from sim.gpu import Gpu
from sim.gpu_file import load_gpu
from sim.measured import MeasuredTable

__all__ = ["CalibratedPredictor"]

F64 = NDArray[np.float64]


class CalibratedPredictor:
    """Physics with fitted parameters, a gated residual and conformal intervals.

    Args:
        gpu: figures to start from; by default those of the GPU file that the tables name.
        residual: whether a residual is tried.
    """

    def __init__(self, gpu: Gpu | None = None, *, residual: bool = True) -> None:
        self._gpu = gpu
        self._residual = residual
        self.learned: Learned | None = None

    def fit(self, train: Sequence[MeasuredTable]) -> None:
        """Learn from measured tables of one GPU.

        Raises:
            ValueError: nothing was measured, or on more than one GPU.
        """
        names = sorted({one.gpu for one in train})
        if len(names) > 1:
            raise ValueError(f"tables of {', '.join(names)}: fit one GPU at a time")
        if not names:
            raise ValueError("nothing was measured: give at least one measured configuration")
        gpu = load_gpu(names[0]) if self._gpu is None else self._gpu
        self.learned = learn(train, gpu, residual=self._residual)

    def predict(self, table: MeasuredTable) -> tuple[F64, F64, F64]:
        """Times and the ends of their 90 % intervals, in microseconds; (rows,) each.

        Only the problem, the configurations and the compile facts are looked at.

        Raises:
            ValueError: nothing was fitted.
        """
        if self.learned is None:
            raise ValueError("nothing was fitted: call fit first")
        calibration = self.learned.calibration
        priced = calibration.price(
            table.problem, table.kernel, table.table, calibration.base, table.facts
        )
        return priced.time_us, priced.low_us, priced.high_us
