"""The cost model set right by what a search has measured: a Gaussian process over its errors."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tuning.strategies.base import Outcome
from tuning.strategies.legal_table import LegalTable

__all__ = ["Correction"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: How far an error reaches: doublings and flags, as distances of :class:`LegalTable` go.
REACH = 1.5
#: The model's errors spread by this at least, however well it did on a few configurations.
LEAST_SPREAD = 0.03
#: Of one timing, relative.
NOISE = 0.01
#: What failed counts as slower than all that was measured, by this factor of its prediction.
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
    :data:`REACH`).

    Args:
        legal: the study's configurations.
        told: rows with their outcomes, in order; at least one.
    """

    def __init__(self, legal: LegalTable, told: Sequence[tuple[int, Outcome]]) -> None:
        self._legal = legal
        self._logs = np.log(legal.predicted)
        learnt = _learnt(told)
        rows = np.array([row for row, _ in learnt], dtype=np.int64)
        values = np.array([math.nan if o.value is None else o.value for _, o in learnt])
        errors = np.log(values) - self._logs[rows]
        timed = ~np.isnan(errors)
        self._bias = float(np.median(errors[timed])) if timed.any() else 0.0
        errors[~timed] = (errors[timed].max() if timed.any() else 0.0) + math.log(FAILED)
        self._rows, self._errors = rows, errors - self._bias
        spread = math.sqrt(float(np.mean(self._errors[timed] ** 2))) if timed.any() else 0.0
        self._spread = max(LEAST_SPREAD, spread, abs(self._bias))
        best = values[timed].min() if timed.any() else legal.predicted.min()
        self._goal = math.log(float(best))

    def choose(self, untried: NDArray[np.bool_], count: int) -> list[int]:
        """Rows by the time that each is expected to save, one after the other.

        A row that is chosen counts as measured at its expected time for those after it, so that
        they are not all alike.

        Args:
            untried: (rows,) which may be chosen; at least ``count``.
        """
        ranking = self._legal.ranking
        looked_at = ranking[untried[ranking]][: max(LOOKED_AT, count)]
        rows, errors, chosen = self._rows, self._errors, []
        for _ in range(count):
            mean, deviation = self._believed(rows, errors, looked_at)
            gain = _expected_gain(self._goal, self._logs[looked_at] + self._bias + mean, deviation)
            at = int(np.argmax(gain))
            rows, errors = np.append(rows, looked_at[at]), np.append(errors, mean[at])
            chosen.append(int(looked_at[at]))
            looked_at = np.delete(looked_at, at)
        return chosen

    def _believed(self, rows: I64, errors: F64, of: I64) -> tuple[F64, F64]:
        """Mean and deviation of the errors of some rows, by those of others."""
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel

        points = self._legal.points
        process = GaussianProcessRegressor(
            ConstantKernel(self._spread**2) * RBF(REACH), alpha=NOISE**2, optimizer=None
        )
        process.fit(points[rows], errors)
        mean, deviation = process.predict(points[of], return_std=True)
        return mean, deviation


def _learnt(told: Sequence[tuple[int, Outcome]]) -> list[tuple[int, Outcome]]:
    """The latest outcomes, and the fastest before them."""
    earlier, latest = told[:-LATEST], told[-LATEST:]
    fastest = sorted((o.value, place) for place, (_, o) in enumerate(earlier) if o.value)
    return [earlier[place] for _, place in fastest[:FASTEST]] + list(latest)


def _expected_gain(goal: float, mean: F64, deviation: F64) -> F64:
    """Expected improvement on ``goal`` of normal logarithms of times (Jones et al., 1998)."""
    z = (goal - mean) / deviation
    below = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(z / math.sqrt(2)))
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    gain: F64 = (goal - mean) * below + deviation * density
    return gain
