"""How far predicted times are from measured ones, over rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TimeErrors", "time_errors"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeErrors:
    """Errors of predicted times, as shares: 0.1 is 10 %."""

    mape: float  #: mean of |predicted / measured - 1|
    median: float  #: median of the same
    p90: float  #: 90th percentile of the same, linearly between ranks
    bias: float  #: geometric mean of predicted / measured, less 1: below zero it is too fast


def time_errors(predicted_us: F64, measured_us: F64) -> TimeErrors:
    """Errors over rows, each counting the same.

    Args:
        predicted_us, measured_us: (rows,) positive, in the same unit; at least one row.
    """
    ratio = predicted_us / measured_us
    error = np.abs(ratio - 1)
    return TimeErrors(
        mape=float(error.mean()),
        median=float(np.median(error)),
        p90=float(np.percentile(error, 90)),
        bias=float(np.expm1(np.log(ratio).mean())),
    )
