"""A second definition of the element formats, in exact rationals.

The reference codec is held to it.  It shares no code with ``tiles.formats``: floats are walked up
from zero, step by step; posits follow the closed formula of the Posit Standard (2022), section 3.3;
integers are counted; and encoding is a search for the two neighbours of a rational number.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

#: Sign bits, exponent bits, mantissa bits, bias, and what the last codes mean.
FLOATS = {
    "e5m2": (1, 5, 2, 15, "ieee"),
    "e4m3fn": (1, 4, 3, 7, "fn"),
    "e4m3": (1, 4, 3, 7, "ieee"),
    "e5m2fnuz": (1, 5, 2, 16, "fnuz"),
    "e4m3fnuz": (1, 4, 3, 8, "fnuz"),
    "e4m3b11fnuz": (1, 4, 3, 11, "fnuz"),
    "e3m4fn": (1, 3, 4, 3, "fn"),
    "e3m4": (1, 3, 4, 3, "ieee"),
    "e3m2fn": (1, 3, 2, 3, "none"),
    "e2m3fn": (1, 2, 3, 1, "none"),
    "e2m1fn": (1, 2, 1, 1, "none"),
    # Spelt out by their names.
    "e2m5fn": (1, 2, 5, 1, "fn"),
    "e4m3b9fnuz": (1, 4, 3, 9, "fnuz"),
    "e5m3": (1, 5, 3, 15, "ieee"),
    "e3m1": (1, 3, 1, 3, "ieee"),
    "e2m1b-3": (1, 2, 1, -3, "ieee"),
    "e1m2fn": (1, 1, 2, 0, "none"),
    "e2m1b1fn": (1, 2, 1, 1, "none"),
    "e3m2b3": (1, 3, 2, 3, "ieee"),
    "e1m6fnuz": (1, 1, 6, 1, "fnuz"),
    "e4m5": (1, 4, 5, 7, "ieee"),
    "e6m3b40fn": (1, 6, 3, 40, "fn"),
    "ffp8_e3m4b5": (1, 3, 4, 5, "none"),
    "ffp8_e5m2b20": (1, 5, 2, 20, "none"),
    "ffp8_e1m6": (1, 1, 6, 0, "none"),
    "ffp8_ue4m4": (0, 4, 4, 7, "none"),
    "ffp8_ue1m7b3": (0, 1, 7, 3, "none"),
    "ffp8_ue7m1": (0, 7, 1, 63, "none"),
}
WIDE_FLOATS = {
    "fp16": (1, 5, 10, 15, "ieee"),
    "bf16": (1, 8, 7, 127, "ieee"),
    "e6m9": (1, 6, 9, 31, "ieee"),
    "e5m8fn": (1, 5, 8, 15, "fn"),
    "e5m10fnuz": (1, 5, 10, 16, "fnuz"),
}
#: Bits, signed, fraction bits, offset of the stored code.
INTEGERS = {
    "int8": (8, True, 0, 0),
    "uint8": (8, False, 0, 0),
    "int4": (4, True, 0, 8),
    "uint4": (4, False, 0, 0),
    "mxint8": (8, True, 6, 0),
    # Spelt out by their names.
    "int2": (2, True, 0, 2),
    "int3": (3, True, 0, 4),
    "int6": (6, True, 0, 32),
    "int9": (9, True, 0, 0),
    "uint2": (2, False, 0, 0),
    "uint3": (3, False, 0, 0),
    "uint10": (10, False, 0, 0),
}
#: Bits, exponent bits.
POSITS = {
    "posit8es0": (8, 0),
    "posit8es1": (8, 1),
    "posit8es2": (8, 2),
    # Spelt out by their names.
    "posit3es0": (3, 0),
    "posit6es1": (6, 1),
    "posit9es4": (9, 4),
    "posit10es2": (10, 2),
}


@dataclass(frozen=True)
class Exact:
    """What every code of a format stands for, and how numbers become codes."""

    name: str
    bits: int
    values: dict[int, Fraction]  #: every finite code that encoding makes use of, minus zero aside
    minus_zero: int | None = None
    infinities: dict[int, int] = field(default_factory=dict)  #: code to sign
    nans: frozenset[int] = frozenset()
    beyond: Fraction | None = None  #: what would follow the largest value, for overflow by rounding
    middles: dict[Fraction, Fraction] | None = None  #: from each value to the change to the next
    never_zero: bool = False
    unused: dict[int, Fraction] = field(default_factory=dict)  #: decoded, never encoded

    @cached_property
    def by_value(self) -> list[tuple[float, int]]:
        """Values in ascending order, as floats that equal them."""
        return sorted((exactly(value), code) for code, value in self.values.items())

    @cached_property
    def ascending(self) -> list[float]:
        return [value for value, _ in self.by_value]

    @cached_property
    def code(self) -> dict[float, int]:
        return dict(self.by_value)

    @cached_property
    def midpoints(self) -> list[float]:
        """Between each value and the next, where rounding to nearest changes over."""
        pairs = list(pairwise(sorted(self.values.values())))
        if self.middles is None:
            return [exactly((low + high) / 2) for low, high in pairs]
        return [exactly(self.middles[a] if a >= 0 else -self.middles[-b]) for a, b in pairs]

    @cached_property
    def overflow_midpoint(self) -> float:
        """Where rounding to nearest overflows."""
        return exactly((max(self.values.values()) + (self.beyond or 0)) / 2)

    @cached_property
    def max(self) -> float:
        return self.ascending[-1]

    @cached_property
    def min(self) -> float:
        return self.ascending[0]

    def decoded(self) -> np.ndarray:
        """(2**bits,) float64, minus zero, infinities and NaN included."""
        table = np.full(1 << self.bits, np.nan)
        for code, value in (self.values | self.unused).items():
            table[code] = float(value)
        if self.minus_zero is not None:
            table[self.minus_zero] = -0.0
        for code, sign in self.infinities.items():
            table[code] = sign * np.inf
        assert set(np.flatnonzero(np.isnan(table))) == self.nans
        return table

    def encode(self, x: float, rounding: str, *, saturate: bool = True) -> int | None:
        """The code of a number that is not NaN; None stands for any NaN.

        ``rounding`` is rne, away or rtz.
        """
        negative = x < 0 or (x == 0 and math.copysign(1, x) < 0)
        if x in (math.inf, -math.inf):
            if not saturate:
                return self._overflow(negative)
            value = self.min if negative else self.max
        else:
            value = self._rounded(x, rounding)
            if value > self.max or (value < self.min < 0):
                if not saturate and rounding != "rtz":
                    return self._overflow(negative)
                value = self.max if value > 0 else self.min
        if value == 0 and negative and self.minus_zero is not None:
            return self.minus_zero
        return self.code[value]

    def _overflow(self, negative: bool) -> int | None:
        if negative and self.min == 0:
            return self.code[0]
        for code, sign in self.infinities.items():
            if (sign < 0) == negative:
                return code
        return None

    def _rounded(self, x: float, rounding: str) -> float:
        """The right one of two neighbours; floats are compared, all of them exact."""
        if x >= self.max:
            if self.beyond is None:
                return self.max
            low, high, middle = self.max, float(self.beyond), self.overflow_midpoint
            if x >= high:  # it does not matter what follows: all of it has overflowed
                return high
            low_is_even = self.code[low] % 2 == 0
        elif x <= self.min:
            if self.min == 0 or self.beyond is None:
                return self.min
            return -self._rounded(-x, rounding)
        else:
            place = bisect_right(self.ascending, x)
            (low, code), (high, _) = self.by_value[place - 1], self.by_value[place]
            low_is_even, middle = code % 2 == 0, self.midpoints[place - 1]
        if x == low:
            return low
        if self.never_zero and 0 in (low, high):
            return low or high
        outward, inward = (high, low) if x > 0 else (low, high)
        if rounding == "rtz":
            return inward
        if x == middle:
            if rounding == "away":
                return outward
            return low if low_is_even else high
        return low if x < middle else high


def exactly(value: Fraction) -> float:
    """The float that equals a rational, so that comparing floats is comparing rationals."""
    number = float(value)
    assert number == value
    return number


def exact_float(name: str, sign: int, exponent: int, mantissa: int, bias: int, last: str) -> Exact:
    """Walk up from zero: 2**(m + 1) steps of the first size, then it doubles every 2**m codes."""
    count = 1 << (exponent + mantissa)
    step, value, walked = Fraction(2) ** (1 - bias - mantissa), Fraction(0), []
    for code in range(count + 1):
        walked.append(value)
        if code >= 2 << mantissa and code % (1 << mantissa) == 0:
            step *= 2
        value += step
    finite = {"ieee": count - (1 << mantissa), "fn": count - 1}.get(last, count)
    minus = count if sign else None
    values = dict(enumerate(walked[:finite]))
    if sign:
        values |= {code + count: -value for code, value in values.items() if value}
    signs = (0, count) if sign else (0,)
    infinities = {s + finite: -1 if s else 1 for s in signs} if last == "ieee" else {}
    nans = {s + code for s in signs for code in range(finite + (last == "ieee"), count)}
    if last == "fnuz":
        nans, minus = {count}, None
    return Exact(
        name=name,
        bits=sign + exponent + mantissa,
        values=values,
        minus_zero=minus,
        infinities=infinities,
        nans=frozenset(nans),
        beyond=walked[finite],
    )


def exact_integer(name: str, bits: int, signed: bool, fraction_bits: int, offset: int) -> Exact:
    """Count the integers in use; the most negative one of two's complement is not."""
    half = 1 << (bits - 1)
    integers = range(1 - half, half) if signed else range(2 * half)
    unit = Fraction(1, 1 << fraction_bits)
    return Exact(
        name=name,
        bits=bits,
        values={(i + offset) % (1 << bits): i * unit for i in integers},
        unused={(offset - half) % (1 << bits): -half * unit} if signed else {},
    )


def posit_value(code: int, bits: int, es: int) -> Fraction:
    """((1 - 3s) + f) · 2^((1 - 2s) · (2^es · r + e + s)), on the bits as they stand."""
    digits = [code >> (bits - 1 - i) & 1 for i in range(bits)]
    sign, first = digits[0], digits[1]
    run = 1
    while run + 1 < bits and digits[run + 1] == first:
        run += 1
    regime = run - 1 if first else -run
    rest = [*digits[run + 2 :], *[0] * es]
    exponent = sum(bit << (es - 1 - i) for i, bit in enumerate(rest[:es]))
    fraction = sum((Fraction(bit, 2 << i) for i, bit in enumerate(rest[es:])), Fraction(0))
    power = (1 - 2 * sign) * ((1 << es) * regime + exponent + sign)
    return (1 - 3 * sign + fraction) * Fraction(2) ** power


def exact_posit(name: str, bits: int, es: int) -> Exact:
    """Zero and NaR aside every code is a number; the next longer posit says what is nearer."""
    nar = 1 << (bits - 1)
    codes = [code for code in range(1 << bits) if code not in (0, nar)]
    values = {code: posit_value(code, bits, es) for code in codes} | {0: Fraction(0)}
    middles = {values[c]: posit_value(2 * c + 1, bits + 1, es) for c in range(nar - 1)}
    return Exact(
        name=name,
        bits=bits,
        values=values,
        nans=frozenset({nar}),
        middles=middles,
        never_zero=True,
    )


def exact_table(name: str, bits: int, values: tuple[float, ...]) -> Exact:
    return Exact(name=name, bits=bits, values=dict(enumerate(map(Fraction, values))))


@cache
def all_exact() -> dict[str, Exact]:
    """Every format of up to 10 bits but the table nf4, whose values are data."""
    return {
        **{name: exact_float(name, *facts) for name, facts in FLOATS.items()},
        **{name: exact_integer(name, *facts) for name, facts in INTEGERS.items()},
        **{name: exact_posit(name, *facts) for name, facts in POSITS.items()},
    }


def telling_points(exact: Exact) -> np.ndarray:
    """Values, midpoints, the fp32 neighbours of both, and the ends of the range; of both signs.

    Returns:
        (n,) float32, sorted, without NaN.
    """
    edges = {abs(value) for value in [*exact.ascending, *exact.midpoints]}
    # Where a posit's neighbours are equally far is not where its rounding changes over.
    edges |= {abs(low + high) / 2 for low, high in pairwise(exact.ascending)}
    if exact.beyond is not None:
        beyond = float(exact.beyond)
        edges |= {beyond, exact.overflow_midpoint, 2 * beyond}
    else:
        step = exact.max - exact.ascending[-2]
        edges |= {exact.max + step / 2, exact.max + step, 2 * exact.max}
    near = np.array(sorted(edges))
    tiny, top = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    ends = np.array([0, tiny, 2.0**-126, 1, top, np.inf])
    points = np.concatenate([near, ends]).astype(np.float32)
    with np.errstate(over="ignore"):
        up, down = (np.nextafter(points, np.float32(to)) for to in (np.inf, -np.inf))
    points = np.concatenate([points, up, down])
    return np.unique(np.concatenate([points, -points, [np.float32(-0.0)]]).view(np.uint32)).view(
        np.float32
    )
