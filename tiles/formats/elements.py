"""Element formats: what one stored number means.

A format is a record of independent facts (width, significand, bias, specials); everything else is
derived from them.  Sources: OCP MX v1.0 and OCP OFP8 (e4m3fn, e5m2), IEEE 754-2019 (fp16, fp32),
the bfloat16 definition of TensorFlow/Arm (bf16).
"""

from dataclasses import dataclass
from enum import Enum

__all__ = ["ELEMENTS", "ElementFormat", "FloatElement", "IntElement", "Specials", "element"]


class Specials(Enum):
    """What the all-ones exponent of a float format stands for."""

    IEEE = "ieee"  #: mantissa 0 is infinity, any other mantissa is NaN
    FN = "fn"  #: finite: only the all-ones mantissa is NaN, no infinity


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

    def __post_init__(self) -> None:
        if not 1 < self.precision < self.bits:
            raise ValueError(
                f"{self.name}: need 1 < precision < bits, "
                f"got precision={self.precision}, bits={self.bits}"
            )

    @property
    def mantissa_bits(self) -> int:
        """Stored mantissa bits, the implicit one left out."""
        return self.precision - 1

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent field."""
        return self.bits - self.precision

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number, and of every subnormal."""
        return 1 - self.bias

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite number."""
        top = (1 << self.exponent_bits) - 1 - self.bias
        return top if self.specials is Specials.FN else top - 1

    @property
    def max(self) -> float:
        """Largest finite value."""
        # FN formats lose only the last mantissa of the last binade to NaN.
        ulps_below_two = 2 if self.specials is Specials.FN else 1
        return (2.0 - ulps_below_two * 2.0**-self.mantissa_bits) * 2.0**self.max_exponent

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
    """A symmetric two's-complement integer element; the most negative code is unused."""

    name: str
    bits: int

    @property
    def max(self) -> float:
        """Largest magnitude in use: 127 for int8, codes lie in [-127, 127]."""
        return float(2 ** (self.bits - 1) - 1)

    def __str__(self) -> str:
        return self.name


ElementFormat = FloatElement | IntElement

ELEMENTS: dict[str, ElementFormat] = {
    e.name: e
    for e in (
        FloatElement(name="fp32", bits=32, precision=24, bias=127, specials=Specials.IEEE),
        FloatElement(name="bf16", bits=16, precision=8, bias=127, specials=Specials.IEEE),
        FloatElement(name="fp16", bits=16, precision=11, bias=15, specials=Specials.IEEE),
        FloatElement(name="e4m3fn", bits=8, precision=4, bias=7, specials=Specials.FN),
        FloatElement(name="e5m2", bits=8, precision=3, bias=15, specials=Specials.IEEE),
        IntElement(name="int8", bits=8),
    )
}


def element(name: str) -> ElementFormat:
    """Look an element format up by name.

    Raises:
        ValueError: no such format; the message lists those there are.
    """
    try:
        return ELEMENTS[name]
    except KeyError:
        raise ValueError(
            f"unknown element format {name!r}: choose one of {', '.join(ELEMENTS)}"
        ) from None
