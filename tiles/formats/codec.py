"""NumPy reference codec: rounding to an element format and quantising in blocks.

The rule (one for every backend of the workbench): ``scale = amax / max_element`` and
``code = round(x / scale)``, both IEEE fp32 divisions, round to nearest even, saturating.  An
all-zero block has codes 0 and scale 1; a NaN or an infinity makes the scale of its block NaN.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiles.formats.elements import ElementFormat, IntElement
from tiles.formats.tensor import Scaling, TensorFormat

__all__ = ["Quantized", "dequantize", "quantize", "round_to_element"]

F32 = NDArray[np.float32]


def round_to_element(x: F32, fmt: ElementFormat) -> F32:
    """Round ``x`` to the nearest value of ``fmt``, ties to even, saturating at ``±fmt.max``.

    Args:
        x: any shape, float32.  NaN stays NaN; infinities saturate like any other large value.
    Returns:
        float32 array of the same shape that holds only values of ``fmt``.
    """
    if isinstance(fmt, IntElement):
        return np.clip(np.rint(x), -fmt.max, fmt.max).astype(np.float32)
    if fmt.bits == 32:
        return x.astype(np.float32)
    clipped = np.clip(x, -fmt.max, fmt.max).astype(np.float64)
    _, exponent = np.frexp(clipped)  # |x| = f * 2**exponent with f in [0.5, 1)
    spacing = np.ldexp(1.0, np.maximum(exponent - 1, fmt.min_exponent) - fmt.mantissa_bits)
    rounded: F32 = (np.rint(clipped / spacing) * spacing).astype(np.float32)
    return rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Codes and scales of a matrix; ``codes`` holds element *values*, not bit patterns."""

    codes: F32  #: (rows, cols), values of the element format
    scales: F32  #: scale grid of the format, see :meth:`Scaling.grid`
    format: TensorFormat


def _spread(scales: F32, scaling: Scaling, rows: int, cols: int) -> F32:
    """Repeat a scale grid to one scale an element."""
    spread = np.repeat(scales, rows if scaling.rows is None else scaling.rows, axis=0)[:rows]
    return np.repeat(spread, cols if scaling.cols is None else scaling.cols, axis=1)[:, :cols]


def _block_amax(x: F32, scaling: Scaling) -> F32:
    """Largest magnitude of every block, ragged last blocks included; NaN wins over numbers."""
    rows, cols = x.shape
    row_starts = np.arange(0, rows, rows if scaling.rows is None else scaling.rows)
    col_starts = np.arange(0, cols, cols if scaling.cols is None else scaling.cols)
    by_rows = np.maximum.reduceat(np.abs(x), row_starts, axis=0)
    return np.maximum.reduceat(by_rows, col_starts, axis=1)


def quantize(x: F32, fmt: TensorFormat) -> Quantized:
    """Quantise a matrix under the workbench's rule (see the module's docstring).

    Args:
        x: (rows, cols) float32.
    Returns:
        Codes as values, and fp32 scales; without scaling the scale grid is a single 1.
    Raises:
        ValueError: ``x`` is not a non-empty matrix.
    """
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"quantize takes a non-empty matrix, got shape {x.shape}")
    x = np.ascontiguousarray(x, dtype=np.float32)
    if fmt.scaling is None:
        return Quantized(
            codes=round_to_element(x, fmt.element), scales=np.ones((1, 1), np.float32), format=fmt
        )
    amax = _block_amax(x, fmt.scaling)
    scales = amax / np.float32(fmt.element.max)
    # amax below max_element * 2^-149 underflows to a zero scale and is stored as an all-zero block.
    scales = np.where(scales == 0, np.float32(1), scales)
    scales = np.where(np.isfinite(amax), scales, np.float32(np.nan))
    with np.errstate(invalid="ignore"):
        ratio = x / _spread(scales, fmt.scaling, *x.shape)
    return Quantized(codes=round_to_element(ratio, fmt.element), scales=scales, format=fmt)


def dequantize(q: Quantized) -> NDArray[np.float64]:
    """Exact values (rows, cols) that the codes stand for: code x scale in float64."""
    if q.format.scaling is None:
        return q.codes.astype(np.float64)
    scales = _spread(q.scales, q.format.scaling, *q.codes.shape)
    return q.codes.astype(np.float64) * scales.astype(np.float64)
