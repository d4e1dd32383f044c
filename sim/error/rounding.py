"""From a tensor to what its codes stand for, by the NumPy codec or a fast twin of it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.error.scales import block_grid
from tiles.formats import (
    FloatElement,
    IntElement,
    Rounding,
    Scaling,
    TensorFormat,
    dequantize,
    quantize,
)
from tiles.formats.block_scales import block_amax, block_scales, tensor_scale

__all__ = ["Rounder", "numpy_rounder", "round_to_nearest"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]

#: Quantises and dequantises: (rows, cols) float32, its format, the seed of stochastic rounding
#: -> (rows, cols) what the codes stand for.  Its scales must be those of the reference codec.
Rounder = Callable[[F32, TensorFormat, int], Floats]

#: Elements that are rounded at once: 128 KB a temporary, which stays in the cache.
_CHUNK_ELEMENTS = 2**13
#: Unsigned integers of the same width, masks of exponent and sign, and bits of the mantissa.
_FP32 = (np.dtype(np.uint32), np.uint32(0x7F80_0000), np.uint32(1 << 31), 23)
_FP64 = (np.dtype(np.uint64), np.uint64(0x7FF0_0000_0000_0000), np.uint64(1 << 63), 52)


def numpy_rounder(x: F32, fmt: TensorFormat, seed: int = 0) -> F64:
    """What the reference codec's codes stand for, float64.

    Floats and signed integers that saturate, rounded to nearest even, which is nearly all, take a
    way that never forms codes and is some five times as fast.

    Args:
        x: (rows, cols) float32, finite.
        seed: of stochastic rounding.
    """
    element, scaling = fmt.element, fmt.scaling
    quick = isinstance(element, FloatElement) or (
        isinstance(element, IntElement) and element.signed
    )
    if not quick or fmt.rounding is not Rounding.NEAREST_EVEN or not fmt.saturate:
        return dequantize(quantize(x, fmt, seed=seed))
    assert isinstance(element, FloatElement | IntElement)
    scales, outer = np.ones((1, 1), np.float32), np.float32(1)
    if scaling is not None:
        if scaling.two_level:
            outer = tensor_scale(block_amax(x, scaling), element, scaling)
        scales = block_scales(x, element, scaling, outer)
    rounded = np.empty(x.shape, np.float64)
    # A block of columns is an axis of its own: its scale is broadcast along it, never repeated.
    blocks = 1
    if scaling is not None and scaling.cols is not None:
        whole = x.shape[1] % scaling.cols == 0
        blocks = x.shape[1] // scaling.cols if whole else 0
    step = max(1, _CHUNK_ELEMENTS // x.shape[1])
    for first in range(0, len(x), step):
        part, after = x[first : first + step], rounded[first : first + step]
        if blocks:
            wide = _row_scales(scales, scaling, first, len(part))[:, :, None]
            part = part.reshape(len(part), blocks, -1)
            after = after.reshape(len(after), blocks, -1)
        else:
            wide = block_grid(scales, scaling, first, *part.shape)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            ratio = part / (wide * outer)
        values = round_to_nearest(ratio, element)
        after[...] = values  # NumPy multiplies mixed types in twice the time of these two steps
        after *= wide.astype(np.float64)
        if outer != 1:
            after *= float(outer)
    return rounded


def _row_scales(scales: F32, scaling: Scaling | None, first: int, rows: int) -> F32:
    """(rows or 1, blocks of columns) scales of ``rows`` rows from ``first`` on."""
    if scaling is None or scaling.rows is None:
        return scales
    return scales[np.arange(first, first + rows) // scaling.rows]


def round_to_nearest(ratio: F32, element: FloatElement | IntElement) -> Floats:
    """The value nearest to each number, ties to the even code, saturating.

    Args:
        ratio: any shape, float32, no NaN.
    Returns:
        float32 where every step of the way fits it, as under all elements of 8 bits; the same
        numbers in float64 elsewhere.
    """
    x: Floats = ratio if _fits_fp32(element) else ratio.astype(np.float64)
    if isinstance(element, IntElement):
        unit = 2.0**element.fraction_bits
        low = -element.max_integer if element.signed else 0
        steps = x.clip(low / unit, element.max_integer / unit)
        if unit == 1:
            np.rint(steps, out=steps)
            return steps
        steps *= unit
        np.rint(steps, out=steps)
        steps /= unit
        return steps
    size = np.abs(x)
    np.minimum(size, 2 * element.max, out=size)
    # 2**exponent of each number, that of the smallest normal one for subnormals.
    bits, exponent, sign, mantissa = _FP32 if x.dtype == np.float32 else _FP64
    power = (size.view(bits) & exponent).view(size.dtype)
    np.maximum(power, 2.0**element.min_exponent, out=power)
    # Adding 2**52 steps (fp32: 2**23) rounds to whole steps: there is no room for more.
    power *= 2.0 ** (mantissa - element.mantissa_bits)
    size += power
    size -= power
    np.minimum(size, element.max, out=size)
    if not element.signed:
        return np.where(x < 0, size.dtype.type(0), size)
    codes = size.view(bits)
    codes |= x.view(bits) & sign  # as copysign does, in half its time
    return size


def _fits_fp32(element: FloatElement | IntElement) -> bool:
    """Whether fp32 holds all that :func:`round_to_nearest` computes on the way."""
    if isinstance(element, IntElement):
        return element.bits <= 24
    spare = 23 - element.mantissa_bits
    lowest = element.min_exponent - element.mantissa_bits
    # Twice the largest value is moved up by the spare bits; a step is no less than fp32's smallest.
    return spare >= 1 and element.max_exponent + 2 + spare <= 127 and lowest >= -126
