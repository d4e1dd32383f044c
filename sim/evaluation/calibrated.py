"""The calibrated cost model, judged on what it did not learn from."""

from collections.abc import Sequence

import numpy as np

from sim.calibration.learn import learn
from sim.calibration.record import Calibration
from sim.evaluation.predictor import Kind, Predicted
from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = ["CalibratedModel"]


class CalibratedModel:
    """Physics with fitted parameters, a gated residual and conformal intervals.

    Args:
        timings: how many measured rows it learns from, drawn at random over all tables; ``None``
            takes all.
        residual: whether a residual is tried.
        seed: of the draw.
    """

    kind = Kind.FITTED

    def __init__(self, timings: int | None = None, *, residual: bool = True, seed: int = 0) -> None:
        if timings is not None and timings < 1:
            raise ValueError(f"{timings} timings: learn from one at least")
        self._timings = timings
        self._residual = residual
        self._seed = seed
        self._calibration: Calibration | None = None

    @property
    def name(self) -> str:
        """As the tables call it."""
        return "calibrated" + ("" if self._timings is None else f", {self._timings} timings")

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Learn from measured tables of one GPU.

        Raises:
            ValueError: nothing was measured, or on more than one GPU.
        """
        names = sorted({one.gpu for one in train})
        if len(names) > 1:
            raise ValueError(f"tables of {', '.join(names)}: fit one GPU at a time")
        learned = learn(self._drawn(train), gpu, residual=self._residual)
        self._calibration = learned.calibration

    def _drawn(self, train: Sequence[MeasuredTable]) -> list[MeasuredTable]:
        """The rows to learn from; tables of which none was drawn are left out."""
        owners = np.repeat(np.arange(len(train)), [len(one) for one in train])
        if self._timings is None or len(owners) <= self._timings:
            return list(train)
        drawn = np.zeros(len(owners), bool)
        order = np.random.default_rng(self._seed).permutation(len(owners))
        drawn[order[: self._timings]] = True
        parts = [one.take(drawn[owners == index]) for index, one in enumerate(train)]
        return [one for one in parts if len(one)]

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted:
        """Times and the ends of their 90 % intervals.

        Raises:
            ValueError: nothing was fitted.
        """
        if self._calibration is None:
            raise ValueError("nothing was fitted: call fit first")
        priced = self._calibration.price(
            table.problem, table.kernel, table.table, self._calibration.base, table.facts
        )
        return Predicted(time_us=priced.time_us, low_us=priced.low_us, high_us=priced.high_us)
