"""Device functions of block quantisation: a block's scale, a number's code, bit by bit."""

import triton
import triton.language as tl

__all__ = ["block_amax", "block_codes", "block_scale", "larger"]


@triton.jit
def larger(a, b):
    """The larger of two numbers; NaN wins."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)  # tl.max would drop a NaN


@triton.jit
def block_amax(x, axis: tl.constexpr):
    """Largest magnitudes along an axis, which is kept."""
    return tl.reduce(tl.abs(x), axis, larger, keep_dims=True)


@triton.jit
def block_scale(amax, CODE_MAX: tl.constexpr):
    """Scales of blocks with these largest magnitudes; 1 for zeros, NaN for what is not finite."""
    scale = tl.div_rn(amax, tl.full(amax.shape, CODE_MAX, tl.float32))
    # amax / max_element can underflow; such a block is stored as an all-zero one.
    scale = tl.where(scale == 0.0, 1.0, scale)
    return tl.where(amax < float("inf"), scale, float("nan"))


@triton.jit
def _divide(x, scale):
    """``x / scale`` correctly rounded, at the cost of five operations an element.

    With r the correctly rounded reciprocal, q0 = x·r is within 2 ulp, a first correction
    q1 = q0 + r·(x - q0·s) within 1 ulp, and by Markstein's theorem (IBM J. R&D 34, 1990) a second
    one is the correctly rounded quotient, as long as the remainders are exact.  Multiplying x and
    s by the same power of two keeps them so for every scale; remainders still underflow where
    |x / s| is far below half the smallest code, and there only the sign counts.  The signs are
    arranged so that x = -0 gives -0: x enters negated, the remainder is q·s - x, and r is negated.
    """
    lift = tl.where(scale < 2.0**-60, 2.0**64, tl.where(scale > 2.0**60, 2.0**-64, 1.0))
    divisor = scale * lift
    reciprocal = tl.div_rn(tl.full(scale.shape, -1.0, tl.float32), divisor)
    negated = x * (0.0 - lift)
    quotient = negated * reciprocal
    quotient = tl.fma(tl.fma(quotient, divisor, negated), reciprocal, quotient)
    return tl.fma(tl.fma(quotient, divisor, negated), reciprocal, quotient)


@triton.jit
def _float8_by_integers(ratio, CODE_MAX: tl.constexpr):
    """Round to e4m3fn (maximum 448) or e5m2 (57344): nearest even, saturating; codes as uint8."""
    MANTISSA: tl.constexpr = 3 if CODE_MAX == 448.0 else 2
    BIAS: tl.constexpr = 7 if CODE_MAX == 448.0 else 15
    SHIFT: tl.constexpr = 23 - MANTISSA
    bits = ratio.to(tl.int32, bitcast=True)
    magnitude_bits = bits & 0x7FFFFFFF
    magnitude = tl.minimum(magnitude_bits.to(tl.float32, bitcast=True), CODE_MAX)
    kept = magnitude.to(tl.int32, bitcast=True)
    # Normal codes: add just under half of the last kept place, or half when that place is odd.
    rounded = kept + ((1 << (SHIFT - 1)) - 1) + ((kept >> SHIFT) & 1)
    normal = (rounded >> SHIFT) - ((127 - BIAS) << MANTISSA)
    # Subnormal codes: an addend whose ulp is the smallest code leaves the code in the low bits.
    ADDEND_BITS: tl.constexpr = (127 + 23 + 1 - BIAS - MANTISSA) << 23
    addend = tl.full(bits.shape, ADDEND_BITS, tl.int32).to(tl.float32, bitcast=True)
    subnormal = (magnitude + addend).to(tl.int32, bitcast=True) - ADDEND_BITS
    MIN_NORMAL_BITS: tl.constexpr = (128 - BIAS) << 23
    code = tl.where(kept < MIN_NORMAL_BITS, subnormal, normal) | ((bits >> 24) & 0x80)
    return tl.where(magnitude_bits > 0x7F800000, 0x7F, code).to(tl.uint8)


@triton.jit
def block_codes(x, scale, TARGET: tl.constexpr, CODE_MAX: tl.constexpr, SOFTWARE: tl.constexpr):
    """Codes of numbers under their scale; under a NaN they are NaN, or 0 where there is none."""
    ratio = _divide(x.to(tl.float32), scale)
    if TARGET == tl.int8:
        if x.dtype == tl.float32:
            # Only scales below 2^-142 carry so few bits that a ratio reaches 127.5; the smallest
            # numbers of bf16 and fp16 lie far above them.
            ratio = tl.minimum(tl.maximum(ratio, -CODE_MAX), CODE_MAX)
        # Below 2^22 the ulp of x + 1.5·2^23 is 1: the sum is rounded to an integer, ties to even,
        # and its low byte is that integer in two's complement.
        integer = (ratio + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
        code = tl.where(scale == scale, integer, tl.zeros(integer.shape, tl.int8))
    elif SOFTWARE:
        code = _float8_by_integers(ratio, CODE_MAX)
    else:
        code = ratio.to(TARGET)  # cvt.rn.satfinite: nearest even, saturating, NaN becomes 0x7f
    return code
