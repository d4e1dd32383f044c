"""The error that a tensor format leaves in a tensor."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.error.rounding import Rounder, numpy_rounder
from sim.error.scales import block_grid, find_scales
from tiles.formats import TensorFormat
from tiles.formats.block_scales import block_amax

__all__ = [
    "BeyondRangeError",
    "ErrorSums",
    "TensorError",
    "check_finite",
    "ratio_db",
    "tensor_error",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]

#: Elements that go through the sums at once: some 0.5 MB a temporary, which stays in the cache.
_CHUNK_ELEMENTS = 2**16


class BeyondRangeError(ValueError):
    """Finite data that a format rounds to a NaN or an infinity: they have no error."""


def check_finite(x: F32, name: str = "data") -> None:
    """Refuse data whose error is not defined.

    Raises:
        TypeError: not float32.
        ValueError: not a non-empty matrix, or it holds a NaN or an infinity.
    """
    if x.dtype != np.float32:
        raise TypeError(f"{name}: errors are those of float32 tensors, got {x.dtype}: cast it")
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"{name}: errors are those of non-empty matrices, got shape {x.shape}")
    if not (np.isfinite(x.min()) and np.isfinite(x.max())):  # both are NaN where one value is
        row, col = (int(i) for i in np.argwhere(~np.isfinite(x))[0])
        raise ValueError(
            f"{name} must be finite, got {x[row, col]} at ({row}, {col}): one NaN or infinity "
            "makes the scale of its block NaN; leave such tensors out"
        )


def ratio_db(signal: float, noise: float) -> float:
    """10·log10(signal / noise); infinite without noise."""
    if noise == 0:
        return math.inf
    quotient = signal / noise
    return 10 * math.log10(quotient) if quotient > 0 else -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorError:
    """How far what the codes stand for lies from a tensor ``x``."""

    sqnr_db: float  #: 10·log10(sum of x² / sum of error²); infinite when nothing was lost
    relative_max: float  #: largest |error| / |x| over x ≠ 0; 0 for an all-zero tensor
    relative_mean: float  #: mean of the same
    clipped_share: float  #: of all elements, those that saturate, see :meth:`BlockScales.limits`
    flushed_share: float  #: of all elements, those with x ≠ 0 that became 0
    count: int  #: elements


def _may_saturate(x: F32, fmt: TensorFormat, low: F64, high: F64) -> bool:
    """False when no block holds a number beyond its limits, as under most absmax scales."""
    if fmt.scaling is None:
        return bool(x.min() < low.min() or x.max() > high.max())
    return bool((block_amax(x, fmt.scaling) > np.minimum(-low, high)).any())


class ErrorSums:
    """Adds up errors over any number of tensors, in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.signal = 0.0  #: sum of x²
        self.noise = 0.0  #: sum of error²
        self.relative = 0.0  #: sum of |error| / |x|
        self.relative_max = 0.0
        self.nonzero = 0
        self.clipped = 0
        self.flushed = 0

    def add(self, x: F32, rounded: Floats, fmt: TensorFormat, *, appended: int = 0) -> None:
        """Count a tensor in.

        Args:
            x: (rows, cols) float32, whole blocks of the format: scales are found from it.
            rounded: (rows, cols) float32 or float64, what its codes stand for.
            appended: last rows that lend their extremes to the scales and are not counted.
        Raises:
            TypeError: ``x`` is not float32.
            ValueError: the shapes differ, or ``x`` holds a NaN or an infinity.
            BeyondRangeError: ``rounded`` holds one.
        """
        check_finite(x)
        if rounded.shape != x.shape:
            raise ValueError(f"a tensor of shape {x.shape} was rounded to shape {rounded.shape}")
        low, high = find_scales(x, fmt, rounded).limits()
        saturates = _may_saturate(x, fmt, low, high)
        rows, cols = len(x) - appended, x.shape[1]
        step = max(1, _CHUNK_ELEMENTS // cols)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            part = x[first:last].astype(np.float64)
            after = rounded[first:last].astype(np.float64, copy=False)
            if saturates:
                lows, highs = (block_grid(g, fmt.scaling, first, *part.shape) for g in (low, high))
                self.clipped += int(np.count_nonzero((part < lows) | (part > highs)))
            self._add(part, after)
        if not math.isfinite(self.noise):
            raise BeyondRangeError(f"{fmt}: finite data were rounded to a NaN or an infinity")

    def _add(self, x: NDArray[np.float64], rounded: NDArray[np.float64]) -> None:
        error = rounded - x
        np.abs(error, out=error)
        size = np.abs(x)
        nonzero = size > 0
        self.count += x.size
        # Not by BLAS, whose threads cost many times what they bring while others work.
        self.signal += float(np.einsum("ij,ij", size, size))
        self.noise += float(np.einsum("ij,ij", error, error))
        whole = int(np.count_nonzero(nonzero))
        self.nonzero += whole
        # What is zero is zero in every format, so its quotient stays the error, 0.
        self.flushed += whole - int(np.count_nonzero(rounded != 0))
        if whole == x.size:
            np.divide(error, size, out=error)
        else:
            np.divide(error, size, out=error, where=nonzero)
        self.relative += float(error.sum())
        self.relative_max = max(self.relative_max, float(error.max()))

    def merge(self, other: "ErrorSums") -> None:
        """Count in what another one has counted."""
        self.count += other.count
        self.signal += other.signal
        self.noise += other.noise
        self.relative += other.relative
        self.relative_max = max(self.relative_max, other.relative_max)
        self.nonzero += other.nonzero
        self.clipped += other.clipped
        self.flushed += other.flushed

    def result(self) -> TensorError:
        """The error of all that was counted.

        Raises:
            ValueError: nothing was.
        """
        if self.count == 0:
            raise ValueError("no tensor was counted: add one first")
        return TensorError(
            sqnr_db=ratio_db(self.signal, self.noise),
            relative_max=self.relative_max,
            relative_mean=self.relative / max(1, self.nonzero),
            clipped_share=self.clipped / self.count,
            flushed_share=self.flushed / self.count,
            count=self.count,
        )


def tensor_error(
    x: F32, fmt: TensorFormat, rounder: Rounder = numpy_rounder, seed: int = 0
) -> TensorError:
    """The error that a format leaves in a tensor.

    Args:
        x: (rows, cols) float32, finite.
        rounder: the codec; the reference's, or a faster one with the same result.
        seed: of stochastic rounding.
    Raises:
        TypeError: ``x`` is not float32.
        ValueError: ``x`` is no non-empty matrix, or holds a NaN or an infinity.
    """
    check_finite(x)
    sums = ErrorSums()
    sums.add(x, rounder(x, fmt, seed), fmt)
    return sums.result()
