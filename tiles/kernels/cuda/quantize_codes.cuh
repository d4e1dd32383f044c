// Codes and scales of a block in registers, bit-identical to the workbench's codec.
//
// scale = amax / max_element and code = round(x / scale), both quotients correctly rounded; to nearest
// even and saturating, or (int8) stochastically: trunc(|x / scale| + u), u the element's 16 random bits
// behind the point.  An all-zero block has scale 1.  A NaN or an infinity makes the scale NaN and the
// codes 0 (int8) or 0x7f (8-bit floats).  Subnormals count: CuPy compiles with -ftz=true whatever it is
// asked for, so what may meet one is written in PTX, which the option does not touch.
//
// Macros: SOURCE (0 fp32, 1 bf16, 2 fp16), TARGET (0 int8, 1 e4m3fn, 2 e5m2), STOCHASTIC, VECTOR
// (adjacent elements that a thread handles at once), ALIGNED (its index is a multiple of VECTOR).

#include "words.cuh"

#define SOURCE_BYTES (SOURCE == 0 ? 4 : 2)
#if SOURCE == 0
#define WORDS VECTOR
#else
#define WORDS ((VECTOR + 1) / 2)
#endif
#define CODE_WORDS ((VECTOR + 3) / 4)
#define INFINITY_BITS 0x7f800000u
#define NAN_BITS 0x7fc00000u
#define CODE_MAX (TARGET == 0 ? 127.0f : TARGET == 1 ? 448.0f : 57344.0f)

#include "rounded_floats.cuh"

#ifndef ON_HOST
DEVICE float reciprocal_rn(float x) {
    float result;
    asm("rcp.rn.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

DEVICE float fused_rn(float x, float y, float z) {
    float result;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(x), "f"(y), "f"(z));
    return result;
}

// Minus x, also of a subnormal: C++'s own would be flushed.  As an operand it costs nothing.
DEVICE float minus(float x) {
    float result;
    asm("neg.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// |x| + y rounded down.
DEVICE float add_magnitude_rd(float x, float y) {
    float result;
    asm("{.reg .f32 m; abs.f32 m, %1; add.rm.f32 %0, m, %2;}" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

// The larger of two magnitudes in each half of a word, of which `peaks` are none below zero.
DEVICE u32 larger_halves(u32 peaks, u32 word) {
    u32 result;
#if SOURCE == 1
    asm("{.reg .b32 m; abs.bf16x2 m, %2; max.NaN.bf16x2 %0, %1, m;}"
#else
    asm("{.reg .b32 m; abs.f16x2 m, %2; max.NaN.f16x2 %0, %1, m;}"
#endif
        : "=r"(result) : "r"(peaks), "r"(word));
    return result;
}

DEVICE float half_value(u16 half) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}
#endif

#include "philox.cuh"

// Element j of a vector.
DEVICE float element(const u32 *words, int j) {
#if SOURCE == 0
    return as_float(words[j]);
#elif SOURCE == 1
    return as_float(j & 1 ? words[j / 2] & 0xffff0000u : words[j / 2] << 16);
#else
    return half_value((u16)(words[j / 2] >> (16 * (j & 1))));
#endif
}

// ---- Scales.

// Non-negative floats keep their order as integers, and NaN wins over all.
DEVICE u32 larger_magnitude(u32 peak, u32 word) {
#if SOURCE == 0
    return max(peak, word & 0x7fffffffu);
#else
    return larger_halves(peak, word);
#endif
}

// Bits of the fp32 value of a peak that larger_magnitude() gathered.
DEVICE u32 peak_bits(u32 peak) {
#if SOURCE == 0
    return peak;
#else
    const u32 half = max(peak & 0xffffu, peak >> 16);
#if SOURCE == 1
    return half << 16;
#else
    return as_bits(half_value((u16)half));
#endif
#endif
}

// What a block's elements are divided by.  Of an ordinary one the reciprocal and all remainders that
// matter are normal numbers, and no quotient is rounded beyond the largest code.
struct Divisor {
    float scale, divisor, negative_reciprocal, lift;
    float rest;  // what the reciprocal lacks, where it is ordinary
    bool ordinary;
};

// Whether quotients of an ordinary scale take the short way.
#define SHORT (TARGET == 0 && SOURCE != 0)

// x / divisor, correctly rounded.  With r the correctly rounded reciprocal, q0 = x r is within 2 ulp, a
// first correction within 1 ulp, and by Markstein's theorem (IBM J. R&D 34, 1990) a second one gives the
// correctly rounded quotient as long as remainders are exact.  For the 8 or 11 significant bits of bf16
// and fp16 the first one does: all were tried.  The signs are arranged so that x = -0 gives -0.
DEVICE float quotient(float x, float divisor, float negative_reciprocal) {
    const float negative = minus(x);
    float q = multiply_rn(negative, negative_reciprocal);
    q = fused_rn(fused_rn(q, divisor, negative), negative_reciprocal, q);
#if SOURCE == 0
    q = fused_rn(fused_rn(q, divisor, negative), negative_reciprocal, q);
#endif
    return q;
}

// The same by a reciprocal in two parts.  Of bf16 and fp16 every number was divided so by every scale that
// such an amax gives, and every quotient is correct; x = -0 gives +0, which integers do not tell apart.
DEVICE float short_quotient(float x, float reciprocal, float rest) {
    return fused_rn(x, reciprocal, multiply_rn(x, rest));
}

// 1 / divisor - reciprocal, to 24 bits.
DEVICE float rest_of(float divisor, float negative_reciprocal) {
    const float left = fused_rn(negative_reciprocal, divisor, 1.0f);
    return multiply_rn(fused_rn(left, left, left), minus(negative_reciprocal));
}

DEVICE Divisor divisor_of(u32 amax_bits) {
    Divisor d;
#if SOURCE == 0
    d.scale = divide_rn(as_float(amax_bits), CODE_MAX);
#else
    // Every amax of bf16 and fp16 was tried, subnormals too.
    d.scale = quotient(as_float(amax_bits), CODE_MAX, -1.0f / CODE_MAX);
#endif
    // amax / max_element can underflow; such a block is stored as an all-zero one.
    if (as_bits(d.scale) == 0) d.scale = 1.0f;
    if (amax_bits >= INFINITY_BITS) d.scale = as_float(NAN_BITS);
    d.ordinary = d.scale >= 0x1p-60f && d.scale <= 0x1p60f;
    // Lifting x and the scale by one power of two keeps remainders exact for every scale; they
    // underflow only where |x / scale| is far below the smallest step that counts.
    d.lift = d.scale < 0x1p-60f ? 0x1p64f : d.scale > 0x1p60f ? 0x1p-64f : 1.0f;
    d.divisor = multiply_rn(d.scale, d.lift);
    d.negative_reciprocal = minus(reciprocal_rn(d.divisor));
    d.rest = rest_of(d.divisor, d.negative_reciprocal);
    return d;
}

// ---- Codes.

#if TARGET == 0

// Four codes, rounded to nearest even: below 2^22 the ulp of x + 1.5 2^23 is 1.
DEVICE u32 encode_nearest(const float *ratios) {
    u32 bits[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) bits[k] = as_bits(__fadd_rn(ratios[k], 12582912.0f));
    return permute(permute(bits[0], bits[1], 0x0040), permute(bits[2], bits[3], 0x0040), 0x5410);
}

// Four codes, rounded stochastically; `pairs` are their random halves and `negative` has a byte 0xff
// for those below zero.  Under the exponent of 128 the ulp is 2^-16, so that 128 + u takes the bits of
// 128 and a half added to them, and a sum rounded down is 128 + |ratio| + u: its byte 2 is the code.
DEVICE u32 encode_stochastic(const float *ratios, const u32 *pairs, u32 negative) {
    u32 bits[4];
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
        // A dot product with a one and a zero adds one half: it runs beside logic, permutations and
        // comparisons, whose pipe has half the rate of additions and is what this has most for.
        const float low = as_float(__dp2a_lo(pairs[k / 2], 0x0001u, 0x43000000u));
        const float high = as_float(__dp2a_lo(pairs[k / 2], 0x0100u, 0x43000000u));
        bits[k] = as_bits(add_magnitude_rd(ratios[k], low));
        bits[k + 1] = as_bits(add_magnitude_rd(ratios[k + 1], high));
    }
    const u32 sizes =
        permute(permute(bits[0], bits[1], 0x0062), permute(bits[2], bits[3], 0x0062), 0x5410);
    // Bytes of at most 127 are negated at once: -m = (m + 128 - 1) ^ 127, of which no byte carries.
    return (sizes + 0x80808080u - (negative & 0x01010101u)) ^ negative ^ 0x80808080u;
}

#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 890

// Round to an 8-bit float by integer operations: nearest even, saturating, NaN becomes 0x7f.
DEVICE u32 float_code(float ratio) {
    const int mantissa = TARGET == 1 ? 3 : 2, bias = TARGET == 1 ? 7 : 15, shift = 23 - mantissa;
    const u32 bits = as_bits(ratio);
    if ((bits & 0x7fffffffu) > INFINITY_BITS) return 0x7f;
    const float magnitude = fminf(as_float(bits & 0x7fffffffu), CODE_MAX);
    u32 kept = as_bits(magnitude), code;
    if (kept >= (u32)(128 - bias) << 23) {
        code = ((kept + (1u << (shift - 1)) - 1 + (kept >> shift & 1)) >> shift) -
               ((u32)(127 - bias) << mantissa);
    } else {
        // An addend whose ulp is the smallest code leaves the code in the low bits of the sum.
        const u32 addend = (u32)(127 + 23 + 1 - bias - mantissa) << 23;
        code = as_bits(__fadd_rn(magnitude, as_float(addend))) - addend;
    }
    return code | (bits >> 24 & 0x80u);
}

DEVICE u32 encode_nearest(const float *ratios) {
    const u32 low = permute(float_code(ratios[0]), float_code(ratios[1]), 0x0040);
    const u32 high = permute(float_code(ratios[2]), float_code(ratios[3]), 0x0040);
    return permute(low, high, 0x5410);
}

#else

#define CAST(element, pair, low, high) \
    asm("cvt.rn.satfinite." element "x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low))

// cvt.satfinite: nearest even, saturating, NaN becomes 0x7f; its first operand is the high byte.
DEVICE u32 encode_nearest(const float *ratios) {
    u16 low, high;
#if TARGET == 1
    CAST("e4m3", low, ratios[0], ratios[1]);
    CAST("e4m3", high, ratios[2], ratios[3]);
#else
    CAST("e5m2", low, ratios[0], ratios[1]);
    CAST("e5m2", high, ratios[2], ratios[3]);
#endif
    return (u32)low | (u32)high << 16;
}

#endif

#if STOCHASTIC

// The random halves of a vector whose flat index is `index`, two a word.
DEVICE void random_pairs(i64 index, const RoundKeys &keys, u32 *pairs) {
#if ALIGNED && VECTOR == 4
    const Random random = philox_of(index >> 3, keys);
    pairs[0] = index & 4 ? random.words[2] : random.words[0];
    pairs[1] = index & 4 ? random.words[3] : random.words[1];
#elif VECTOR >= 8
#pragma unroll
    for (int k = 0; k < VECTOR / 8; ++k) {
        const Random random = random_halves(index + 8 * k, keys);
#pragma unroll
        for (int w = 0; w < 4; ++w) pairs[4 * k + w] = random.words[w];
    }
#else
    pairs[1] = 0;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) {
        const u32 half = random_half((u64)index + k, keys);
        pairs[k / 2] = k & 1 ? pairs[k / 2] | half << 16 : half;
    }
#endif
}

// 0xff in the bytes of those of four elements that are below zero.
DEVICE u32 negative_bytes(const u32 *words, int four) {
#if SOURCE == 0
    u32 signs[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) signs[k] = 4 * four + k < VECTOR ? words[4 * four + k] : 0;
    return permute(permute(signs[0], signs[1], 0x00fb), permute(signs[2], signs[3], 0x00fb), 0x5410);
#else
    return permute(words[2 * four], 2 * four + 1 < WORDS ? words[2 * four + 1] : 0, 0xfdb9);
#endif
}

#endif

// Codes of a vector at the flat index `index`; `ordinary` says what d.ordinary does, as a constant.
DEVICE void encode(const u32 *words, const Divisor &d, bool ordinary, i64 index,
                   const RoundKeys &keys, u32 *codes) {
    float ratios[CODE_WORDS * 4];
#pragma unroll
    for (int j = 0; j < CODE_WORDS * 4; ++j) {
        if (j >= VECTOR) {
            ratios[j] = 0.0f;
            continue;
        }
        float x = element(words, j);
        if (SHORT && ordinary) {
            ratios[j] = short_quotient(x, minus(d.negative_reciprocal), d.rest);
            continue;
        }
        if (!ordinary) x = multiply_rn(x, d.lift);
        ratios[j] = quotient(x, d.divisor, d.negative_reciprocal);
#if TARGET == 0
        // Scales that are subnormal carry so few bits that a ratio may lie beyond the largest code.
        if (!ordinary) ratios[j] = fminf(fmaxf(ratios[j], -127.0f), 127.0f);
#endif
    }
#if STOCHASTIC
    u32 pairs[CODE_WORDS * 2];
    random_pairs(index, keys, pairs);
#endif
#pragma unroll
    for (int j = 0; j < CODE_WORDS; ++j) {
#if STOCHASTIC
        codes[j] = encode_stochastic(ratios + 4 * j, pairs + 2 * j, negative_bytes(words, j));
#else
        codes[j] = encode_nearest(ratios + 4 * j);
#endif
#if TARGET == 0
        if (!ordinary && d.scale != d.scale) codes[j] = 0;  // int8 has no NaN
#endif
    }
}
