"""PTX that decodes packed floats two at a time, written out for an element and a 16-bit float.

Exponent and mantissa are shifted into place below the 16-bit float's own exponent, which makes the
number a power of two too small, subnormals included; a multiplication corrects that.  Its addend of
-0 keeps the sign of zero.
"""

from .decoded_element import Element
from .pair_ptx import SIGNS, WIDE, power

__all__ = ["float_bytes", "six_bits"]


def _signed_shift(target: str, source: str, left: int) -> str:
    return f"{'shl.b32' if left >= 0 else 'shr.u32'} {target}, {source}, {abs(left)};"


def float_bytes(element: Element, wide: str) -> str | None:
    """Four bytes ($2) to four numbers ($0, $1); None where it takes more than a multiplication."""
    mantissa, bias, kind = WIDE[wide]
    shift = element.mantissa + 8 - mantissa
    correction = bias - element.bias
    if element.kind != "float" or element.bits != 8 or element.specials not in ("fn", "none"):
        return None
    # An exponent of ones must not reach the 16-bit float's, which stands for infinity.
    if 7 - element.mantissa >= 15 - mantissa or shift < 0 or not 0 <= correction <= bias:
        return None
    lines = [
        ".reg .b32 p, m, t, factor, nothing;",
        f"mov.b32 factor, {power(correction, wide):#010x};",
        f"mov.b32 nothing, {SIGNS:#010x};",
    ]
    for output, selector in ((0, "0x1404"), (1, "0x3424")):
        lines += [
            f"prmt.b32 p, $2, 0, {selector};",
            "and.b32 m, p, 0x7FFF7FFF;",
            # NaN is the code of ones alone: one more carries into the sign's place.
            *(["add.u32 t, m, 0x01000100;"] if element.specials == "fn" else []),
            f"shr.u32 m, m, {shift};",
            "lop3.b32 p, p, nothing, m, 0xEA;",
            f"fma.rn.{kind} ${output}, p, factor, nothing;",
        ]
        if element.specials == "fn":
            # A permute spreads that bit over its half.
            lines += [
                "prmt.b32 t, t, 0, 0xBB99;",
                f"lop3.b32 ${output}, ${output}, t, 0x7FFF7FFF, 0xF8;",
            ]
    return "{\n" + "\n".join(lines) + "\n}"


def six_bits(element: Element, wide: str) -> str | None:
    """Four 6-bit codes in 24 bits ($4) to four numbers ($0 to $3), or None likewise."""
    mantissa, bias, kind = WIDE[wide]
    low = mantissa - element.mantissa
    correction = bias - element.bias
    if element.kind != "float" or element.bits != 6 or element.specials != "none":
        return None
    if low < 0 or not 0 <= correction <= bias:
        return None
    field = 0x1F << low
    lines = [
        ".reg .b32 p, t, factor, nothing;",
        f"mov.b32 factor, {power(correction, wide):#010x};",
        f"mov.b32 nothing, {SIGNS:#010x};",
    ]
    for first in (0, 2):
        # Where a code's lowest bit lies, and where the pair's halves want it.
        here = 6 * first
        lines += [
            _signed_shift("t", "$4", low - here),
            f"and.b32 p, t, {field:#x};",
            _signed_shift("t", "$4", 16 + low - here - 6),
            f"lop3.b32 p, t, {field << 16:#x}, p, 0xEA;",
            _signed_shift("t", "$4", 15 - here - 5),
            "lop3.b32 p, t, 0x8000, p, 0xEA;",
            _signed_shift("t", "$4", 31 - here - 11),
            "lop3.b32 p, t, 0x80000000, p, 0xEA;",
            f"fma.rn.{kind} p, p, factor, nothing;",
            f"mov.b32 {{${first}, ${first + 1}}}, p;",
        ]
    return "{\n" + "\n".join(lines) + "\n}"
