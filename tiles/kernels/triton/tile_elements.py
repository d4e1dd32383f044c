"""Elements of at most 8 bits in Triton: fp32 to codes and back, bit-identical with the NumPy codec.

Rounding is to nearest even, or stochastic with 16 random bits; codes saturate.  Where the GPU has
no conversion, numbers are rounded by integer operations and one addition.
"""

import triton
import triton.language as tl

__all__ = [
    "EIGHT_E2M1",
    "ELEMENTS",
    "FOUR_CODES",
    "constants",
    "decode",
    "eight_e2m1",
    "encode",
    "limited",
]

#: name -> bits, mantissa bits, bias, code of the largest number, NaN code (-1: none).
FLOATS = {
    "e4m3fn": (8, 3, 7, 0x7E, 0x7F),
    "e5m2": (8, 2, 15, 0x7B, 0x7F),
    "e3m2fn": (6, 2, 3, 0x1F, -1),
    "e2m3fn": (6, 3, 1, 0x1F, -1),
    "e2m1fn": (4, 1, 1, 0x07, -1),
}
#: name -> bits, fraction bits, largest integer, what is added to a stored integer.
INTEGERS = {"int8": (8, 0, 127, 0), "mxint8": (8, 6, 127, 0), "int4": (4, 0, 7, 8)}
ELEMENTS = (*INTEGERS, *FLOATS)


def constants(element: str) -> dict[str, int | float | bool]:
    """What the device functions take as constants for an element.

    Raises:
        ValueError: no such element here.
    """
    if element in INTEGERS:
        bits, fraction, largest, offset = INTEGERS[element]
        return {
            "INTEGER": True,
            "BITS": bits,
            "MANTISSA": fraction,  # an integer's fraction bits
            "BIAS": 0,
            "NAN_CODE": -1,
            "ZERO_CODE": offset,
            "CODE_MAX": largest / 2.0**fraction,
        }
    if element not in FLOATS:
        raise ValueError(f"element {element!r}: choose one of {', '.join(ELEMENTS)}")
    bits, mantissa, bias, top, nan = FLOATS[element]
    significand = (top & ((1 << mantissa) - 1)) + (1 << mantissa)
    return {
        "INTEGER": False,
        "BITS": bits,
        "MANTISSA": mantissa,
        "BIAS": bias,
        "NAN_CODE": nan,
        "ZERO_CODE": 0,
        "CODE_MAX": significand * 2.0 ** ((top >> mantissa) - bias - mantissa),
    }


#: Codes of four numbers in 2^-16 of a step ($1 to $4) and their random halves ($5, $6), as below in
#: ``_encode_integer``; NaN becomes 0.
FOUR_CODES = tl.constexpr(
    """{
    .reg .b32 a, b, c, d, r, s, t;
    cvt.rzi.s32.f32 a, $1;
    cvt.rzi.s32.f32 b, $2;
    cvt.rzi.s32.f32 c, $3;
    cvt.rzi.s32.f32 d, $4;
    prmt.b32 s, a, b, 0xffbb;
    prmt.b32 t, c, d, 0xffbb;
    xor.b32 s, s, $5;
    xor.b32 t, t, $6;
    and.b32 r, s, 0xffff;
    shr.u32 s, s, 16;
    add.s32 a, a, r;
    add.s32 b, b, s;
    and.b32 r, t, 0xffff;
    shr.u32 t, t, 16;
    add.s32 c, c, r;
    add.s32 d, d, t;
    prmt.b32 a, a, b, 0x0062;
    prmt.b32 c, c, d, 0x0062;
    prmt.b32 $0, a, c, 0x5410;
    }"""
)


def _eight_e2m1() -> tl.constexpr:
    """PTX that rounds eight fp32 ($1 to $8) to a word of e2m1fn codes ($0), as ``_encode_float``.

    1.5 x 2^23 is left in no nibble: what the sums have beside their counts is taken off at once.
    """
    magic = 0x4B400000
    beside = -sum((magic << 4 * k) for k in range(8)) & 0xFFFFFFFF
    lines = ["{ .reg .b32 h, o, t, r, e, s;", f"mov.b32 r, {beside};"]
    for k in range(8):
        lines += [
            f"abs.f32 t, ${k + 1};",
            f"fma.rn.f32 h, t, 0f40000000, 0f{magic:08X};",
            f"add.rn.f32 o, t, 0f{magic + 2:08X};",
            f"fma.rn.f32 t, t, 0f3F000000, 0f{magic + 4:08X};",
            "min.s32 h, h, o;",
            f"min.s32 t, t, {magic + 7};",
            "min.s32 h, h, t;",
            f"mad.lo.u32 r, h, {1 << 4 * k}, r;",
        ]
    # Signs: upper bytes of even and odd numbers.
    for first, mask in ((1, "0x08080808"), (2, "0x80808080")):
        lines += [
            f"prmt.b32 e, ${first}, ${first + 2}, 0x0073;",
            f"prmt.b32 s, ${first + 4}, ${first + 6}, 0x0073;",
            "prmt.b32 e, e, s, 0x5410;",
            *(["shr.u32 e, e, 4;"] if first == 1 else []),
            f"lop3.b32 r, e, {mask}, r, 0xEA;",
        ]
    return tl.constexpr("\n".join([*lines, "mov.b32 $0, r; }"]))


EIGHT_E2M1 = _eight_e2m1()


@triton.jit
def _halves(x, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Even and odd columns."""
    return tl.split(tl.reshape(x, (ROWS, COLS // 2, 2)))


@triton.jit
def eight_e2m1(ratio, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Words (ROWS, COLS / 8) of eight e2m1fn codes each, to nearest; NaN becomes any code."""
    even, odd = _halves(ratio, ROWS, COLS)
    a, b = _halves(even, ROWS, COLS // 2)
    c, d = _halves(odd, ROWS, COLS // 2)
    zero, four = _halves(a, ROWS, COLS // 4)
    two, six = _halves(b, ROWS, COLS // 4)
    one, five = _halves(c, ROWS, COLS // 4)
    three, seven = _halves(d, ROWS, COLS // 4)
    return tl.inline_asm_elementwise(
        EIGHT_E2M1, "=r,r,r,r,r,r,r,r,r", [zero, one, two, three, four, five, six, seven],
        dtype=tl.int32, is_pure=True, pack=1,
    )  # fmt: skip


_LIMITED = tl.constexpr(
    "{ .reg .f32 low; neg.f32 low, $2; max.NaN.f32 low, low, $1; min.NaN.f32 $0, low, $2; }"
)


@triton.jit
def limited(x, TOP: tl.constexpr, ASSEMBLY: tl.constexpr):
    """``x`` within -TOP .. TOP, NaN as it is."""
    if ASSEMBLY:
        x = tl.inline_asm_elementwise(
            _LIMITED, "=f,f,f", [x, tl.full(x.shape, TOP, tl.float32)], dtype=tl.float32,
            is_pure=True, pack=1,
        )  # fmt: skip
    else:
        x = tl.where(x > TOP, TOP, tl.where(x < -TOP, -TOP, x))
    return x


@triton.jit
def _steps(magnitude_bits, random, ONE_PLACE, FIRST_EXPONENT):
    """Stochastically rounded count of steps, and the exponent field that they belong to.

    A number with the exponent field ``e`` counts in steps that lie ONE_PLACE bits above its last
    mantissa bit, further up by ``FIRST_EXPONENT - e`` where that is positive; ONE_PLACE is 20 at
    least.  As fixed point the number splits into whole steps and 16 bits of the rest, which the
    random bits carry.
    """
    exponent = magnitude_bits >> 23
    place = tl.maximum(exponent, FIRST_EXPONENT)
    significand = (magnitude_bits & 0x7FFFFF) | 0x800000
    # 24 bits above 16 of rest, 9 of which ONE_PLACE shifts out again.
    fixed = (significand << 7) >> tl.minimum(place - exponent + (ONE_PLACE - 9), 31)
    return (fixed + random.to(tl.int32, bitcast=True)) >> 16, place


@triton.jit
def _encode_integer(
    ratio, random, STOCHASTIC: tl.constexpr, CLAMP: tl.constexpr, FRACTION: tl.constexpr,
    CODE_MAX: tl.constexpr,
):  # fmt: skip
    if CLAMP:
        ratio = tl.minimum(tl.maximum(ratio, -CODE_MAX), CODE_MAX)
        if STOCHASTIC:
            ratio *= 65536.0 * 2.0**FRACTION
    if STOCHASTIC:
        # Fixed point with 16 bits of the rest.  Below zero the bits are inverted, since
        # -floor(n + u) = floor(-n + (1 - 2^-16 - u)) for multiples of 2^-16.
        fixed = ratio.to(tl.int32)
        inverted = random.to(tl.int32, bitcast=True) ^ ((fixed >> 31) & 0xFFFF)
        integer = (fixed + inverted) >> 16
    else:
        # Below 2^22 steps the last place of 1.5 x 2^23 steps is one step: the sum is rounded to
        # whole steps, ties to even, and its low bits are that integer in two's complement.
        MAGIC: tl.constexpr = 1.5 * 2.0 ** (23 - FRACTION)
        integer = (ratio + MAGIC).to(tl.int32, bitcast=True)
    return integer


@triton.jit
def _encode_float(
    ratio, random, STOCHASTIC: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    BIAS: tl.constexpr, CODE_MAX: tl.constexpr,
):  # fmt: skip
    bits = ratio.to(tl.int32, bitcast=True)
    FIRST: tl.constexpr = 128 - BIAS  # exponent field of the smallest normal number
    SHIFT: tl.constexpr = 23 - MANTISSA
    # A subnormal's code is its count of steps; each binade above has 2**MANTISSA more.
    if BITS == 4 and not STOCHASTIC:
        # e2m1fn: halves below 2, ones below 4, then twos, and where two of them could count, the
        # finer gives the smaller code.  Additions round each, ties to even, and keep the count low.
        # Positive floats are integers in the same order: NaN and all too large become the last.
        MAGIC: tl.constexpr = 1.5 * 2.0**23
        TOP: tl.constexpr = 0x4B400007
        magnitude = tl.abs(ratio)
        halves = (magnitude * 2.0 + MAGIC).to(tl.int32, bitcast=True)
        ones = (magnitude + (MAGIC + 2.0)).to(tl.int32, bitcast=True)
        twos = (magnitude * 0.5 + (MAGIC + 4.0)).to(tl.int32, bitcast=True)
        code = tl.minimum(tl.minimum(halves, ones), tl.minimum(twos, TOP)) & 7
        return code | ((bits >> (32 - BITS)) & (1 << (BITS - 1)))
    magnitude = tl.minimum(tl.abs(ratio), CODE_MAX)
    word = magnitude.to(tl.int32, bitcast=True)
    if STOCHASTIC:
        steps, place = _steps(word, random, SHIFT, FIRST)
        code = ((place - FIRST) << MANTISSA) + steps
    else:
        # fp32 rounds to the element's steps when their size x 2^23 is added: the last mantissa
        # bits of the sum then count the steps.
        power = tl.maximum(word, FIRST << 23) & 0x7F800000
        large = power + (SHIFT << 23)
        steps = (magnitude + large.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True) - large
        code = ((power - (FIRST << 23)) >> SHIFT) + steps
    return code | ((bits >> (32 - BITS)) & (1 << (BITS - 1)))


def _words(element: str) -> tl.constexpr:
    """PTX that rounds four fp32 ($1 to $4) to a word of codes ($0): nearest even, saturating."""
    return tl.constexpr(
        "{ .reg .b16 low, high;\n"
        f"cvt.rn.satfinite.{element}x2.f32 low, $2, $1;\n"
        f"cvt.rn.satfinite.{element}x2.f32 high, $4, $3;\n"
        "mov.b32 $0, {low, high}; }"
    )


_E4M3_WORDS, _E5M2_WORDS = _words("e4m3"), _words("e5m2")


@triton.jit
def _cast(x, MANTISSA: tl.constexpr):
    # Whole words, from which all that wants single codes takes them.  Where a pair of codes became
    # the low half of a word and was used before by itself (a transposed copy takes bytes), ptxas
    # 12.8 of Triton 3.6 and 3.7 reads a register for it that holds something else.
    return tl.inline_asm_elementwise(
        _E4M3_WORDS if MANTISSA == 3 else _E5M2_WORDS, "=r,r,r,r,r", [x], dtype=tl.uint8,
        is_pure=True, pack=4,
    )  # fmt: skip


@triton.jit
def encode(
    ratio, whole, random, STOCHASTIC: tl.constexpr, SOFTWARE: tl.constexpr, CLAMP: tl.constexpr,
    INTEGER: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr, CODE_MAX: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """Codes of fp32 numbers, one an item: uint8 of 8-bit elements, int32 of narrower ones.

    Args:
        ratio: numbers in units of the element; of integers that are rounded stochastically without
            CLAMP, 2^16 times the code that is to be rounded, NaN where the block is poisoned.
        whole: false where a block is poisoned; its codes are NaN, or zero where there is none.
        random: 16 random bits an element where STOCHASTIC, as uint32.
        SOFTWARE: round floats of 8 bits by integer operations too; those of 6 bits always are.
        CLAMP: integers may lie beyond the range.
        ASSEMBLY: with PTX, which Triton's interpreter does not run.
    """
    # Through the 8-bit cast 6-bit codes came out wrong on an H200 (Triton 3.6.0) in some layouts.
    HARDWARE: tl.constexpr = not INTEGER and BITS == 8 and not SOFTWARE and not STOCHASTIC
    POISON: tl.constexpr = ZERO_CODE if NAN_CODE < 0 else NAN_CODE
    if HARDWARE:  # cvt.rn.satfinite: nearest even, saturating, NaN becomes 0x7f
        if ASSEMBLY:
            code = _cast(ratio, MANTISSA)
        elif MANTISSA == 3:
            code = ratio.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        else:
            code = ratio.to(tl.float8e5).to(tl.uint8, bitcast=True)
    elif ASSEMBLY and INTEGER and BITS == 8 and STOCHASTIC and not CLAMP:
        code = tl.inline_asm_elementwise(
            FOUR_CODES, "=r,f,f,f,f,r,r", [ratio, random.to(tl.uint16)], dtype=tl.uint8,
            is_pure=True, pack=4,
        )  # fmt: skip
    else:
        if INTEGER:
            code = _encode_integer(ratio, random, STOCHASTIC, CLAMP, MANTISSA, CODE_MAX)
            if ZERO_CODE != 0:
                code += ZERO_CODE
        else:
            code = _encode_float(ratio, random, STOCHASTIC, BITS, MANTISSA, BIAS, CODE_MAX)
        if BITS == 8:
            code = code.to(tl.uint8)
            code = tl.where(whole, code, tl.full(code.shape, POISON, tl.uint8))
        else:
            if INTEGER:
                code &= (1 << BITS) - 1
            code = tl.where(whole, code, POISON)
    return code


@triton.jit
def decode(
    code, INTEGER: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr, SOFTWARE: tl.constexpr,
):  # fmt: skip
    """fp32 values of codes: uint8 of 8-bit elements, int32 of narrower ones; exact."""
    if INTEGER:
        if BITS == 8:
            value = code.to(tl.int8, bitcast=True).to(tl.float32)
        else:
            value = (code - ZERO_CODE).to(tl.float32)
        if MANTISSA != 0:
            value *= 2.0**-MANTISSA
    elif BITS == 8 and not SOFTWARE:
        if MANTISSA == 3:
            value = code.to(tl.float8e4nv, bitcast=True).to(tl.float32)
        else:
            value = code.to(tl.float8e5, bitcast=True).to(tl.float32)
    else:
        # With its exponent field at fp32's the code is too small by a power of two, subnormals too.
        word = code.to(tl.int32)
        magnitude = word & ((1 << (BITS - 1)) - 1)
        bits = (magnitude << (23 - MANTISSA)) | ((word >> (BITS - 1)) << 31)
        value = bits.to(tl.float32, bitcast=True) * 2.0 ** (127 - BIAS)
        if NAN_CODE >= 0:
            if MANTISSA == 3:
                value = tl.where(magnitude == NAN_CODE, float("nan"), value)
            else:  # IEEE rules: beyond the infinity are NaNs
                value = tl.where(magnitude == 0x7C, value * float("inf"), value)
                value = tl.where(magnitude > 0x7C, float("nan"), value)
    return value
