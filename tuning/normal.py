"""The normal distribution, as searches and their stopping rule ask for it."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["normal_cdf"]

F64 = NDArray[np.float64]


def normal_cdf(z: F64) -> F64:
    """Chance that a standard normal number lies below each of ``z``."""
    below: F64 = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(z / math.sqrt(2)))
    return below
