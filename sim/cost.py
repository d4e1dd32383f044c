"""What every cost function returns: columns of times and traffic."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Cost"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Times and traffic of a table's rows."""

    time_us: F64
    terms_us: dict[str, F64]  #: what each resource alone would take
    dram_read_bytes: F64
    dram_write_bytes: F64
    l2_read_bytes: F64  #: bytes from L2 to the multiprocessors
