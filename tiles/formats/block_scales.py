"""NumPy reference of the scale rules: from a block's values to its stored scale."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
)
from tiles.formats.encode import decode, encode
from tiles.formats.scaling import ScaleRule, Scaling

__all__ = [
    "MIN_TWO_LEVEL_SCALE",
    "MSE_STEPS",
    "MSE_SUM_BITS",
    "block_amax",
    "block_scales",
    "spread",
    "tensor_scale",
    "zero_points",
]

F32 = NDArray[np.float32]

#: The MSE rule tries ``amax · (1 - i / (2 · MSE_STEPS)) / max_element`` for i = 0 .. MSE_STEPS - 1.
MSE_STEPS = 32
#: Squared errors of a block are added as integers, so that the sum is the same in any order.
MSE_SUM_BITS = 62
#: Smallest block scale of NVFP4: the smallest normal of e4m3fn.
MIN_TWO_LEVEL_SCALE = np.float32(2.0**-6)


def spread(scales: F32, scaling: Scaling, rows: int, cols: int) -> F32:
    """Repeat a scale grid to one scale an element."""
    wide = np.repeat(scales, rows if scaling.rows is None else scaling.rows, axis=0)[:rows]
    return np.repeat(wide, cols if scaling.cols is None else scaling.cols, axis=1)[:, :cols]


def _reduce(ufunc: np.ufunc, x: F32, scaling: Scaling) -> F32:
    rows, cols = x.shape
    high, wide = scaling.rows or rows, scaling.cols or cols
    return np.ascontiguousarray(_runs(ufunc, _runs(ufunc, x, high).T, wide).T)


def _runs(ufunc: np.ufunc, x: F32, extent: int) -> F32:
    """Reduce runs of ``extent`` items along the first axis, the last one ragged."""
    if extent == 1:
        return x
    whole = len(x) // extent * extent
    # Much faster than reduceat, which NumPy does item by item.
    runs: F32 = ufunc.reduce(x[:whole].reshape(-1, extent, x.shape[1]), axis=1)
    if whole == len(x):
        return runs
    return np.concatenate([runs, ufunc.reduce(x[whole:], axis=0, keepdims=True)])


def block_amax(x: F32, scaling: Scaling) -> F32:
    """Largest magnitude of every block, ragged last blocks included; NaN wins over numbers."""
    return _reduce(np.maximum, np.abs(x), scaling)


def _blocks(x: F32, scaling: Scaling) -> Iterator[tuple[tuple[int, int], F32]]:
    rows, cols = x.shape
    high, wide = scaling.rows or rows, scaling.cols or cols
    for i in range(0, rows, high):
        for j in range(0, cols, wide):
            yield (i // high, j // wide), x[i : i + high, j : j + wide]


def tensor_scale(amax: F32, element: ElementFormat, scaling: Scaling) -> np.float32:
    """Second-level scale: the largest finite amax over the largest element x the largest scale."""
    if not scaling.two_level:
        return np.float32(1)
    finite = amax[np.isfinite(amax)]
    top = np.float32(finite.max(initial=0))
    scale = top / np.float32(element.max * scaling.stored.max)
    return np.float32(scale) if scale > 0 else np.float32(1)


def block_scales(x: F32, element: ElementFormat, scaling: Scaling, outer: np.float32) -> F32:
    """The stored scale of every block, as the fp32 number it stands for.

    Args:
        x: (rows, cols) float32.
        outer: the tensor's own scale, 1 where there is one level.
    Returns:
        (grid) float32.  All-zero blocks, and those whose scale underflows, have scale 1 (E8M0:
        2^-127); a NaN or an infinity makes its block's scale NaN.
    """
    amax = block_amax(x, scaling)
    finite = _finite_or_zero(amax)
    if isinstance(scaling.stored, ExponentElement):
        scales = _exponent_scales(finite, element, scaling)
    else:
        scales = _float_scales(x, finite, element, scaling, scaling.stored, outer)
    return np.where(np.isfinite(amax), scales, np.float32(np.nan))


def _float_scales(
    x: F32,
    amax: F32,
    element: ElementFormat,
    scaling: Scaling,
    stored: FloatElement,
    outer: np.float32,
) -> F32:
    top = np.float32(element.max)
    if scaling.rule is ScaleRule.MSE:
        scales = _least_squares_scales(x, amax, element, scaling, stored, outer)
    else:
        if isinstance(element, IntElement) and not element.signed:
            # Halves: the whole span of a block may exceed fp32's range.
            ideal = _finite_or_zero(_half_span(x, scaling)) / (top / 2)
        elif scaling.rule is ScaleRule.PERCENTILE:
            ideal = _quotient(_percentile_amax(x, amax, scaling), top)
        elif scaling.rule is ScaleRule.POW2:
            ideal = _power_above(_quotient(amax, top))
        else:
            ideal = _quotient(amax, top)
        scales = _stored(ideal / outer, stored, scaling)
    return np.where((scales == 0) | (amax == 0), np.float32(1), scales)


def _quotient(amax: F32, top: np.float32) -> F32:
    """fp32 quotient; infinite where the largest element is below 1 and amax near fp32's end."""
    with np.errstate(over="ignore"):
        return amax / top


def _stored(scales: F32, stored: FloatElement, scaling: Scaling) -> F32:
    """Round scales to the format they are stored in, saturating."""
    scales = scales.astype(np.float32)
    if stored.bits == 32:  # fp32: the codec would give back what it was given
        rounded = np.minimum(scales, np.float32(stored.max))
    else:
        rounded = decode(encode(scales, stored), stored)
    return np.maximum(rounded, MIN_TWO_LEVEL_SCALE) if scaling.two_level else rounded


def _power_above(ratio: F32) -> F32:
    """The smallest power of two not below each ratio, at most 2^127; zero stays zero."""
    ratio = np.minimum(ratio, np.finfo(np.float32).max)
    fraction, exponent = np.frexp(ratio)  # ratio = fraction · 2**exponent, fraction in [0.5, 1)
    exponent = np.minimum(exponent - (fraction == 0.5), 127)
    return np.where(ratio > 0, np.ldexp(np.float32(1), exponent), np.float32(0))


def _exponent_scales(amax: F32, element: ElementFormat, scaling: Scaling) -> F32:
    """Powers of two under the E8M0 rules; from exponents and mantissas, never from a logarithm."""
    assert isinstance(scaling.stored, ExponentElement)
    # TensorFormat refuses codebooks, which have neither.
    assert not isinstance(element, CodebookElement)
    emax, mantissa_bits = element.max_exponent, element.mantissa_bits
    fraction, exponent = np.frexp(amax)
    floor = exponent - 1
    match scaling.rule:
        case ScaleRule.FLOOR:
            power = floor - emax
        case ScaleRule.CEIL:
            power = floor + (fraction != 0.5) - emax
        case ScaleRule.EVEN:
            carries = fraction * 2 >= 2.0 - 2.0 ** -(mantissa_bits + 1)
            power = floor + carries - emax
        case _:
            # Without a division: its quotient would round among the fp32 subnormals.
            top_fraction, top_exponent = np.frexp(np.float32(element.max))
            power = exponent - top_exponent + (fraction > top_fraction)
    bias = scaling.stored.bias
    power = np.clip(power, -bias, scaling.stored.max_code - bias)
    power = np.where(amax > 0, power, -bias)
    scales: F32 = np.ldexp(np.float32(1), power)
    return scales


def _percentile_amax(x: F32, amax: F32, scaling: Scaling) -> F32:
    """The magnitude of the percentile's rank in every block; 0 for poisoned blocks."""
    result = np.zeros_like(amax)
    for place, block in _blocks(np.abs(x), scaling):
        if np.isfinite(block).all():
            result[place] = np.sort(block, axis=None)[scaling.rank(block.size) - 1]
    return result


def _finite_or_zero(amax: F32) -> F32:
    return np.where(np.isfinite(amax), amax, np.float32(0))


def _least_squares_scales(
    x: F32,
    amax: F32,
    element: ElementFormat,
    scaling: Scaling,
    stored: FloatElement,
    outer: np.float32,
) -> F32:
    """Of the candidates, the stored scale of least squared error; of equals the largest."""
    result = np.zeros_like(amax)
    top = np.float32(element.max)
    for place, block in _blocks(x, scaling):
        if amax[place] == 0:
            continue
        unit = 2.0 ** (MSE_SUM_BITS - int(block.size - 1).bit_length())
        best = None
        for step in range(MSE_STEPS):
            clip = amax[place] * np.float32(1 - step / (2 * MSE_STEPS))
            scale = _stored(_quotient(np.array(clip), top) / outer, stored, scaling)[()]
            if scale == 0:
                break
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                ratio = block / (scale * outer)
            values = decode(encode(ratio, element), element).astype(np.float64)
            # In units of amax the error is at most 1; products of code and scales are exact.
            error = block.astype(np.float64) - values * np.float64(scale) * np.float64(outer)
            error /= np.float64(amax[place])
            total = int(np.floor(error * error * unit).astype(np.int64).sum())
            if best is None or total < best:
                best, result[place] = total, scale
    return result


def _half_span(x: F32, scaling: Scaling) -> F32:
    """Half of largest minus smallest value of every block, zero counted in."""
    low = np.minimum(_reduce(np.minimum, x, scaling), np.float32(0))
    high = np.maximum(_reduce(np.maximum, x, scaling), np.float32(0))
    with np.errstate(invalid="ignore"):
        return (high * np.float32(0.5) - low * np.float32(0.5)).astype(np.float32)


def zero_points(x: F32, element: IntElement, scaling: Scaling, scales: F32) -> NDArray[np.uint8]:
    """Codes that stand for zero: ``round(-min / scale)`` of every block, in [0, 2**bits - 1]."""
    low = np.minimum(_reduce(np.minimum, x, scaling), np.float32(0))
    with np.errstate(invalid="ignore"):
        shift = np.nan_to_num(np.rint(-low / scales), nan=0.0)
    zeros: NDArray[np.uint8] = np.clip(shift, 0, element.max_integer).astype(np.uint8)
    return zeros
