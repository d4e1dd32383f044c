"""The cost model set right by what a search has measured: a Gaussian process over its errors."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuning.normal import normal_cdf
from tuning.strategies.base import Outcome
from tuning.strategies.legal_table import LegalTable

__all__ = ["Correction"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: How far an error reaches: doublings and flags, as distances of :class:`LegalTable` go.
REACH = 1.5
#: The model's errors spread by this at least, however well it did on a few configurations.
LEAST_SPREAD = 0.03
#: Of one measurement, relative.
NOISE = 0.01
#: What is like a configuration that failed counts as slower than it is held for, by up to this.
FAILED = 2.0
#: Outcomes that are learnt from: so many of the fastest, and so many of the latest.
FASTEST = LATEST = 64
#: Untried configurations that are looked at: the best predicted.
LOOKED_AT = 2048


class Correction:
    """Logarithms of measured over predicted as a Gaussian process over configurations.

    Its mean is the median error seen, its spread what was seen about that, but no less than the
    mean: a model that is 40 % off on what was measured first, which is alike, may be right on the
    rest.  Configurations that are alike have like errors (a squared exponential over
    :data:`REACH`).  What failed says nothing of errors; what is like it is avoided.

    Args:
        legal: the study's configurations.
        told: rows with their outcomes, in order; at least one.
    """

    def __init__(self, legal: LegalTable, told: Sequence[tuple[int, Outcome]]) -> None:
        self._legal = legal
        self._logs = np.log(legal.predicted)
        learnt = _learnt(told)
        values = np.array([o.value for _, o in learnt if o.value is not None])
        self._rows = np.array([r for r, o in learnt if o.value is not None], dtype=np.int64)
        self._failed = np.array([r for r, o in learnt if o.value is None], dtype=np.int64)
        errors = np.log(values) - self._logs[self._rows]
        self._bias = float(np.median(errors)) if len(errors) else 0.0
        self._errors = errors - self._bias
        spread = math.sqrt(float(np.mean(self._errors**2))) if len(errors) else 0.0
        self._spread = max(LEAST_SPREAD, spread, abs(self._bias))
        self._goal = math.log(float(values.min() if len(values) else legal.predicted.min()))

    def choose(self, untried: NDArray[np.bool_], count: int) -> list[int]:
        """Rows by the improvement that is expected of each, one after the other.

        A row that is chosen counts as measured at its expected value for those after it, so that
        they are not all alike.

        Args:
            untried: (rows,) which may be chosen; at least ``count``.
        """
        looked_at = self._legal.ranked(untried)[: max(LOOKED_AT, count)]
        distrust = self._distrust(looked_at)
        rows, errors, chosen = self._rows, self._errors, []
        for _ in range(count):
            mean, deviation = self._believed(rows, errors, looked_at)
            held_for = self._logs[looked_at] + self._bias + mean + distrust
            at = int(np.argmax(_expected_gain(self._goal, held_for, deviation)))
            rows, errors = np.append(rows, looked_at[at]), np.append(errors, mean[at])
            chosen.append(int(looked_at[at]))
            looked_at, distrust = np.delete(looked_at, at), np.delete(distrust, at)
        return chosen

    def _believed(self, rows: I64, errors: F64, of: I64) -> tuple[F64, F64]:
        """Mean and deviation of the errors of some rows, by those of others."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel

        if not len(rows):
            return np.zeros(len(of)), np.full(len(of), self._spread)
        points = self._legal.points
        process = GaussianProcessRegressor(
            ConstantKernel(self._spread**2) * RBF(REACH), alpha=NOISE**2, optimizer=None
        )
        process.fit(points[rows], errors)
        mean, deviation = process.predict(points[of], return_std=True)
        return mean, deviation

    def _distrust(self, of: I64) -> F64:
        """What some rows are held for beyond their errors, by how near the nearest failure is."""
        points = self._legal.points
        nearest = np.full(len(of), np.inf)
        for row in self._failed:
            nearest = np.minimum(nearest, ((points[of] - points[row]) ** 2).sum(axis=1))
        distrust: F64 = math.log(FAILED) * np.exp(-nearest / (2 * REACH**2))
        return distrust


def _learnt(told: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
    """The latest outcomes, and the fastest before them; failures before them are forgotten."""
    earlier, latest = told[:-LATEST], told[-LATEST:]
    fastest = sorted((o.value, place) for place, (_, o) in enumerate(earlier) if o.value)
    return [earlier[place] for _, place in fastest[:FASTEST]] + list(latest)


def _expected_gain(goal: float, mean: F64, deviation: F64) -> F64:
    """Expected improvement on ``goal`` of normal logarithms (Jones et al., 1998)."""
    z = (goal - mean) / deviation
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    gain: F64 = (goal - mean) * normal_cdf(z) + deviation * density
    return gain
