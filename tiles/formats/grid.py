"""All values of a small element format, and the thresholds between its codes."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
)
from tiles.formats.rounding import Rounding

__all__ = ["CodeGrid", "code_grid", "code_values"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
MAX_BITS = 16


def _float_values(fmt: FloatElement, codes: NDArray[np.int64]) -> F64:
    magnitude = codes & ((1 << (fmt.exponent_bits + fmt.mantissa_bits)) - 1)
    exponent = magnitude >> fmt.mantissa_bits
    mantissa = magnitude & ((1 << fmt.mantissa_bits) - 1)
    significand = mantissa + np.where(exponent > 0, 1 << fmt.mantissa_bits, 0)
    power = np.maximum(exponent, 1) - fmt.bias - fmt.mantissa_bits
    values = np.ldexp(significand.astype(np.float64), power)
    values = np.where(codes != magnitude, -values, values)
    if fmt.specials is Specials.FNUZ:
        return np.where(codes == fmt.nan_code, np.nan, values)
    infinite = magnitude == fmt.inf_code if fmt.inf_code is not None else np.False_
    values = np.where(infinite, np.copysign(np.inf, values), values)
    return np.where((magnitude > fmt.max_code) & ~infinite, np.nan, values)


def _posit_value(code: int, bits: int, es: int) -> float:
    """One posit, read bit by bit."""
    nar = 1 << (bits - 1)
    if code in (0, nar):
        return 0.0 if code == 0 else np.nan
    if code > nar:
        return -_posit_value((1 << bits) - code, bits, es)
    digits = f"{code:0{bits}b}"[1:]
    run = len(digits) - len(digits.lstrip(digits[0]))
    regime = run - 1 if digits[0] == "1" else -run
    rest = digits[run + 1 :]  # behind the digit that ends the run
    exponent = int(rest[:es].ljust(es, "0") or "0", 2)  # missing exponent bits are zeros
    fraction = rest[es:]
    significand = 1.0 + (int(fraction, 2) / 2.0 ** len(fraction) if fraction else 0.0)
    return float(significand * 2.0 ** (regime * 2**es + exponent))


@cache
def code_values(fmt: ElementFormat) -> F64:
    """What each code stands for, exactly; NaN and infinities included.

    Returns:
        (2**bits,) read-only.
    Raises:
        ValueError: the format has more than 16 bits.
    """
    if fmt.bits > MAX_BITS:
        raise ValueError(f"{fmt}: a table of {fmt.bits}-bit codes is too long")
    codes = np.arange(1 << fmt.bits, dtype=np.int64)
    match fmt:
        case FloatElement():
            values = _float_values(fmt, codes)
        case IntElement():
            plain = (codes - fmt.offset) & ((1 << fmt.bits) - 1)
            negative = fmt.signed & (plain >= 1 << (fmt.bits - 1))
            values = (plain - np.where(negative, 1 << fmt.bits, 0)) / 2.0**fmt.fraction_bits
        case PositElement():
            values = np.array([_posit_value(int(code), fmt.bits, fmt.es) for code in codes])
        case CodebookElement():
            values = np.array(fmt.values)
    values.flags.writeable = False
    return values


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeGrid:
    """Values of a format in ascending order with their codes, and what lies between them.

    Formats that are symmetric about zero are listed by magnitude, and the sign is put on the code
    afterwards.
    """

    values: F64  #: (n,)
    codes: NDArray[np.int64]  #: (n,)
    middles: F64  #: (n - 1,) where rounding to nearest changes over
    by_magnitude: bool
    zero_is_reached: bool  #: False: nothing but zero itself rounds to zero

    def thresholds(self, rounding: Rounding) -> F32:
        """The smallest fp32 number that rounds to each value but the first, or beyond it.

        So the place of ``x`` in the grid is the number of thresholds not above ``x``.  Stochastic
        rounding starts from the places of rounding toward zero.

        Returns:
            (n - 1,) float32.
        """
        low, high = self.values[:-1], self.values[1:]
        negative = low < 0
        match rounding:
            case Rounding.NEAREST_EVEN:
                edges, at_edge = self.middles, self.codes[:-1] % 2 == 1
            case Rounding.NEAREST_AWAY:
                edges, at_edge = self.middles, ~negative
            case _:
                edges, at_edge = np.where(negative, low, high), ~negative
        first = edges.astype(np.float32)
        below = first < edges  # rounded down on the way to fp32
        passed = below | ((first == edges) & ~at_edge)
        first = np.where(passed, np.nextafter(first, np.float32(np.inf)), first)
        if not self.zero_is_reached:
            first[0] = np.finfo(np.float32).smallest_subnormal
        return first.astype(np.float32)

    def places(self, x: F32, rounding: Rounding) -> NDArray[np.int64]:
        """The place in the grid that each number rounds to.

        Args:
            x: any shape, no NaN; magnitudes where the grid lists these.
        """
        thresholds = self.thresholds(rounding)
        if self.by_magnitude and x.size >= _BUCKETS:
            # Most numbers' upper halves tell their place: searching them one by one takes ten times
            # as long.  Magnitudes ascend with their bits.
            bucket = np.abs(x).view(np.uint32) >> 16
            starts = (np.arange(_BUCKETS, dtype=np.uint32) << 16).view(np.float32)
            first = np.searchsorted(thresholds, starts, side="right")
            last = np.append(first[1:], len(thresholds))
            if (last - first <= 1).all():
                beyond = np.append(thresholds, np.float32(np.inf))[first]
                place: NDArray[np.int64] = first[bucket]
                place += (x >= beyond[bucket]) & (place < last[bucket])
                return place
        return np.searchsorted(thresholds, x, side="right")


#: Upper halves of the bits of non-negative fp32 numbers, infinity included.
_BUCKETS = 0x7F81


@cache
def code_grid(fmt: ElementFormat) -> CodeGrid:
    """The grid of a format of at most 16 bits.

    Raises:
        ValueError: the format has more.
    """
    values = code_values(fmt)
    by_magnitude = isinstance(fmt, FloatElement | PositElement) or (
        isinstance(fmt, IntElement) and fmt.signed
    )
    usable = np.isfinite(values)
    if by_magnitude:
        usable &= (values >= 0) & ~np.signbit(values)
        if isinstance(fmt, IntElement):
            usable &= values <= fmt.max
    codes = np.flatnonzero(usable)
    codes = codes[np.argsort(values[codes], kind="stable")]
    finite = values[codes]
    if isinstance(fmt, PositElement):
        middles = np.array(
            [_posit_value(2 * int(code) + 1, fmt.bits + 1, fmt.es) for code in codes[:-1]]
        )
    else:
        middles = (finite[:-1] + finite[1:]) / 2
    return CodeGrid(
        values=finite,
        codes=codes,
        middles=middles,
        by_magnitude=by_magnitude,
        zero_is_reached=not isinstance(fmt, PositElement),
    )
