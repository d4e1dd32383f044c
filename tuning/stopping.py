"""When to stop: the chance that something unmeasured is better than the best found."""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["improvement_chance"]

F64 = NDArray[np.float64]

#: Half the width of a 90 % interval of a normal distribution, in standard deviations.
_HALF_90 = 1.6449
#: The model is never believed closer than this, however well it did on a few configurations.
_FLOOR = 0.03


def improvement_chance(
    predicted: F64,
    low: F64,
    high: F64,
    untried: NDArray[np.bool_],
    rows: NDArray[np.int64],
    measured: F64,
    margin: float = 0.01,
) -> float:
    """Chance that any untried configuration beats the fastest measured one by ``margin``.

    The model's errors are taken as log-normal: their common part (the median of measured over
    predicted in this study) is removed, their spread is the model's own interval or what was
    seen here (median absolute deviation), whichever is smaller, but at least 3 %, and never less
    than the common part: what was measured first is alike, and a model that is 40 % off on it is
    not to be believed within 3 % on the rest.  Errors of unmeasured configurations are taken as
    independent, which overstates the chance.

    Args:
        predicted, low, high, untried: (configurations,)
        rows: (measured,) which configurations were measured and CORRECT; at least 4.
        measured: (measured,) their times, or energies.
    """
    if not untried.any():
        return 0.0
    errors = np.log(measured / predicted[rows])
    bias = float(np.median(errors))
    seen = 1.4826 * float(np.median(np.abs(errors - bias)))
    stated = np.log(high[untried] / low[untried]) / (2 * _HALF_90)
    sigma = np.maximum(max(_FLOOR, abs(bias)), np.minimum(stated, max(seen, _FLOOR)))
    goal = math.log(float(measured.min()) * (1 - margin))
    z = (goal - np.log(predicted[untried]) - bias) / sigma
    better = 0.5 * (1 + np.vectorize(math.erf, otypes=[float])(z / math.sqrt(2)))
    return float(1 - np.prod(1 - better))
