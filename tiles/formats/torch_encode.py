"""Element codecs in torch, on any device, eager or compiled: float32 to bit patterns and back.

Bit-identical with :mod:`tiles.formats.encode`.  Numbers are compared and cut as integers wherever
that is possible, so that no backend's subnormals, NaN patterns or fused roundings come into it.
"""

import numpy as np
import torch

from tiles.formats.catalogue import ELEMENTS
from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
)
from tiles.formats.grid import MAX_BITS, code_grid, code_values
from tiles.formats.rounding import Rounding
from tiles.formats.torch_constants import held_tensor

__all__ = ["CODE_DTYPES", "code_dtype", "decode", "encode", "pattern_dtype", "round_to_steps"]

#: Elements that torch stores in a dtype of their own; the others are stored as bit patterns.
CODE_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
#: Those whose conversion from float32 is torch's own, once numbers are clamped.
_CAST = (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000
_RANDOM_RANGE = 2**32


def pattern_dtype(fmt: ElementFormat) -> torch.dtype:
    """The integer that holds a bit pattern: uint8 up to 8 bits, int16 up to 16, else int32."""
    if fmt.bits <= 8:
        return torch.uint8
    return torch.int16 if fmt.bits <= 16 else torch.int32


def code_dtype(fmt: ElementFormat) -> torch.dtype:
    """The dtype that codes are stored in: torch's own of that format, else :func:`pattern_dtype`.

    By the record's facts: one that has a catalogue name and other facts is another format.
    """
    if fmt.name in CODE_DTYPES and fmt == ELEMENTS[fmt.name]:
        return CODE_DTYPES[fmt.name]
    return pattern_dtype(fmt)


def encode(
    x: torch.Tensor,
    fmt: ElementFormat,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    *,
    saturate: bool = True,
    random: torch.Tensor | None = None,
    without_nan: bool = False,
) -> torch.Tensor:
    """Bit patterns of ``x``.

    Args:
        x: any shape, float32.
        saturate: as in :func:`tiles.formats.encode`; False where the format has codes for it.
        random: int64 of the same shape in [0, 2**32), for stochastic rounding and it alone.
        without_nan: the caller knows that there is no NaN in ``x``, which saves a quarter.
    Returns:
        ``x.shape`` in :func:`pattern_dtype`.  A NaN takes ``fmt.nan_code``, or the code of zero
        where there is none.
    """
    match fmt:
        case IntElement():
            steps = round_to_steps(x, fmt, rounding, random, without_nan=without_nan)
            codes = (steps + fmt.offset if fmt.offset else steps).to(torch.int32)
            if fmt.signed and fmt.bits not in (8, 16):
                codes = codes & ((1 << fmt.bits) - 1)
            return codes.to(pattern_dtype(fmt))  # cuts a negative number to its last bits
        case FloatElement() if rounding is Rounding.NEAREST_EVEN and code_dtype(fmt) in _CAST:
            # Clamped first: not every torch release saturates in the cast to an 8-bit float.
            codes = x.clamp(-fmt.max, fmt.max).to(code_dtype(fmt)).view(pattern_dtype(fmt))
        case FloatElement() if fmt.exponent_bits == 8 and fmt.bias == 127:
            codes = _cut(x, fmt, rounding, random)
        case FloatElement() if rounding is Rounding.NEAREST_EVEN and _rounds_by_addition(fmt):
            codes = _round_by_addition(x, fmt)
        case _:
            codes = _search(x, fmt, rounding, random)
    if not saturate:
        assert isinstance(fmt, FloatElement)  # TensorFormat refuses the others
        over = _overflows(x, fmt, rounding, random)
        infinity, sign = fmt.inf_code, 1 << (fmt.bits - 1)
        codes = codes.masked_fill(over & (x > 0), _pattern(infinity or fmt.nan_code or 0, fmt))
        if fmt.signed:
            below = fmt.nan_code or 0 if infinity is None else infinity | sign
            codes = codes.masked_fill(over & (x < 0), _pattern(below, fmt))
    return codes if without_nan else codes.masked_fill(x.isnan(), _nan_pattern(fmt))


def _nan_pattern(fmt: FloatElement | PositElement | CodebookElement) -> int:
    if isinstance(fmt, CodebookElement):
        return int(np.argmin(np.abs(np.array(fmt.values))))
    return _pattern(fmt.nan_code or 0, fmt)


def _pattern(code: int, fmt: ElementFormat) -> int:
    """A code as a number of :func:`pattern_dtype`, whose types of 16 and 32 bits are signed."""
    return code - (1 << fmt.bits) if fmt.bits in (16, 32) and code >> (fmt.bits - 1) else code


def _overflows(
    x: torch.Tensor, fmt: FloatElement, rounding: Rounding, random: torch.Tensor | None
) -> torch.Tensor:
    """True where a number rounds beyond the largest, infinities included."""
    if rounding is Rounding.TOWARD_ZERO:  # IEEE 754-2019, section 7.4: finite stays finite
        return x.isinf()
    # In float64, which holds the middle behind every format's largest number.
    size, top, gap = x.abs().double(), fmt.max, 2.0 ** (fmt.max_exponent - fmt.mantissa_bits)
    if rounding is Rounding.STOCHASTIC:
        assert random is not None
        return _carries(((size - top) / gap).clamp(0.0, 1.0), random)
    if rounding is Rounding.NEAREST_EVEN and fmt.max_code % 2 == 0:
        return size > top + gap / 2
    return size >= top + gap / 2


def round_to_steps(
    x: torch.Tensor,
    fmt: IntElement,
    rounding: Rounding,
    random: torch.Tensor | None = None,
    *,
    without_nan: bool = False,
) -> torch.Tensor:
    """``x`` in steps of an integer format: whole float32 numbers within its range, NaN as 0."""
    if not without_nan:
        x = x.masked_fill(x.isnan(), 0.0)
    if fmt.fraction_bits:
        x = x * 2.0**fmt.fraction_bits
    x = x.clamp(-float(fmt.max_integer) if fmt.signed else 0.0, float(fmt.max_integer))
    if rounding is Rounding.NEAREST_EVEN:
        return torch.round(x)
    if rounding is Rounding.TOWARD_ZERO:
        return torch.trunc(x)
    whole = torch.trunc(x)
    fraction = (x - whole).abs()
    if rounding is Rounding.NEAREST_AWAY:
        return whole + torch.where(fraction >= 0.5, x.sign(), 0.0)
    assert random is not None
    return whole + torch.where(_carries(fraction, random), x.sign(), 0.0)


def _carries(fraction: torch.Tensor, random: torch.Tensor) -> torch.Tensor:
    # Scaling by a power of two is exact; the conversion to an integer cuts.
    return (fraction * float(_RANDOM_RANGE)).to(torch.int64) + random >= _RANDOM_RANGE


def _cut(
    x: torch.Tensor, fmt: FloatElement, rounding: Rounding, random: torch.Tensor | None
) -> torch.Tensor:
    """fp32's own exponents: the code is the fp32 word without its last mantissa bits."""
    word = x.view(torch.int32)
    magnitude = (word & _MAGNITUDE).clamp(max=_INFINITY)
    shift = 23 - fmt.mantissa_bits
    codes = magnitude >> shift
    if shift and rounding is Rounding.NEAREST_EVEN:
        codes = (magnitude + (codes & 1) + ((1 << (shift - 1)) - 1)) >> shift
    elif shift and rounding is Rounding.NEAREST_AWAY:
        codes = (magnitude + (1 << (shift - 1))) >> shift
    elif shift and rounding is Rounding.STOCHASTIC:
        assert random is not None
        rest = (magnitude & ((1 << shift) - 1)).to(torch.int64) << (32 - shift)
        codes = codes + (rest + random >= _RANDOM_RANGE).to(torch.int32)
    codes = codes.clamp(max=fmt.max_code)
    # An arithmetic shift of the sign bit; what is above the format's own is cut off by the type.
    sign = (word >> shift) & ~((1 << (fmt.bits - 1)) - 1)
    codes = codes | sign
    if 16 < fmt.bits < 32:
        codes = codes & ((1 << fmt.bits) - 1)
    return codes.to(pattern_dtype(fmt))


def _rounds_by_addition(fmt: FloatElement) -> bool:
    """True where fp32 has room for the numbers that :func:`_round_by_addition` adds."""
    return fmt.min_exponent >= -126 and fmt.max_exponent + 23 - fmt.mantissa_bits <= 127


def _round_by_addition(x: torch.Tensor, fmt: FloatElement) -> torch.Tensor:
    """Nearest even: fp32 rounds to the format's steps when a number of their size x 2^23 is added.

    Its last mantissa bits then count the steps.
    """
    word = x.view(torch.int32)
    magnitude = (word & _MAGNITUDE).view(torch.float32).clamp(max=fmt.max)
    # The power of two below each number, no smaller than that of the smallest normal one.
    lowest = (fmt.min_exponent + 127) << 23
    power = magnitude.view(torch.int32).clamp(min=lowest) & _INFINITY
    large = power + ((23 - fmt.mantissa_bits) << 23)
    steps = (magnitude + large.view(torch.float32)).view(torch.int32) - large
    # A subnormal's code is its count of steps; each binade above has 2**mantissa_bits more.
    codes = ((power - lowest) >> (23 - fmt.mantissa_bits)) + steps
    return _with_sign(codes, word, fmt).to(pattern_dtype(fmt))


def _with_sign(codes: torch.Tensor, word: torch.Tensor, fmt: FloatElement) -> torch.Tensor:
    """Codes of magnitudes, int32, with the sign of the fp32 words they come from."""
    if not fmt.signed:
        return torch.where(word < 0, 0, codes)
    sign = (word >> (32 - fmt.bits)) & (1 << (fmt.bits - 1))
    if fmt.specials is Specials.FNUZ:
        sign = torch.where(codes > 0, sign, 0)
    return codes | sign


def _ordered(values: np.ndarray) -> np.ndarray:
    """float32 as int32 of the same order; -0 comes before +0."""
    word = values.view(np.int32)
    return word ^ ((word >> 31) & np.int32(_MAGNITUDE))


@held_tensor
def _thresholds(fmt: ElementFormat, rounding: Rounding, device: torch.device) -> torch.Tensor:
    """Thresholds between the places of a format's grid, as ordered int32."""
    grid = code_grid(fmt)
    # Places are codes: neither floats nor posits nor codebooks leave one out between finite values.
    assert (grid.codes == np.arange(len(grid.codes))).all()
    thresholds = _ordered(grid.thresholds(rounding) + np.float32(0))
    # A threshold of zero is passed by -0 too.
    return torch.from_numpy(np.where(thresholds == 0, np.int32(-1), thresholds)).to(device)


@held_tensor
def _grid_values(fmt: ElementFormat, device: torch.device) -> torch.Tensor:
    """float64 values of a format's grid."""
    return torch.from_numpy(code_grid(fmt).values).to(device)


@held_tensor
def _values(fmt: ElementFormat, device: torch.device) -> torch.Tensor:
    """float32 value of every code."""
    return torch.from_numpy(code_values(fmt).astype(np.float32)).to(device)


def _search(
    x: torch.Tensor,
    fmt: FloatElement | PositElement | CodebookElement,
    rounding: Rounding,
    random: torch.Tensor | None,
) -> torch.Tensor:
    thresholds = _thresholds(fmt, rounding, x.device)
    word = x.view(torch.int32)
    if isinstance(fmt, CodebookElement):
        key = word ^ ((word >> 31) & _MAGNITUDE)
    else:
        key = word & _MAGNITUDE
    # A transposed matrix would be copied there in any case, with a warning.
    place = torch.searchsorted(thresholds, key.contiguous(), right=True, out_int32=True)
    if rounding is Rounding.STOCHASTIC:
        assert random is not None
        size = x if isinstance(fmt, CodebookElement) else x.abs()
        place = _stochastic_place(_grid_values(fmt, x.device), size.double(), place, random)
    if isinstance(fmt, FloatElement):
        place = _with_sign(place, word, fmt)
    elif isinstance(fmt, PositElement):
        place = torch.where(word < 0, -place, place) & ((1 << fmt.bits) - 1)
    return place.to(pattern_dtype(fmt))


def _stochastic_place(
    values: torch.Tensor, x: torch.Tensor, place: torch.Tensor, random: torch.Tensor
) -> torch.Tensor:
    """Move on from the place nearer to zero with the probability of the distance from it."""
    outward = torch.where(x < 0, -1, 1)
    beyond = (place + outward).clamp(0, len(values) - 1).to(torch.int32)
    here, there = values[place], values[beyond]
    gap = (there - here).abs()
    # Outside the range there is no gap; below the smallest posit the distance would be negative.
    distance = torch.where(gap > 0, x.abs() - here.abs(), 0.0).clamp(min=0.0)
    fraction = distance / torch.where(gap > 0, gap, 1.0)
    return torch.where(_carries(fraction, random), beyond, place)


def decode(patterns: torch.Tensor, fmt: ElementFormat) -> torch.Tensor:
    """float32 values of bit patterns, as :func:`encode` returns them; exact."""
    dtype = code_dtype(fmt)
    if dtype != patterns.dtype and not (isinstance(fmt, FloatElement) and fmt.bits == 8):
        return patterns.view(dtype).float()
    if fmt.bits > MAX_BITS:
        return (patterns << (32 - fmt.bits)).view(torch.float32)
    # Of 8-bit floats too: on CPUs a table is faster than torch's conversion.
    index = patterns.to(torch.int32)
    if fmt.bits == MAX_BITS:
        index = index & 0xFFFF
    values = _values(fmt, patterns.device)
    return values.index_select(0, index.reshape(-1)).view(patterns.shape)
