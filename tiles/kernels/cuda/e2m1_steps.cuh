// Codes of e2m1fn of bf16 numbers under NVFP4's two levels of scales, without a division an element.
//
// A block's scale is one of 119 numbers, 2^-6 to 448 in e4m3fn, and x / (scale * outer) as fp32 rounds it
// decides the code: it rises with |x|, so that for each scale there are seven least bf16 numbers, those
// that take the codes 1 to 7.  A CTA finds them once, by that very division.  bf16 numbers without their
// sign are integers in the same order, 128 to a binade, and of the seven, for quotients of 0.25, 0.75, 1.25,
// 1.75, 2.5, 3.5 and 5, the last three lie one and two binades above the third and one above the fourth:
//
//   code = [y >= a] + [y >= b] + max(0, (y - c) / 128 + 1) + max(0, (y - e) / 128 + 1), rounded down.
//
// Two elements at a time: n = max(0, y - a + 1) is below 1024, and such an integer is the fp16 number
// n 2^-24.  Steps are counted in units in the last place of 1.5, to which sums with 1.5 are rounded:
// n / 128 steps by a factor of 2^7, and the first two by a line through 1/4 between a - 1 and a and through
// 3/4 between b - 1 and b, cut to 0 to 1 and doubled.  No sum lies in the middle between two units: n is 65
// steps ahead of a whole binade at c and e, 64 one below, and the factor is smaller by 2^-11.
//
// The same holds for the scales of blocks: amax / 6 / outer rounded to e4m3fn rises with amax, and repeats
// from binade to binade, eight codes further up.
//
// Both hold for scales from 2^-100 on, where all these numbers are normal ones.

#include "rounded_floats.cuh"

#define INFINITY_HALF 0x7f80u  // of bf16
#define LEAST_CODE 8           // e4m3fn of 2^-6
#define MOST_CODE 126          // and of 448
#define ONE_CODE 56            // and of 1
#define NAN_SCALE 127
#define SCALES (NAN_SCALE - LEAST_CODE + 1)

#ifndef ON_HOST
// In both halves: x + y, or 0 if that is more.
DEVICE u32 add_positive(u32 x, u32 y) { return __viaddmax_s16x2(x, y, 0); }

// In both halves, as fp16: x + y.
DEVICE u32 add_halves(u32 x, u32 y) {
    u32 result;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(x), "r"(y));
    return result;
}

// In both halves, as fp16: x y + z.
DEVICE u32 fused_halves(u32 x, u32 y, u32 z) {
    u32 result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(z));
    return result;
}

// The same, at least 0.
DEVICE u32 fused_positive_halves(u32 x, u32 y, u32 z) {
    u32 result;
    asm("fma.rn.relu.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(z));
    return result;
}

// The same, from 0 to 1.
DEVICE u32 fused_unit_halves(u32 x, u32 y, u32 z) {
    u32 result;
    asm("fma.rn.sat.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(x), "r"(y), "r"(z));
    return result;
}

// One half of a word in both; put so, operands of fp16 take it from where it lies.
DEVICE u32 lower_twice(u32 word) {
    u32 result;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {l, l};}" : "=r"(result) : "r"(word));
    return result;
}
DEVICE u32 upper_twice(u32 word) {
    u32 result;
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %1; mov.b32 %0, {h, h};}" : "=r"(result) : "r"(word));
    return result;
}
#endif

// ---- Scales.

// e4m3fn of a block's scale in units of the outer one, between the smallest normal number and the largest.
DEVICE u32 scale_code(float ratio) {
    const u32 bits = as_bits(fminf(fmaxf(ratio, 0.015625f), 448.0f));
    return ((bits + 0x7ffffu + (bits >> 20 & 1)) >> 20) - (120u << 3);
}

DEVICE float scale_value(u32 code) { return as_float((code << 20) + (120u << 23)); }

// e4m3fn of the scale of a block whose largest magnitude has these bits.
DEVICE u32 divided_scale_code(u32 peak, float outer) {
    return peak == 0 ? ONE_CODE : scale_code(divide_rn(divide_rn(as_float(peak << 16), 6.0f), outer));
}

// Whether a tensor's outer scale allows for what is said above.
DEVICE bool ordinary(float outer) { return outer >= 0x1p-100f; }

// Of a table by the seven bits of a largest magnitude's mantissa: to its bits without the last four it adds
// up to divided_scale_code().  In the binade of 8 outer quotients are near 1.
DEVICE i16 tabled_scale(u32 mantissa, float outer) {
    const u32 peak = ((as_bits(outer) >> 23) + 3) << 7 | mantissa;
    return (i16)((int)divided_scale_code(peak, outer) - (int)(peak >> 4));
}

DEVICE u32 tabled_scale_code(u32 peak, const i16 *table) {
    const int code = min(max(table[peak & 127] + (int)(peak >> 4), LEAST_CODE), MOST_CODE);
    return peak == 0 ? ONE_CODE : peak >= INFINITY_HALF ? NAN_SCALE : code;
}

// ---- Codes.

// The least bf16 number, as bits, whose quotient is `middle` or, `strict`, above it.
DEVICE u32 least_number(float middle, bool strict, float divisor) {
    // What the product is cut to, or the next one: no roundings make up for the step to the one before.
    const u32 cut = as_bits(multiply_rn(middle, divisor)) >> 16;
    const float quotient = divide_rn(as_float(cut << 16), divisor);
    return (strict ? quotient > middle : quotient >= middle) ? cut : cut + 1;
}

// What a block's elements are held against, of bf16 in both halves or two numbers of fp16.
struct alignas(16) Steps {
    u32 first;  // 1 - a, twice
    u32 line;   // the line's slope in units of 2^-24, and what it has at 0
    u32 ahead;  // what c and e lie behind n, in binades and units of 1.5
    u32 signs;  // of four bytes
};

// fp16 next to a number whose exponent is one of fp16's normal numbers.
DEVICE u32 half_bits(float x) {
    const u32 bits = as_bits(x);
    return ((((bits & 0x7fffffffu) + 0x1000u) >> 13) - (112u << 10)) | (bits >> 16 & 0x8000u);
}

DEVICE Steps steps_of(u32 code, float outer) {
    Steps steps = {0x80008000u, 0, 0x80008000u, 0};  // of a poisoned block, whose codes are all 0
    if (code == NAN_SCALE) return steps;
    const float divisor = multiply_rn(scale_value(code), outer);
    const int a = least_number(0.25f, true, divisor), b = least_number(0.75f, false, divisor);
    const int c = least_number(1.25f, true, divisor), e = least_number(1.75f, false, divisor);
    const float slope = 0.5f / (b - a);
    steps.first = lower_twice(1 - a);
    steps.line = half_bits(slope * 0x1p24f) | half_bits(0.25f - 0.5f * slope) << 16;
    steps.ahead = half_bits((a - c + 64) * 0x1p-17f) | half_bits((a - e + 64) * 0x1p-17f) << 16;
    steps.signs = 0x08080808u;
    return steps;
}

// Codes of two numbers without their signs, in the lower bytes of both halves.
DEVICE u32 two_codes(u32 y, const Steps &steps) {
    const u32 factor = 0x57ff57ffu;  // (1 - 2^-11) 2^7
    const u32 n = add_positive(y, steps.first);
    const u32 line = fused_unit_halves(n, lower_twice(steps.line), upper_twice(steps.line));
    const u32 two = fused_halves(line, 0x18001800u, 0x3e003e00u);  // 2^-9, and 1.5
    const u32 ones = fused_positive_halves(n, factor, lower_twice(steps.ahead));
    const u32 halves = fused_positive_halves(n, factor, upper_twice(steps.ahead));
    return add_halves(halves, add_halves(ones, two));
}

// Eight codes with their signs, the first in the lowest bits: of numbers in pairs, `sizes` without signs.
DEVICE u32 eight_codes(const u32 *words, const u32 *sizes, const Steps &steps) {
    u32 fours[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const u32 low = two_codes(sizes[2 * k], steps), high = two_codes(sizes[2 * k + 1], steps);
        // Bytes: codes, and 0xff for what is below zero.
        const u32 codes = permute(low, high, 0x6420);
        const u32 negative = permute(words[2 * k], words[2 * k + 1], 0xfdb9);
        const u32 four = codes | (negative & steps.signs);
        fours[k] = four + (four >> 4);  // two nibbles in bytes 0 and 2
    }
    return permute(fours[0], fours[1], 0x6420);
}

// The code of one number without its sign, by its quotient: for all scales there are.
DEVICE u32 divided_code(u32 size, float divisor) {
    // Of a divisor of zero all but zero takes the largest code.
    const float q = divide_rn(as_float(size << 16), divisor);
    return (q > 0.25f) + (q >= 0.75f) + (q > 1.25f) + (q >= 1.75f) + (q > 2.5f) + (q >= 3.5f) + (q > 5.0f);
}

DEVICE u32 eight_divided_codes(const u32 *words, float divisor) {
    u32 codes = 0;
    for (int k = 0; k < 8; ++k) {
        const u32 number = words[k / 2] >> 16 * (k & 1) & 0xffffu;
        codes |= (divided_code(number & 0x7fffu, divisor) | (number >> 15 << 3)) << 4 * k;
    }
    return codes;
}
