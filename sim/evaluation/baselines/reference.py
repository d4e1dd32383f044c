"""Bounds: what nothing can beat on these data, and what needs no model at all."""

from collections.abc import Sequence

import numpy as np

from sim.evaluation.predictor import Kind, Predicted
from sim.gpu import Gpu
from sim.measured import MeasuredTable

__all__ = ["NoiseFloor", "Oracle", "RandomChoice"]

#: Interquartile range of a normal distribution in standard deviations.
IQR_SIGMAS = 1.349


class Oracle:
    """The measured times themselves: every number at its best."""

    name = "measured, the oracle"
    kind = Kind.REFERENCE

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted:
        """What was measured."""
        return Predicted(time_us=table.time_us)


class NoiseFloor:
    """One more launch of each configuration: its time and a draw of its own spread.

    The spread is that between launches of one process, normal with the measured interquartile
    range.  Runs apart in time, board or temperature differ by more.
    """

    name = "noise: one launch"
    kind = Kind.REFERENCE

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted | None:
        """A draw; None where no spread was kept."""
        if not np.isfinite(table.iqr_us).all():
            return None
        # By its text, so that a table draws the same in any company.
        drawn = np.random.default_rng([self._seed, *str(table).encode()])
        sigma = table.iqr_us / table.time_us / IQR_SIGMAS
        return Predicted(time_us=table.time_us * np.exp(sigma * drawn.standard_normal(len(table))))


class RandomChoice:
    """No advice: all rows tie, so that choices are the expectation over random ones."""

    name = "random"
    kind = Kind.ORDER

    def fit(self, train: Sequence[MeasuredTable], gpu: Gpu) -> None:
        """Nothing is fitted."""

    def predict(self, table: MeasuredTable, gpu: Gpu) -> Predicted:
        """The same score for every row."""
        return Predicted(time_us=np.ones(len(table)))
