"""Elements that are decoded on the way to the tensor cores, and the 16-bit float that holds them.

Every element of at most 8 bits is a number that a 16-bit float holds exactly, and so are its
products with the scales that are multiplied into it (*folded*): powers of two (E8M0) and the four
significant bits of e4m3fn.  :func:`wide_type` picks fp16 where both operands fit its exponents,
else bf16.  Scales of fp32 stay outside: they multiply sums.

A folded E8M0 scale may carry a number out of bf16 as well: from 2^128 on it becomes infinite, and
below 2^-126 it is rounded to multiples of 2^-133.  Codes that were quantised from fp32 values reach
the first only where the rule ``even`` rounds an amax up to 2^128.
"""

from dataclasses import dataclass

__all__ = ["FOLDED", "Element", "block_format", "named_element", "row_bytes", "wide_type"]

#: Stored scale formats that are multiplied into the decoded numbers, and their dtype.
FOLDED = ("e8m0fnu", "e4m3fn")


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """A stored number of at most 8 bits, or (16 bits) one that is multiplied as it is."""

    kind: str  #: float, int, uint (with zero points), posit, plain (bf16 or fp16)
    bits: int
    mantissa: int = 0  #: float: mantissa bits; int: fraction bits; posit: es
    bias: int = 0
    specials: str = "none"  #: float: ieee, fn, fnuz or none
    offset: int = 0  #: int: what is added to a stored integer

    @property
    def span(self) -> tuple[int, int, int]:
        """Significant bits; exponents of the lowest bit and of the highest."""
        if self.kind == "float":
            top = (1 << (self.bits - 1 - self.mantissa)) - 1 - (self.specials == "ieee")
            return self.mantissa + 1, 1 - self.bias - self.mantissa, top - self.bias
        if self.kind == "posit":
            reach = (self.bits - 2) << self.mantissa
            return max(self.bits - 2 - self.mantissa, 1), -reach, reach
        return self.bits, -self.mantissa, self.bits - 1 - self.mantissa


_NAMED = {
    "bf16": Element(kind="plain", bits=16),
    "fp16": Element(kind="plain", bits=16),
    "e4m3fn": Element(kind="float", bits=8, mantissa=3, bias=7, specials="fn"),
    "e5m2": Element(kind="float", bits=8, mantissa=2, bias=15, specials="ieee"),
    "e3m4fn": Element(kind="float", bits=8, mantissa=4, bias=3, specials="fn"),
    "e3m2fn": Element(kind="float", bits=6, mantissa=2, bias=3),
    "e2m3fn": Element(kind="float", bits=6, mantissa=3, bias=1),
    "e2m1fn": Element(kind="float", bits=4, mantissa=1, bias=1),
    "int8": Element(kind="int", bits=8),
    "mxint8": Element(kind="int", bits=8, mantissa=6),
    "int4": Element(kind="int", bits=4, offset=8),
    "uint8": Element(kind="uint", bits=8),
    "uint4": Element(kind="uint", bits=4),
    "posit8es0": Element(kind="posit", bits=8, mantissa=0),
    "posit8es1": Element(kind="posit", bits=8, mantissa=1),
    "posit8es2": Element(kind="posit", bits=8, mantissa=2),
}


def named_element(name: str) -> Element:
    """The element of a name; others are made from their facts.

    Raises:
        ValueError: no such name.
    """
    if name not in _NAMED:
        raise ValueError(f"element {name!r}: choose one of {', '.join(_NAMED)}, or make an Element")
    return _NAMED[name]


#: Names of the elements that block-scaled tensor cores multiply.
_BLOCK_SCALED = {"e4m3fn": "e4m3", "e5m2": "e5m2", "e2m1fn": "e2m1"}


def block_format(element: Element, stored: str, columns: int) -> str:
    """The name under which block-scaled tensor cores take an operand; "" where they do not.

    MX: 32 columns under an E8M0 scale; NVFP4: 16 columns of e2m1fn under an e4m3fn scale.
    """
    for name, spoken in _BLOCK_SCALED.items():
        if element == _NAMED[name]:
            mx = (stored, columns) == ("e8m0fnu", 32)
            nv = (stored, columns, spoken) == ("e4m3fn", 16, "e2m1")
            return spoken if mx or nv else ""
    return ""


def row_bytes(columns: int, element: Element) -> int:
    """Bytes that a row of codes takes."""
    return -(-columns * element.bits // 8)


def _fits(element: Element, scale: str, wide: str) -> bool:
    bits, low, high = element.span
    if scale == "e4m3fn":
        bits, low, high = bits + 4, low - 9, high + 9
    if wide == "fp16":
        return scale != "e8m0fnu" and bits <= 11 and low >= -24 and high <= 15
    return bits <= 8 and low >= -133 and high <= 127


def wide_type(*sides: tuple[Element, str, str]) -> str:
    """The 16-bit float that is multiplied: fp16 where it holds every operand exactly, else bf16.

    Args:
        sides: element, format of the folded scales ("" without any), and of 16-bit elements their
            name.
    Raises:
        ValueError: neither holds them.
    """
    for wide in ("fp16", "bf16"):
        if all(
            plain == wide if element.kind == "plain" else _fits(element, scale, wide)
            for element, scale, plain in sides
        ):
            return wide
    raise ValueError(
        "no 16-bit float holds both operands exactly: "
        + ", ".join(f"{element} x {scale or 'no scale'}" for element, scale, _ in sides)
    )
