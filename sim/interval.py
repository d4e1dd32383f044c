"""The 90 % interval around a predicted time, first version.

Half-widths in log-time by what limits a configuration and by numeric path.  They are priors, not
fitted: models of this kind without any measurement of the machine miss by 15-20 % on average in the
literature, least where DRAM limits and most where exposed latency or instruction counts do.  With
measurements, conformal intervals take their place.
"""

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import NumericPath

__all__ = ["interval_us"]

F64 = NDArray[np.float64]

#: 1.645 standard deviations of log(measured / predicted) that each limit is trusted to.
LOG_HALF_WIDTH = {
    "tensor": 0.30,
    "cuda_cores": 0.40,
    "shared_memory": 0.35,
    "l2": 0.35,
    "dram": 0.25,
    "load_store": 0.45,
    "latency": 0.50,
    "prologue_epilogue": 0.50,
    "launch": 0.40,
}
#: The same for a term that a kernel family's own cost model names otherwise.
OTHER_HALF_WIDTH = 0.50
#: Added on the emulated path, whose instruction counts are guesses.
EMULATED_EXTRA = 0.15
#: Added for a GPU of whose figures none was measured on the board: they are the datasheet's or
#: guessed by generation, and the model's constants were set on another GPU.  A prior: it turns 0.3,
#: an average miss of 15 %, into 0.5, one of 25 %.
UNMEASURED_EXTRA = 0.20


def interval_us(
    time_us: F64, terms_us: dict[str, F64], path: NumericPath, *, measured: bool
) -> tuple[F64, F64]:
    """Lower and upper end of the 90 % interval: ``0 < low < time < high``, elementwise.

    Args:
        measured: figures of the GPU were measured on the board (:attr:`sim.Gpu.measured`).
    """
    extra = EMULATED_EXTRA if path is NumericPath.EMULATED else 0.0
    if not measured:
        extra += UNMEASURED_EXTRA
    factors = np.exp([LOG_HALF_WIDTH.get(name, OTHER_HALF_WIDTH) + extra for name in terms_us])
    # Columns one after another: an argmax across them costs many times as much.
    largest, *others = terms_us.values()
    binding = np.zeros(len(time_us), np.intp)
    for index, term in enumerate(others, 1):
        binding[term > largest] = index
        largest = np.maximum(largest, term)
    factor = factors[binding]
    return time_us / factor, time_us * factor
