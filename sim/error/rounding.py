"""From a tensor to what its codes stand for, by the NumPy codec or a fast twin of it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.error.scales import block_grid
from tiles.formats import (
    FloatElement,
    IntElement,
    Rounding,
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
_CHUNK_ELEMENTS = 2**14
_EXPONENT = np.uint64(0x7FF0_0000_0000_0000)


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
    step = max(1, _CHUNK_ELEMENTS // x.shape[1])
    for first in range(0, len(x), step):
        part = x[first : first + step]
        wide = block_grid(scales, scaling, first, *part.shape)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
            ratio = part / (wide * outer)
        values = round_to_nearest(ratio, element)
        rounded[first : first + step] = values * wide.astype(np.float64) * float(outer)
    return rounded


def round_to_nearest(ratio: F32, element: FloatElement | IntElement) -> F64:
    """The value nearest to each number, ties to the even code, saturating.

    Args:
        ratio: any shape, float32, no NaN.
    """
    x = ratio.astype(np.float64)
    if isinstance(element, IntElement):
        unit = 2.0**element.fraction_bits
        low = -element.max_integer if element.signed else 0
        steps = np.rint(np.clip(x * unit, low, element.max_integer))
        return np.asarray(steps / unit)
    size = np.minimum(np.abs(x), 2 * element.max)
    # 2**exponent of each number, that of the smallest normal one for subnormals.
    power = (size.view(np.uint64) & _EXPONENT).view(np.float64)
    np.maximum(power, 2.0**element.min_exponent, out=power)
    # Adding 2**52 steps rounds to whole steps: fp64 has no room for more.
    power *= 2.0 ** (52 - element.mantissa_bits)
    size += power
    size -= power
    np.minimum(size, element.max, out=size)
    if not element.signed:
        return np.where(x < 0, 0.0, size)
    return np.copysign(size, x, out=size)
