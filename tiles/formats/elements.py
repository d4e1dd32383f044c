"""Element formats: what one stored number means.

A format is a record of independent facts; everything else is derived from them.  The catalogue of
named formats, with their sources, is in :mod:`tiles.formats.catalogue`.
"""

import struct
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "CodebookElement",
    "ElementFormat",
    "ExponentElement",
    "FloatElement",
    "IntElement",
    "PositElement",
    "Specials",
]


class Specials(Enum):
    """Which codes of a float format are not finite numbers."""

    IEEE = "ieee"  #: all-ones exponent: mantissa 0 is infinity, any other mantissa is NaN
    FN = "fn"  #: finite: only the all-ones code of either sign is NaN, no infinity
    FNUZ = "fnuz"  #: finite, unsigned zero: the code of minus zero is NaN, no infinity
    NONE = "none"  #: every code is a finite number


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatElement:
    """A binary floating-point element format, complete in its fields.

    Value of a code with exponent field ``E`` and mantissa field ``M``: ``±2^(E-bias)·(1+M/2^m)``
    for ``E > 0`` and ``±2^(1-bias)·M/2^m`` for ``E = 0``, where ``m = precision - 1``.
    """

    name: str
    bits: int  #: total width, sign included
    precision: int  #: significand bits, the implicit one included
    bias: int
    specials: Specials
    signed: bool = True  #: False: no sign bit, negative numbers round to zero

    def __post_init__(self) -> None:
        if self.precision < 2 or self.exponent_bits < 1:
            most = self.precision + self.exponent_bits - 1
            raise ValueError(
                f"{self.name}: need 1 < precision <= {most}, which leaves an exponent, "
                f"got precision={self.precision}, bits={self.bits}"
            )
        if self.specials is Specials.FNUZ and not self.signed:
            raise ValueError(f"{self.name}: without a sign there is no code of minus zero")
        if self.specials is Specials.IEEE and self.exponent_bits < 2:
            raise ValueError(f"{self.name}: an exponent of 1 bit leaves no normal number")

    @property
    def mantissa_bits(self) -> int:
        """Stored mantissa bits, the implicit one left out."""
        return self.precision - 1

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent field."""
        return self.bits - self.precision + (0 if self.signed else 1)

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number, and of every subnormal."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite number."""
        return (self.max_code >> self.mantissa_bits) - self.bias

    @property
    def max_code(self) -> int:
        """Code of the largest finite number."""
        ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        match self.specials:
            case Specials.IEEE:
                return ones - (1 << self.mantissa_bits)
            case Specials.FN:
                return ones - 1
            case _:
                return ones

    @property
    def nan_code(self) -> int | None:
        """The code that a NaN takes here: all ones up to 8 bits, else the quiet NaN of IEEE 754."""
        ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        match self.specials:
            case Specials.NONE:
                return None
            case Specials.FNUZ:
                return 1 << (self.bits - 1)
            case Specials.IEEE if self.bits > 8:
                return self.max_code + 1 + (1 << (self.mantissa_bits - 1))
            case _:
                return ones

    @property
    def inf_code(self) -> int | None:
        """Code of plus infinity, where there is one."""
        return self.max_code + 1 if self.specials is Specials.IEEE else None

    @property
    def max(self) -> float:
        """Largest finite value."""
        steps = self.max_code & ((1 << self.mantissa_bits) - 1)
        return (1.0 + steps * self.epsilon) * 2.0**self.max_exponent

    @property
    def epsilon(self) -> float:
        """Distance from 1.0 to the next larger value."""
        return 2.0**-self.mantissa_bits

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value."""
        return 2.0 ** (self.min_exponent - self.mantissa_bits)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class IntElement:
    """An integer or fixed-point element.

    Signed: two's complement, symmetric, the most negative code unused, stored plus ``offset``.
    Unsigned: all codes in use; a scaled tensor of them carries a zero point a scale (asymmetric).
    """

    name: str
    bits: int
    signed: bool = True
    fraction_bits: int = 0  #: value = integer / 2**fraction_bits
    offset: int = 0  #: added to the integer where it is stored: 8 makes int4 an unsigned nibble

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise ValueError(f"{self.name}: integers of 2 to 16 bits, got {self.bits}")

    @property
    def max_integer(self) -> int:
        """Largest integer in use: 127 for int8, whose codes lie in [-127, 127]; 255 for uint8."""
        return int(2 ** (self.bits - (1 if self.signed else 0)) - 1)

    @property
    def max(self) -> float:
        """Largest value."""
        return self.max_integer / 2.0**self.fraction_bits

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest value's leading bit."""
        return self.max_integer.bit_length() - 1 - self.fraction_bits

    @property
    def mantissa_bits(self) -> int:
        """Bits of the largest value below its leading bit."""
        return self.max_integer.bit_length() - 1

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value."""
        return 2.0**-self.fraction_bits

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class PositElement:
    """A posit: sign, run-length coded regime, ``es`` exponent bits, fraction.

    Negative codes are two's complements.  Rounding is that of the Posit Standard (2022), section 4:
    to the nearer side of the posit that has one bit more, ties to the even code, never to zero or
    NaR (not a real, here NaN) and never past the largest posit.
    """

    name: str
    bits: int
    es: int

    def __post_init__(self) -> None:
        if not (3 <= self.bits <= 16 and 0 <= self.es <= 4):
            raise ValueError(
                f"{self.name}: posits of 3 to 16 bits and es 0 to 4, got {self.bits}, es {self.es}"
            )
        if self.max_exponent > 126:
            raise ValueError(
                f"{self.name}: posits up to 2^126, in fp32's range, got 2^{self.max_exponent}"
            )

    @property
    def max_code(self) -> int:
        """Code of the largest posit."""
        return (1 << (self.bits - 1)) - 1

    @property
    def nan_code(self) -> int:
        """Code of NaR."""
        return 1 << (self.bits - 1)

    @property
    def max(self) -> float:
        """Largest value: useed^(bits - 2) with useed = 2^(2^es)."""
        return float(2.0 ** ((self.bits - 2) * 2**self.es))

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest value."""
        return int((self.bits - 2) * 2**self.es)

    @property
    def mantissa_bits(self) -> int:
        """Fraction bits of values in [1, 2), where a posit has the most."""
        return max(0, self.bits - 3 - self.es)

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value."""
        return float(1.0 / self.max)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookElement:
    """A table of values in ascending order; the code is the place in the table."""

    name: str
    bits: int
    values: tuple[float, ...]  #: 2**bits of them, all of them exact in fp32

    def __post_init__(self) -> None:
        if len(self.values) != 2**self.bits or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"{self.name}: a codebook has 2**bits values in ascending order")
        for value in self.values:
            if abs(value) >= 2.0**127 or struct.unpack("f", struct.pack("f", value))[0] != value:
                raise ValueError(f"{self.name}: value {value} is no fp32 number: round it first")

    @property
    def max(self) -> float:
        """Largest magnitude."""
        return max(-self.values[0], self.values[-1])

    @property
    def min_subnormal(self) -> float:
        """Smallest positive value."""
        return min(value for value in self.values if value > 0)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentElement:
    """An unsigned power of two ``2^(code - bias)``, for scales alone; the last code is NaN.

    There is no zero and no infinity: code 0 is ``2^-bias``.  Source: OCP MX v1.0, E8M0.
    """

    name: str
    bits: int
    bias: int

    @property
    def max_code(self) -> int:
        """Code of the largest power."""
        return (1 << self.bits) - 2

    @property
    def nan_code(self) -> int:
        """The all-ones code."""
        return (1 << self.bits) - 1

    @property
    def max(self) -> float:
        """Largest power."""
        return 2.0 ** (self.max_code - self.bias)

    @property
    def min_subnormal(self) -> float:
        """Smallest power."""
        return 2.0**-self.bias

    def __str__(self) -> str:
        return self.name


ElementFormat = FloatElement | IntElement | PositElement | CodebookElement
