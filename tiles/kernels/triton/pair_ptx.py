"""What PTX on pairs of 16-bit floats is made of: their layouts, bit patterns in both halves."""

__all__ = ["SIGNS", "WIDE", "magic", "negative", "power"]

#: Mantissa bits, exponent bias, and the suffix of instructions on pairs.
WIDE = {"fp16": (10, 15, "f16x2"), "bf16": (7, 127, "bf16x2")}
#: The signs of a pair: -0 twice.
SIGNS = 0x80008000


def power(exponent: int, wide: str) -> int:
    """The bit pattern of a power of two, in both halves."""
    mantissa, bias, _ = WIDE[wide]
    return ((exponent + bias) << mantissa) * 0x10001


def magic(wide: str) -> int:
    """The power of two whose unit is 1, so that an integer is added by an or; both halves."""
    return power(WIDE[wide][0], wide)


def negative(pair: int) -> int:
    """Both halves with a minus."""
    return SIGNS | pair
