"""Rounding a matrix slice by slice, with the scales that the whole matrix has."""

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.error import ErrorSums, Rounder
from tiles.formats import ScaleRule, TensorFormat

__all__ = ["SLICE_ROWS", "Extremes", "add_slice", "slices_alike", "worker_threads"]

F32 = NDArray[np.float32]

#: Slices start at multiples of this, so that blocks of 1 to 128 rows are those of the whole.
SLICE_ROWS = 128

#: Rounding waits for memory from here on.
MAX_THREADS = 8


def worker_threads() -> int:
    """Threads that formats are rounded on side by side."""
    return min(MAX_THREADS, os.cpu_count() or 1)


@dataclass(slots=True)
class Extremes:
    """Least and largest value of every column so far; NaN wins over numbers."""

    low: F32 | None = None  #: (cols,)
    high: F32 | None = None  #: (cols,)

    def add(self, x: F32) -> None:
        """Take in a slice (rows, cols)."""
        low, high = x.min(axis=0), x.max(axis=0)
        self.low = low if self.low is None else np.minimum(self.low, low)
        self.high = high if self.high is None else np.maximum(self.high, high)

    @property
    def finite(self) -> bool:
        """False after a NaN or an infinity."""
        assert self.low is not None
        assert self.high is not None
        return bool(np.isfinite(self.low).all() and np.isfinite(self.high).all())

    @property
    def zero(self) -> bool:
        """True when every value was zero."""
        assert self.low is not None
        assert self.high is not None
        return not (self.low.any() or self.high.any())


def _spans_rows(fmt: TensorFormat) -> bool:
    """True when a scale depends on all rows."""
    return fmt.scaling is not None and (fmt.scaling.rows is None or fmt.scaling.two_level)


def slices_alike(fmt: TensorFormat) -> bool:
    """True when a matrix counted by :func:`add_slice` has the error that it has as a whole.

    It does for blocks that end where slices end, and for scales over all rows that follow from
    extremes.  Stochastic rounding draws other bits for a slice, from the same distribution.
    """
    scaling = fmt.scaling
    if scaling is None:
        return True
    if scaling.rows is None:
        return scaling.rule not in (ScaleRule.MSE, ScaleRule.PERCENTILE)
    # The two rows that carry the extremes must not fall into a ragged last block.
    return SLICE_ROWS % scaling.rows == 0 and (scaling.rows == 1 or not scaling.two_level)


def add_slice(
    sums: ErrorSums, x: F32, fmt: TensorFormat, extremes: Extremes, rounder: Rounder, seed: int
) -> None:
    """Count the error of a slice that is quantised under the scales of the whole matrix.

    Args:
        sums: of the matrix under this format.
        x: (rows, cols) float32, a multiple of :data:`SLICE_ROWS` rows or the matrix's last rows.
        fmt: a format of which :func:`slices_alike` is true.
        extremes: of the whole matrix.
        rounder: quantises and dequantises a matrix.
        seed: key of stochastic rounding; another one for every slice.
    """
    if not _spans_rows(fmt):
        sums.add(x, rounder(x, fmt, seed), fmt)
        return
    assert extremes.low is not None
    assert extremes.high is not None
    # With the extremes in two rows of its own, the slice has the same amax, by column and in all.
    extended = np.vstack([x, extremes.low, extremes.high])
    sums.add(extended, rounder(extended, fmt, seed), fmt, appended=2)
