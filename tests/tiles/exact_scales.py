"""A second definition of scaling, block by block in exact rationals.

Shares no code with ``tiles.formats``.  The conventions that it states: quotients are rounded to
fp32 once, scales to the format that they are stored in (to nearest even, saturating), a scale that
is 0 becomes 1, and codes are ``round(fp32(x / scale))``.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from exact_elements import Exact

F0 = Fraction(0)


def exponent_of(x: Fraction) -> int:
    """floor(log2 x)."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if Fraction(2) ** guess <= x else guess - 1


def round_binary(x: Fraction, precision: int, min_exponent: int, top: Fraction) -> Fraction:
    """To nearest even with so many significand bits; subnormals below; saturating."""
    count, power = steps_of(x.numerator, x.denominator, precision, min_exponent)
    rounded = Fraction(count << power) if power >= 0 else Fraction(count, 1 << -power)
    return max(-top, min(top, rounded))


def steps_of(over: int, under: int, precision: int, min_exponent: int) -> tuple[int, int]:
    """``over / under`` to nearest even: steps, and the power of two that one step is."""
    size = abs(over)
    exponent = size.bit_length() - under.bit_length()
    if size << max(-exponent, 0) < under << max(exponent, 0):
        exponent -= 1
    power = max(exponent, min_exponent) - precision + 1
    if power >= 0:
        under <<= power
    else:
        size <<= -power
    count, rest = divmod(size, under)
    count += 2 * rest > under or (2 * rest == under and count % 2 == 1)
    return count if over >= 0 else -count, power


#: Precision, exponent of the smallest normal, largest.
STORED = {
    "fp32": (24, -126, (2 - Fraction(1, 2**23)) * 2**127),
    "fp16": (11, -14, Fraction(65504)),
    "bf16": (8, -126, (2 - Fraction(1, 2**7)) * 2**127),
    "e4m3fn": (4, -6, Fraction(448)),
}


FP32_MAX = float(STORED["fp32"][2])


def fp32(x: Fraction) -> Fraction:
    return round_binary(x, *STORED["fp32"])


def as_float(x: Fraction) -> float:
    """Correctly rounded, as division of Python integers is."""
    return x.numerator / x.denominator


@dataclass(frozen=True)
class Scheme:
    """A scaling in words; ``rows`` and ``cols`` None mean all of them."""

    rows: int | None
    cols: int | None
    rule: str = "absmax"
    stored: str = "fp32"
    percentile: str = ""
    two_level: bool = False


@dataclass(frozen=True)
class Block:
    """One block's scale (None: poisoned), zero point, codes and exact values."""

    scale: Fraction | None
    zero: int
    codes: list[int | None]  #: None stands for any NaN
    values: list[Fraction]


def blocks(x: np.ndarray, scheme: Scheme) -> dict[tuple[int, int], tuple[slice, slice]]:
    """Where each block lies; none reaches over the end of a row."""
    rows, cols = x.shape
    high, wide = scheme.rows or rows, scheme.cols or cols
    return {
        (i, j): (slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide))
        for i in range(math.ceil(rows / high))
        for j in range(math.ceil(cols / wide))
    }


def exponent_scale(amax: Fraction, element: Exact, rule: str) -> Fraction:
    """The E8M0 rules of OCP MX v1.0 (floor), cuBLAS (rceil), torchao (ceil) and Quark (even)."""
    largest = Fraction(element.max)
    emax = exponent_of(largest)
    if amax == 0:
        return Fraction(2) ** -127
    if rule == "floor":
        power = exponent_of(amax) - emax
    elif rule == "ceil":
        power = -exponent_of(1 / amax) - emax
    elif rule == "rceil":
        power = -exponent_of(largest / amax)
    else:
        # amax rounded to nearest, halves up, with as many mantissa bits as the element has.
        step = Fraction(2) ** (exponent_of(amax) - mantissa_bits(element))
        power = exponent_of(math.floor(amax / step + Fraction(1, 2)) * step) - emax
    return Fraction(2) ** max(-127, min(127, power))


def mantissa_bits(element: Exact) -> int:
    """Bits that the values of the last binade differ in."""
    first = 2.0 ** exponent_of(Fraction(element.max))
    return (sum(value >= first for value in element.ascending) - 1).bit_length()


def store(ideal: Fraction, scheme: Scheme) -> Fraction:
    scale = round_binary(ideal, *STORED[scheme.stored])
    return max(scale, Fraction(1, 64)) if scheme.two_level else scale


def codes_of(
    numbers: list[Fraction], divisor: Fraction, element: Exact, rounding: str
) -> list[int | None]:
    return [element.encode(quotient(x, divisor), rounding) for x in numbers]


def quotient(x: Fraction, divisor: Fraction) -> float:
    """fp32 quotient as a float; beyond fp32's range its largest, which saturates like infinity."""
    over, under = x.numerator * divisor.denominator, x.denominator * divisor.numerator
    count, power = steps_of(over, under, *STORED["fp32"][:2])
    if count.bit_length() + power > 128:
        return math.copysign(FP32_MAX, count)
    return math.ldexp(count, power)  # exact: 24 bits


def squared_error(
    numbers: list[Fraction], scale: Fraction, outer: Fraction, element: Exact
) -> Fraction:
    codes = codes_of(numbers, fp32(scale * outer), element, "rne")
    unit = scale * outer
    values = [element.values.get(code, F0) * unit for code in codes]
    return sum(((x - v) ** 2 for x, v in zip(numbers, values, strict=True)), F0)


def candidates(amax: Fraction, outer: Fraction, element: Exact, scheme: Scheme) -> list[Fraction]:
    """The 32 scales of the mse rule, largest first."""
    clips = [fp32(amax * Fraction(64 - i, 64)) for i in range(32)]
    ideals = [fp32(fp32(clip / Fraction(element.max)) / outer) for clip in clips]
    return [store(ideal, scheme) for ideal in ideals]


def least_error(
    numbers: list[Fraction], amax: Fraction, outer: Fraction, element: Exact, scheme: Scheme
) -> Fraction:
    scales = [scale for scale in candidates(amax, outer, element, scheme) if scale]
    return min(scales, key=lambda s: squared_error(numbers, s, outer, element), default=F0)


def tensor_scale(x: np.ndarray, element: Exact, scheme: Scheme) -> Fraction:
    """NVFP4: the largest amax of blocks without NaN and infinity over 6 · 448."""
    if not scheme.two_level:
        return Fraction(1)
    parts = [np.abs(x[where]) for where in blocks(x, scheme).values()]
    top = max((Fraction(float(p.max())) for p in parts if np.isfinite(p).all()), default=F0)
    return fp32(top / (Fraction(element.max) * 448)) or Fraction(1)


def scale_of(
    numbers: list[Fraction], outer: Fraction, element: Exact, scheme: Scheme, asymmetric: bool
) -> Fraction:
    magnitudes = sorted(abs(x) for x in numbers)
    amax, largest = magnitudes[-1], Fraction(element.max)
    if amax == 0:
        return Fraction(1)
    if scheme.rule == "mse":
        return least_error(numbers, amax, outer, element, scheme) or Fraction(1)
    if asymmetric:
        high, low = max(F0, *numbers), min(F0, *numbers)
        ideal = fp32(fp32(fp32(high / 2) - fp32(low / 2)) / (largest / 2))
    elif scheme.rule == "percentile":
        rank = math.ceil(Fraction(scheme.percentile) * len(numbers) / 100)
        ideal = fp32(magnitudes[rank - 1] / largest)
    else:
        ideal = fp32(amax / largest)
    if scheme.rule == "pow2":
        ideal = min(Fraction(2) ** -exponent_of(1 / ideal), Fraction(2) ** 127) if ideal else F0
    return store(fp32(ideal / outer), scheme) or Fraction(1)


def quantize_block(
    block: np.ndarray,
    element: Exact,
    scheme: Scheme,
    outer: Fraction,
    *,
    rounding: str = "rne",
    asymmetric: bool = False,
) -> Block:
    """Codes in row-major order, and what they stand for without the rounding of any sum."""
    flat = block.astype(np.float64).ravel().tolist()
    if not np.isfinite(flat).all():
        nothing = None if element.nans else element.code[0]
        return Block(scale=None, zero=0, codes=[nothing] * len(flat), values=[])
    numbers = [Fraction(x) for x in flat]
    if scheme.stored == "e8m0fnu":
        scale = exponent_scale(max(map(abs, numbers)), element, scheme.rule)
    else:
        scale = scale_of(numbers, outer, element, scheme, asymmetric)
    divisor = fp32(scale * outer)
    if not asymmetric:
        codes = [
            element.encode(math.copysign(quotient(x, divisor), sign), rounding)
            for x, sign in zip(numbers, flat, strict=True)
        ]
        unit = scale * outer
        values = [element.values.get(c, F0) * unit for c in codes if c is not None]
        return Block(scale=scale, zero=0, codes=codes, values=values)
    top = int(element.max)
    zero = max(0, min(top, round(fp32(-min(F0, *numbers) / scale))))
    steps = [round(fp32(x / divisor)) for x in numbers]
    shifted = [max(0, min(top, step + zero)) for step in steps]
    return Block(
        scale=scale, zero=zero, codes=[*shifted], values=[(c - zero) * scale for c in shifted]
    )
