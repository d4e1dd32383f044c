"""The interval of a prediction without measurements: by what binds, path and origin of figures."""

import numpy as np
import pytest

from sim.interval import (
    EMULATED_EXTRA,
    LOG_HALF_WIDTH,
    OTHER_HALF_WIDTH,
    UNMEASURED_EXTRA,
    interval_us,
)
from tiles.kernels import NumericPath

#: Rows: each binds elsewhere, the middle terms between others that are smaller.
TERMS = {
    "tensor": np.array([5.0, 1.0, 1.0, 2.0, 3.0]),
    "dram": np.array([1.0, 5.0, 2.0, 1.0, 3.0]),
    "latency": np.array([4.0, 3.0, 5.0, 4.0, 1.0]),
    "mine": np.array([3.0, 4.0, 1.0, 5.0, 3.0]),
}
#: Of equal terms the first one binds.
BINDING = ("tensor", "dram", "latency", "mine", "tensor")


@pytest.mark.parametrize("path", NumericPath)
@pytest.mark.parametrize("measured", [True, False])
def test_a_width_is_that_of_the_term_that_binds(path: NumericPath, measured: bool) -> None:
    time_us = np.array([5.0, 6.0, 7.0, 8.0, 9.0])
    low, high = interval_us(time_us, TERMS, path, measured=measured)
    extra = EMULATED_EXTRA * (path is NumericPath.EMULATED) + UNMEASURED_EXTRA * (not measured)
    widths = [LOG_HALF_WIDTH.get(name, OTHER_HALF_WIDTH) + extra for name in BINDING]
    assert np.log(high / time_us) == pytest.approx(widths)
    assert np.log(time_us / low) == pytest.approx(widths)


def test_memory_is_trusted_most_and_waiting_least() -> None:
    assert min(LOG_HALF_WIDTH, key=LOG_HALF_WIDTH.__getitem__) == "dram"
    assert max(LOG_HALF_WIDTH.values()) == LOG_HALF_WIDTH["latency"] == OTHER_HALF_WIDTH
    assert EMULATED_EXTRA > 0
    assert UNMEASURED_EXTRA > 0
