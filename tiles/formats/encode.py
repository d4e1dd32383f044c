"""NumPy reference of the element codecs: float32 to codes and back.

Written to be read: floats and integers by arithmetic that is exact in float64, posits and codebooks
by search in their grid.  The fast routines (:mod:`tiles.formats.torch_codec`) are held to it.
"""

import numpy as np
from numpy.typing import NDArray

from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
)
from tiles.formats.grid import MAX_BITS, code_grid, code_values
from tiles.formats.intake import check_codes, check_encode, code_beyond
from tiles.formats.rounding import Rounding

__all__ = ["Codes", "can_overflow", "code_dtype", "decode", "encode"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
#: Bit patterns, one an item: uint8 up to 8 bits, uint16 up to 16, else uint32.
Codes = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

#: Stands for infinity while magnitudes are computed with; above every element format's range.
_HUGE = 2.0**200
_RANDOM_RANGE = 2.0**32


def code_dtype(fmt: ElementFormat | ExponentElement) -> type[np.unsignedinteger]:
    """The smallest unsigned integer that holds a code."""
    if fmt.bits <= 8:
        return np.uint8
    return np.uint16 if fmt.bits <= 16 else np.uint32


def can_overflow(fmt: ElementFormat) -> bool:
    """True where there is a code, infinity or NaN, for what lies beyond the largest number."""
    return isinstance(fmt, FloatElement) and fmt.nan_code is not None


def encode(
    x: F32,
    fmt: ElementFormat,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    saturate: bool = True,
    random: NDArray[np.uint32] | None = None,
) -> Codes:
    """Codes of ``x`` in an element format.

    Args:
        x: any shape, float32.
        saturate: numbers beyond the largest become the largest, infinities too.  False: what rounds
            beyond it becomes infinity, or NaN where the format has no infinity.
        random: 32 random bits an element, for stochastic rounding: the distance from the smaller
            magnitude, cut to 32 bits, is added to them, and a carry rounds up.
    Returns:
        Bit patterns of ``x.shape``.  A NaN takes ``fmt.nan_code``, or the code of zero where there
        is none: there the scale has to carry it.
    Raises:
        TypeError: ``x`` is no float32 array, ``fmt`` no element format, ``rounding`` no
            :class:`Rounding`, or random bits are not uint32.
        ValueError: random bits are missing or of another shape, or ``saturate=False`` for a format
            without infinity and NaN.
    """
    check_encode(x, fmt, rounding, random)
    if not saturate and not can_overflow(fmt):
        raise ValueError(f"{fmt} has no code for what lies beyond its range: it always saturates")
    match fmt:
        case FloatElement():
            codes = _encode_float(x, fmt, rounding, saturate, random)
        case IntElement():
            codes = _encode_int(x, fmt, rounding, random)
        case PositElement() | CodebookElement():
            codes = _encode_by_search(x, fmt, rounding, random)
    return codes.astype(code_dtype(fmt))


def _to_integer(ratio: F64, rounding: Rounding, random: NDArray[np.uint32] | None) -> I64:
    """Round magnitudes, given in units of the last place kept."""
    match rounding:
        case Rounding.NEAREST_EVEN:
            rounded = np.rint(ratio)
        case Rounding.NEAREST_AWAY:
            whole = np.floor(ratio)
            rounded = whole + (ratio - whole >= 0.5)
        case Rounding.TOWARD_ZERO:
            rounded = np.floor(ratio)
        case Rounding.STOCHASTIC:
            assert random is not None
            whole = np.floor(ratio)
            rounded = whole + _carries(ratio - whole, random)
    return rounded.astype(np.int64)


def _carries(fraction: F64, random: NDArray[np.uint32]) -> NDArray[np.bool_]:
    carries: NDArray[np.bool_] = np.floor(fraction * _RANDOM_RANGE) + random >= _RANDOM_RANGE
    return carries


def _encode_float(
    x: F32,
    fmt: FloatElement,
    rounding: Rounding,
    saturate: bool,
    random: NDArray[np.uint32] | None,
) -> I64:
    nan, infinite = np.isnan(x), np.isinf(x)
    x = np.where(nan, np.float32(0), x)  # before any arithmetic: a NaN may be a signalling one
    magnitude = np.where(infinite, _HUGE, np.abs(x).astype(np.float64))
    _, exponent = np.frexp(magnitude)  # magnitude = f · 2**exponent with f in [0.5, 1)
    # An exponent past the largest binade is past the largest code, whatever the mantissa.
    exponent = np.clip(exponent - 1, fmt.min_exponent, fmt.max_exponent + 1)
    exponent = np.where(magnitude > 0, exponent, fmt.min_exponent)  # zero has none of its own
    ratio = np.minimum(np.ldexp(magnitude, fmt.mantissa_bits - exponent), 2.0**fmt.precision)
    steps = _to_integer(ratio, rounding, random)
    # A subnormal's code is its count of steps; each binade above has 2**mantissa_bits more.
    codes = ((exponent - fmt.min_exponent).astype(np.int64) << fmt.mantissa_bits) + steps
    over = codes > fmt.max_code
    codes = np.minimum(codes, fmt.max_code)
    if not fmt.signed:
        codes, over = np.where(x < 0, 0, codes), over & (x > 0)
    else:
        negative = np.signbit(x)
        if fmt.specials is Specials.FNUZ:
            negative &= codes > 0
        # Not a choice by sign: random ones take a processor ten times as long as this.
        codes |= negative.astype(np.int64) << (fmt.bits - 1)
    if not saturate:
        if rounding is Rounding.TOWARD_ZERO:  # IEEE 754-2019, section 7.4: finite stays finite
            over = over & infinite
        codes = np.where(over, _overflow_codes(x, fmt), codes)
    return np.where(nan, fmt.nan_code or 0, codes).astype(np.int64)


def _overflow_codes(x: F32, fmt: FloatElement) -> I64:
    if fmt.inf_code is None:
        return np.full(x.shape, fmt.nan_code, np.int64)
    return np.where(np.signbit(x), fmt.inf_code | 1 << (fmt.bits - 1), fmt.inf_code)


def _encode_int(
    x: F32, fmt: IntElement, rounding: Rounding, random: NDArray[np.uint32] | None
) -> I64:
    x = np.where(np.isnan(x), np.float32(0), x)
    magnitude = np.abs(x).astype(np.float64) * 2.0**fmt.fraction_bits
    steps = _to_integer(np.minimum(magnitude, fmt.max_integer), rounding, random)
    steps = np.minimum(steps, fmt.max_integer)
    signed = steps * np.sign(x).astype(np.int64) if fmt.signed else np.where(x < 0, 0, steps)
    return (signed + fmt.offset) & ((1 << fmt.bits) - 1)


def _encode_by_search(
    x: F32,
    fmt: PositElement | CodebookElement,
    rounding: Rounding,
    random: NDArray[np.uint32] | None,
) -> I64:
    grid = code_grid(fmt)
    nan = np.isnan(x)
    clean = np.where(nan, np.float32(0), x)
    key = np.abs(clean) if grid.by_magnitude else clean
    place = grid.places(key, rounding)
    if random is not None:
        place = _stochastic_place(grid.values, key.astype(np.float64), place, random)
    codes = grid.codes[place]
    if isinstance(fmt, PositElement):
        codes = np.where(clean < 0, -codes & ((1 << fmt.bits) - 1), codes)
        codes = np.where(nan, fmt.nan_code, codes)
    else:
        codes = np.where(nan, np.argmin(np.abs(grid.values)), codes)
    return codes.astype(np.int64)


def _stochastic_place(values: F64, x: F64, place: I64, random: NDArray[np.uint32]) -> I64:
    """Move on from the place nearer to zero with the probability of the distance from it."""
    outward = np.where(x < 0, -1, 1)
    beyond = np.clip(place + outward, 0, len(values) - 1)
    here, there = values[place], values[beyond]
    gap = np.abs(there - here)
    # Outside the range there is no gap; below the smallest posit the distance would be negative.
    fraction = np.where(gap > 0, (np.abs(x) - np.abs(here)) / np.where(gap > 0, gap, 1.0), 0.0)
    return np.where(_carries(np.clip(fraction, 0.0, None), random), beyond, place)


def decode(codes: Codes, fmt: ElementFormat | ExponentElement) -> F32:
    """What codes stand for; exact, since every value of every format is an fp32 number.

    Args:
        codes: any shape, unsigned integers, bit patterns.
    Returns:
        float32 of the same shape, NaN and infinities included.
    Raises:
        TypeError: no unsigned integers, or no format.
        ValueError: a code that needs more bits than the format has; the message says where.
    """
    check_codes(codes, fmt)
    if codes.dtype.itemsize * 8 > fmt.bits and (codes >= 1 << fmt.bits).any():
        raise code_beyond(codes, fmt)
    if isinstance(fmt, ExponentElement):
        nan = codes == fmt.nan_code
        exponents = np.where(nan, 0, codes.astype(np.int32) - fmt.bias)
        powers = np.ldexp(np.float32(1), exponents)
        return np.where(nan, np.float32(np.nan), powers).astype(np.float32)
    if isinstance(fmt, FloatElement) and (_is_float16(fmt) or _is_bfloat16(fmt)):
        assert fmt.inf_code is not None
        assert fmt.nan_code is not None
        # Every NaN becomes the quiet one: a signalling one would trap on its way.
        nan = (codes & 0x7FFF) > fmt.inf_code
        codes = np.where(nan, np.uint16(fmt.nan_code), codes.astype(np.uint16, copy=False))
        if _is_float16(fmt):
            return codes.view(np.float16).astype(np.float32)
    elif fmt.bits <= MAX_BITS:
        return code_values(fmt).astype(np.float32)[codes]
    # bfloat16 and wider formats are fp32 with its last mantissa bits cut off.
    wide = codes.astype(np.uint32) << np.uint32(32 - fmt.bits)
    return wide.view(np.float32)


def _is_float16(fmt: FloatElement) -> bool:
    return (fmt.bits, fmt.precision, fmt.bias, fmt.specials) == (16, 11, 15, Specials.IEEE)


def _is_bfloat16(fmt: FloatElement) -> bool:
    return (fmt.bits, fmt.precision, fmt.bias, fmt.specials) == (16, 8, 127, Specials.IEEE)
