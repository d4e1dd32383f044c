// Codes of e4m3fn or e5m2 brought to another power-of-two scale: code x 2^-shift, rounded to nearest
// even where it falls below the normal codes, exact elsewhere.  A shift below zero goes to a smaller
// scale, as far as the codes' own exponents leave room.
//
// Codes are fp16 numbers, and so are their products with a power of two but for what fp16 rounds below
// 2^-24: that is less than a quarter of the smallest code, and becomes zero either way.  So there is one
// rounding, that to a code.
//
// Macros: ELEMENT (2 e4m3fn, 3 e5m2).

#if ELEMENT == 2
#define FORMAT "e4m3x2"
#define MANTISSA_BITS 3
#define TOP_EXPONENT 15  // as stored, of the largest number
#define ROOMLESS 0x10101010u  // added to a magnitude of the last two exponents: the sign's place
#else
#define FORMAT "e5m2x2"
#define MANTISSA_BITS 2
#define TOP_EXPONENT 30
#define ROOMLESS 0x0c0c0c0cu
#define TO_SPECIAL 0x04040404u  // added to a magnitude from 0x7c on (infinity, NaN): the sign's place
#endif
#define MAGNITUDES 0x7f7f7f7fu
#define SIGNS_OF_WORD 0x80808080u
// Places that codes can be moved up: not to the last one, where e4m3fn lacks a number.  fp16 has no
// factor for more than 15.
#define MOST_ROOM 14
#define PART_SHIFT 14  // of e5m2: larger shifts go in two parts, fp16 has no such factors
#define MOST_SHIFT 38  // of 57344 2^-33 is no code, of 448 2^-19

#ifndef ON_HOST
// Of both halves, subnormal numbers kept.
DEVICE u32 multiply_halves(u32 x, u32 y) {
    u32 result;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(x), "r"(y));
    return result;
}

// Four codes as fp16 numbers, the first two in `low`.
DEVICE void to_halves(u32 codes, u32 &low, u32 &high) {
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\n"
        "cvt.rn.f16x2." FORMAT " %0, l;\ncvt.rn.f16x2." FORMAT " %1, h;\n}"
        : "=r"(low), "=r"(high)
        : "r"(codes));
}

// The nearest codes: no number becomes infinity, infinity becomes the largest code, NaN stays NaN.
DEVICE u32 to_codes(u32 low, u32 high) {
    u32 codes;
    asm("{\n.reg .b16 l, h;\ncvt.rn.satfinite." FORMAT ".f16x2 l, %1;\n"
        "cvt.rn.satfinite." FORMAT ".f16x2 h, %2;\nmov.b32 %0, {l, h};\n}"
        : "=r"(codes)
        : "r"(low), "r"(high));
    return codes;
}
#endif

// 2^-shift as fp16, in both halves, from -15 on; 0 from 25 on.
DEVICE u32 power_halves(int shift) {
    const u32 bits = shift < 15 ? (u32)(15 - shift) << 10 : shift < 25 ? 1u << (24 - shift) : 0u;
    return bits * 0x00010001u;
}

// What the fp16 numbers of a block are multiplied by, one after the other.
struct Shift {
    u32 first, second;
};

DEVICE Shift shift_by(int shift) {
    shift = shift < MOST_SHIFT ? shift : MOST_SHIFT;
    const int part = ELEMENT == 3 && shift > PART_SHIFT ? PART_SHIFT : shift;
    return {power_halves(part), power_halves(shift - part)};
}

DEVICE u32 shifted(u32 codes, Shift by) {
    u32 low, high;
    to_halves(codes, low, high);
    low = multiply_halves(low, by.first), high = multiply_halves(high, by.first);
    if (ELEMENT == 3) low = multiply_halves(low, by.second), high = multiply_halves(high, by.second);
    return to_codes(low, high);
}

#if ELEMENT == 3
// Infinities and NaNs as they were.
DEVICE u32 with_specials(u32 aligned, u32 codes) {
    const u32 special = ((codes & MAGNITUDES) + TO_SPECIAL) & SIGNS_OF_WORD;
    const u32 kept = (special >> 7) * 0xffu;
    return (aligned & ~kept) | (codes & kept);
}
#endif

DEVICE u32 magnitudes_of(uint4 codes) {
    return (codes.x | codes.y | codes.z | codes.w) & MAGNITUDES;
}

// How far codes that are not all zeros may be moved up: 0 for those that quantisation leaves.
DEVICE int room_of(uint4 codes) {
    const u32 words[4] = {codes.x & MAGNITUDES, codes.y & MAGNITUDES, codes.z & MAGNITUDES,
                          codes.w & MAGNITUDES};
    const u32 roomless = (words[0] + ROOMLESS) | (words[1] + ROOMLESS) | (words[2] + ROOMLESS) |
                         (words[3] + ROOMLESS);
    if (roomless & SIGNS_OF_WORD) return 0;
    u32 largest = 0;  // of even and of odd codes
#pragma unroll
    for (int i = 0; i < 4; ++i)
        largest = __vmaxu2(largest, __vmaxu2(words[i] & 0x00ff00ffu, words[i] >> 8 & 0x00ff00ffu));
    const u32 code = largest >> 16 > (largest & 0xffffu) ? largest >> 16 : largest & 0xffffu;
    const int room = TOP_EXPONENT - 1 - (int)(code >> MANTISSA_BITS);
    return room < MOST_ROOM ? room : MOST_ROOM;
}

// Sixteen codes of one block.
DEVICE uint4 align_codes(uint4 codes, int shift) {
    const Shift by = shift_by(shift);
    uint4 aligned = make_uint4(shifted(codes.x, by), shifted(codes.y, by), shifted(codes.z, by),
                               shifted(codes.w, by));
#if ELEMENT == 3
    const u32 special = ((codes.x & MAGNITUDES) + TO_SPECIAL) | ((codes.y & MAGNITUDES) + TO_SPECIAL) |
                        ((codes.z & MAGNITUDES) + TO_SPECIAL) | ((codes.w & MAGNITUDES) + TO_SPECIAL);
    if (special & SIGNS_OF_WORD) {
        aligned.x = with_specials(aligned.x, codes.x), aligned.y = with_specials(aligned.y, codes.y);
        aligned.z = with_specials(aligned.z, codes.z), aligned.w = with_specials(aligned.w, codes.w);
    }
#endif
    return aligned;
}
