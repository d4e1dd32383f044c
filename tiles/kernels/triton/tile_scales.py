"""Scales of a tile's blocks in Triton: largest magnitudes, scale rules, and division by a scale.

Bit-identical with the NumPy codec: divisions are IEEE fp32, powers of two come from exponent
fields, and nothing flushes subnormals (Triton emits ``mul``, ``fma.rn``, ``div.rn`` without
``.ftz``).
"""

import triton
import triton.language as tl

from .block_codes import larger

__all__ = [
    "block_amax",
    "exponent_scale",
    "float_scale",
    "outer_scale",
    "quotient",
    "reciprocal",
    "scale_offsets",
]


@triton.jit
def block_amax(blocks):
    """Largest magnitude of (grid rows, block rows, grid cols, block cols), extents of blocks 1."""
    across = tl.reduce(tl.abs(blocks), 3, larger, keep_dims=True)
    return tl.reduce(across, 1, larger, keep_dims=True)


@triton.jit
def _exponent_and_mantissa(x):
    """Of finite ``x = 2**e (1 + m / 2**23)``: e and m, subnormals included; x >= 0."""
    word = x.to(tl.int32, bitcast=True)
    # A subnormal is an integer in units of 2^-149, and so a normal number.
    scaled = word.to(tl.float32).to(tl.int32, bitcast=True)
    subnormal = word <= 0x7FFFFF
    exponent = tl.where(subnormal, (scaled >> 23) - (127 + 149), (word >> 23) - 127)
    return exponent, tl.where(subnormal, scaled, word) & 0x7FFFFF


@triton.jit
def exponent_scale(
    amax, RULE: tl.constexpr, CODE_EXPONENT: tl.constexpr, CODE_MANTISSA: tl.constexpr,
    KEPT_MANTISSA: tl.constexpr,
):  # fmt: skip
    """E8M0 codes (int32) of blocks and the reciprocals of their scales, exact powers of two.

    Args:
        RULE: ``floor``, ``ceil``, ``rceil`` or ``even``.
        CODE_EXPONENT, CODE_MANTISSA: of the element's largest number, the mantissa in 23 bits.
        KEPT_MANTISSA: mantissa bits of the element's largest number.
    Source: OCP MX v1.0, section 6.3, for ``floor``.
    """
    exponent, mantissa = _exponent_and_mantissa(amax)
    power = exponent - CODE_EXPONENT
    if RULE == "ceil":
        power += (mantissa != 0).to(tl.int32)
    elif RULE == "rceil":
        power += (mantissa > CODE_MANTISSA).to(tl.int32)
    elif RULE == "even":
        # 1 + m / 2^23 >= 2 - 2^-(KEPT_MANTISSA + 1), without fractions.
        power += (2 * mantissa >= (1 << 24) - (1 << (23 - KEPT_MANTISSA))).to(tl.int32)
    power = tl.minimum(tl.maximum(power, -127), 127)
    power = tl.where(amax > 0, power, -127)
    poisoned = ~(amax < float("inf"))
    # 2^-127 is a subnormal.
    inverse = tl.where(power == 127, 0x400000, (127 - power) << 23)
    inverse = tl.where(poisoned, 0x7FC00000, inverse)
    code = tl.where(poisoned, 255, power + 127)
    return code, inverse.to(tl.float32, bitcast=True)


@triton.jit
def _power_above(ratio):
    """The smallest power of two not below each ratio, at most 2^127; zero stays zero."""
    exponent, mantissa = _exponent_and_mantissa(tl.minimum(ratio, 3.4028234663852886e38))
    exponent = tl.minimum(exponent + (mantissa != 0).to(tl.int32), 127)
    place = tl.minimum(tl.maximum(exponent + 149, 0), 23)
    subnormal = tl.full(exponent.shape, 1, tl.int32) << place
    word = tl.where(exponent < -126, subnormal, (exponent + 127) << 23)
    return tl.where(ratio > 0, word.to(tl.float32, bitcast=True), 0.0)


@triton.jit
def _cut(x, DROPPED: tl.constexpr):
    """Nearest even on the fp32 mantissa without its last bits; x >= 0, a normal number or zero."""
    word = x.to(tl.int32, bitcast=True)
    half = (1 << (DROPPED - 1)) - 1
    word = (word + half + ((word >> DROPPED) & 1)) >> DROPPED << DROPPED
    return word.to(tl.float32, bitcast=True)


@triton.jit
def outer_scale(amax, CODE_MAX: tl.constexpr):
    """Second-level scale of a tensor with that largest finite block: amax / (CODE_MAX x 448)."""
    scale = tl.div_rn(amax, tl.full(amax.shape, CODE_MAX * 448.0, tl.float32))
    return tl.where(scale > 0, scale, 1.0)


@triton.jit
def float_scale(
    amax, outer, STORED: tl.constexpr, RULE: tl.constexpr, TWO_LEVEL: tl.constexpr,
    SHORT: tl.constexpr, CODE_MAX: tl.constexpr,
):  # fmt: skip
    """Scales ``amax / CODE_MAX``, rounded to the format that they are stored in, as fp32.

    A block of zeros, and one whose scale underflows, has scale 1; a poisoned one NaN.  Of bf16 and
    fp16 (SHORT) every amax was divided by 127, 448, 57344, 28, 6 and 7 as :func:`quotient` does,
    subnormals included, and every quotient is correct; 7.5 and 127 / 64 take a true division.
    """
    if SHORT and CODE_MAX != 7.5 and CODE_MAX > 2.0:
        scale = quotient(amax, CODE_MAX, -1.0 / CODE_MAX, -1.0, True)
    else:
        scale = tl.div_rn(amax, tl.full(amax.shape, CODE_MAX, tl.float32))
    if RULE == "pow2":
        scale = _power_above(scale)
    if TWO_LEVEL:
        # e4m3fn between its smallest normal number and its largest: four significant bits.
        # One reciprocal serves all blocks; what lies below the clamp need not be right.
        divisor, negative, lift = reciprocal(outer)
        scale = quotient(scale, divisor, negative, lift, False)
        scale = _cut(tl.minimum(tl.maximum(scale, 0.015625), 448.0), 20)
    elif STORED == "fp16":
        scale = tl.minimum(scale, 65504.0).to(tl.float16).to(tl.float32)
    elif STORED == "bf16":
        # The largest bf16: a scale near fp32's end would be rounded to infinity.
        scale = tl.minimum(_cut(scale, 16), 3.3895313892515355e38)
    scale = tl.where((scale == 0.0) | (amax == 0.0), 1.0, scale)
    return tl.where(amax < float("inf"), scale, float("nan"))


@triton.jit
def reciprocal(scale):
    """What :func:`quotient` needs of a divisor: itself and its reciprocal, and a power of two.

    Both numerator and divisor are multiplied by it, so that neither the reciprocal leaves the
    normal numbers nor a remainder that matters.  The signs are arranged so that x = -0 gives -0.
    A divisor of zero, the product of two levels, becomes one that everything but zero overflows.
    """
    lift = tl.where(scale < 2.0**-50, 2.0**64, tl.where(scale > 2.0**60, 2.0**-64, 1.0))
    divisor = scale * lift
    divisor = tl.where(divisor == 0.0, 2.0**-100, divisor)
    negative = tl.div_rn(tl.full(scale.shape, -1.0, tl.float32), divisor)
    return divisor, negative, 0.0 - lift


@triton.jit
def quotient(x, divisor, negative, lift, SHORT: tl.constexpr):
    """``x / divisor`` correctly rounded, without a division an element.

    With r the correctly rounded reciprocal of d, q0 = x r is within 1.5 ulp of z = x / d, and
    q0 + r (x - q0 d) = z + (z - q0) (d r - 1) is within 1.5 x 2^-24 ulp of z before it is rounded.
    So the rounding differs from that of z only where z is that close to the middle y of two
    numbers, which for integers X 2^j, D < 2^24 and odd Y < 2^25 means |X 2^j - Y D| <= 3.  For a
    significand X of 8 or 11 bits (SHORT: bf16, fp16) no D in 2^23 .. 2^24 comes to a wrong result:
    all were tried.  For fp32 a second correction makes the quotient correct by Markstein's theorem
    (IBM J. R&D 34, 1990).
    """
    negated = x * lift
    result = negated * negative
    result = tl.fma(tl.fma(result, divisor, negated), negative, result)
    if not SHORT:
        result = tl.fma(tl.fma(result, divisor, negated), negative, result)
    return result


@triton.jit
def scale_offsets(row, col, padded_cols, row_stride, col_stride, SWIZZLED: tl.constexpr):
    """Where the scale of a block lies: by strides, or in 128x4 tiles of 512 bytes."""
    if SWIZZLED:
        tile = (row // 128).to(tl.int64) * (padded_cols // 4) + col // 4
        return tile * 512 + (row % 32) * 16 + (row % 128 // 32) * 4 + col % 4
    else:
        return row.to(tl.int64) * row_stride + col.to(tl.int64) * col_stride
