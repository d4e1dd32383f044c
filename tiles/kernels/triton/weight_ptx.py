"""PTX that decodes packed weights, written out for a 16-bit float; see :mod:`weight_decode`.

``$0`` and on are outputs of two numbers each, the operand behind them holds the codes.
"""

from .pair_ptx import SIGNS, WIDE, magic, negative, power

__all__ = ["e2m1_halves", "e4m3_bytes", "int8_bytes", "less_eight", "nibbles", "scaled_pairs"]

_LOW, _HIGH = "0x4140", "0x4342"  # permutes that set bytes 0, 1 (2, 3) below the magic number's


def _block(registers: str, *lines: str) -> str:
    return "\n".join(("{", f".reg .b32 {registers};", *(f"{line};" for line in lines), "}"))


def _words(pair: int) -> str:
    """The upper bytes of a pair in every byte: what permutes set above codes."""
    return f"{(pair >> 8 & 0xFF) * 0x01010101:#010x}"


def nibbles(wide: str) -> str:
    """Both halves of every byte of $4 as magic number + code: the low ones, then the high ones."""
    return _block(
        "low, high, magic",
        f"mov.b32 magic, {_words(magic(wide))}",
        "and.b32 low, $4, 0x0F0F0F0F",
        "shr.u32 high, $4, 4",
        "and.b32 high, high, 0x0F0F0F0F",
        f"prmt.b32 $0, low, magic, {_LOW}",
        f"prmt.b32 $1, low, magic, {_HIGH}",
        f"prmt.b32 $2, high, magic, {_LOW}",
        f"prmt.b32 $3, high, magic, {_HIGH}",
    )


def less_eight(wide: str) -> str:
    """$1 less the magic number and int4's zero point of 8."""
    return _block(
        "one, offset",
        f"mov.b32 one, {power(0, wide):#010x}",
        f"mov.b32 offset, {negative(magic(wide)) | 0x00080008:#010x}",
        f"fma.rn.{WIDE[wide][2]} $0, $1, one, offset",
    )


def scaled_pairs(wide: str) -> str:
    """$1 times $2, rounded once."""
    if wide == "fp16":
        return "mul.rn.f16x2 $0, $1, $2;"
    # fma with -0 keeps the sign of zero products; mul.bf16x2 needs capability 9.0.
    return _block("nothing", f"mov.b32 nothing, {SIGNS:#010x}", "fma.rn.bf16x2 $0, $1, $2, nothing")


def e2m1_halves(wide: str) -> str:
    """Both e2m1fn codes of every byte of $4, the low ones first.

    Exponent and mantissa go below the wide exponent, which makes the number a power of two too
    small.
    """
    mantissa, bias, kind = WIDE[wide]
    shift, field = 13 - mantissa, (7 << mantissa - 1) * 0x10001

    def number(output: int, source: str) -> tuple[str, ...]:
        return (
            f"shr.u32 m, {source}, {shift}",
            f"and.b32 m, m, {field:#010x}",
            f"lop3.b32 p, {source}, nothing, m, 0xEA",
            f"fma.rn.{kind} ${output}, p, factor, nothing",
        )

    return _block(
        "a, b, m, p, factor, nothing",
        f"mov.b32 factor, {power(bias - 1, wide):#010x}",
        f"mov.b32 nothing, {SIGNS:#010x}",
        "prmt.b32 a, $4, 0, 0x1404",
        "prmt.b32 b, $4, 0, 0x3424",
        *number(2, "a"),
        *number(3, "b"),
        "shl.b32 a, a, 4",
        *number(0, "a"),
        "shl.b32 b, b, 4",
        *number(1, "b"),
    )


def int8_bytes(wide: str) -> str:
    """Two's complement bytes of $2: (magic + 7 bits) less the magic number, or that plus 128."""
    kind = WIDE[wide][2]

    def numbers(output: int, pair: str) -> tuple[str, ...]:
        return (
            f"and.b32 a, {pair}, 0xFF7FFF7F",
            f"and.b32 b, {pair}, 0xFF80FF80",
            f"fma.rn.{kind} ${output}, b, minus, a",
        )

    return _block(
        "p, q, a, b, magic, minus",
        f"mov.b32 magic, {_words(magic(wide))}",
        f"mov.b32 minus, {negative(power(0, wide)):#010x}",
        f"prmt.b32 p, $2, magic, {_LOW}",
        f"prmt.b32 q, $2, magic, {_HIGH}",
        *numbers(0, "p"),
        *numbers(1, "q"),
    )


def e4m3_bytes(wide: str) -> str:
    """e4m3fn bytes of $2; the code of NaN reads as 480."""
    mantissa, bias, kind = WIDE[wide]

    def numbers(output: int, pair: str) -> tuple[str, ...]:
        return (
            f"and.b32 m, {pair}, 0x7FFF7FFF",
            f"shr.u32 m, m, {3 + 8 - mantissa}",
            f"lop3.b32 {pair}, {pair}, nothing, m, 0xEA",
            f"fma.rn.{kind} ${output}, {pair}, factor, nothing",
        )

    return _block(
        "p, q, m, factor, nothing",
        f"mov.b32 factor, {power(bias - 7, wide):#010x}",
        f"mov.b32 nothing, {SIGNS:#010x}",
        "prmt.b32 p, $2, 0, 0x1404",
        "prmt.b32 q, $2, 0, 0x3424",
        *numbers(0, "p"),
        *numbers(1, "q"),
    )
