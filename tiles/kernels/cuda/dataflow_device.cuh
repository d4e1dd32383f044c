// What the kernels of the INT8 dataflow share: vectors of 16 codes, Philox, rounding, block scales.
//
// Blocks stay quantised in memory: value = code x scale in, code and scale out, fp32 in registers.
// An output's scale is amax / max_element, correctly rounded, 1 for a block of zeros; codes are
// rounded from the fp32 value times a multiplier that maps the block's largest value just onto
// max_element or less, so no code can overflow and there is no division an element.  A NaN or an
// infinity among inputs or results makes the scale NaN and the codes 0 (int8) or 0x7f (e4m3fn).
// Magnitudes below 2^-118 count as zero: CuPy compiles with flushed subnormals.
//
// Macros: ELEMENT (0 int8, 1 e4m3fn), STOCHASTIC, BLOCK_ROWS, BLOCK_COLS, LANES (threads that share a
// block, a power of two), BESIDE (narrow blocks side by side that TEAM threads share, so that a warp
// moves whole lines of memory: each of its lanes has one block's vectors), THREADS, ALIGNED (every vector lies inside its row and on a 16-byte boundary),
// WHOLE (the matrix is whole blocks).  ON_HOST leaves out what only a GPU has; whoever defines it brings
// it along.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;

#define VECTOR 16  // codes that a thread moves at once
#define WORDS 4    // and 4-byte words of them
#define VECTORS_PER_ROW (BLOCK_COLS / VECTOR)
#define ITEMS (BLOCK_ROWS * BLOCK_COLS / VECTOR / LANES)  // vectors of a block that a thread has
#define TEAM (BESIDE * LANES)
#define LINE (BESIDE * VECTORS_PER_ROW)  // vectors of a team's row
#define CODE_MAX (ELEMENT == 0 ? 127.0f : 448.0f)
#define NAN_WORD (ELEMENT == 0 ? 0u : 0x7f7f7f7fu)
#define FLOAT_MAX 3.402823466e38f

// Of values that are never below zero: the sign of what is rounded need not be looked at.
#ifndef NONNEGATIVE
#define NONNEGATIVE 0
#endif
// Codes are taken apart by permutations, where dot products would cost registers that are not there.
#ifndef PERMUTED
#define PERMUTED 0
#endif

// Codes become floats by conversions: one instruction, of a pipe that takes 16 lanes a clock.  Of each
// four codes so many.
#ifndef CONVERSIONS
#define CONVERSIONS 0
#endif

#ifndef ON_HOST
#define DEVICE __device__ __forceinline__
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]

DEVICE u32 permute(u32 low, u32 high, u32 selector) {
    u32 result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
}

DEVICE float converted_byte(u32 word, int k) {  // a signed one; the instruction picks it out
    int byte;
    asm("bfe.s32 %0, %1, %2, 8;" : "=r"(byte) : "r"(word), "r"(8 * k));
    return (float)(signed char)byte;
}

DEVICE float exp2_approximate(float x) {  // relative error below 2^-22
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

DEVICE float reciprocal_approximate(float x) {  // one ulp
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

DEVICE float larger(float x, float y) {  // NaN wins
    float result;
    asm("max.ftz.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

#if ELEMENT == 1
DEVICE void decode_pair(u16 codes, float &low, float &high) {
    u32 halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(low), "=f"(high) : "r"(halves));
}

DEVICE u32 encode_pair(float low, float high) {  // nearest even, saturating
    u16 codes;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(high), "f"(low));
    return codes;
}
#endif

// Stores that are left out where `wanted` is false.  They are no branch, behind which what is stored
// would be worked out alone: the chains of all vectors of a thread run beside one another.
DEVICE void store_vector(u8 *to, const u32 *words, bool wanted) {
    asm volatile("{.reg .pred p; setp.ne.u32 p, %5, 0; @p st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};}"
                 ::"l"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3]),
                 "r"((u32)wanted) : "memory");
}

// Entry `byte k of word` of a table in shared memory: its address is one dot product.
DEVICE float entry(const float *table, u32 word, int k) {
    float value;
    u32 at = __dp4a(word, 4u << 8 * k, (u32)__cvta_generic_to_shared(table));
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(at) : "memory");
    return value;
}

DEVICE void store_scale(float *to, float scale, bool wanted) {
    asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; @p st.global.f32 [%0], %1;}"
                 ::"l"(to), "f"(scale), "r"((u32)wanted) : "memory");
}
#endif

DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }
DEVICE u32 as_bits(float value) { return __float_as_uint(value); }

// The values of one word's four codes.
DEVICE void decode(u32 word, float *values) {
#if ELEMENT == 0
#if PERMUTED
    // A byte under the exponent of 2^23 is 2^23 + byte; xor 0x80 makes the byte code + 128.
    const u32 shifted = word ^ 0x80808080u;
#pragma unroll
    for (int k = 0; k < 4; ++k)
        values[k] = as_float(permute(shifted, 0x4b000000u, 0x7440 + k)) - 8388736.0f;
#else
    // The bits of 1.5 x 2^23, plus a code, are those of 1.5 x 2^23 + code.  A dot product with a one
    // and three zeros picks the code out: it runs beside logic, permutations and comparisons, whose
    // pipe has half the rate of additions and is what these kernels have most for.  A conversion from
    // 8 bits has a quarter of that rate.
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const u32 bits = (u32)__dp4a((int)word, 1 << 8 * k, 0x4b400000);
        values[k] = k < CONVERSIONS ? converted_byte(word, k) : as_float(bits) - 12582912.0f;
    }
#endif
#else
    decode_pair((u16)word, values[0], values[1]);
    decode_pair((u16)(word >> 16), values[2], values[3]);
#endif
}

#include "philox.cuh"
#include "follow_launch.cuh"

// ---- Rounding to codes.

#if ELEMENT == 0

// Four codes in a word, rounded to nearest even: under 1.5 x 2^23 the ulp is 1.
DEVICE u32 encode_nearest(const float *values, float multiplier) {
    u32 bits[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) bits[k] = as_bits(__fmaf_rn(values[k], multiplier, 12582912.0f));
    return permute(permute(bits[0], bits[1], 0x0040), permute(bits[2], bits[3], 0x0040), 0x5410);
}

// Four codes, rounded stochastically: trunc(|ratio| + u) with the sign of ratio, u the 16 random bits
// behind the point; under the exponent of 128 they are 128 + u.  As floor of the signed ratio: where it
// is negative the bits are inverted, since -floor(r + u) = floor(-r + (1 - 2^-16 - u)) for multiples of
// 2^-16.  The first sum rounds ratios to such (below zero to finer ones), the second one rounds down.
DEVICE u32 encode_stochastic(const float *values, float multiplier, const u32 *pairs) {
    u32 bits[4];
#pragma unroll
    for (int k = 0; k < 4; k += 2) {
#if NONNEGATIVE
        u32 pair = pairs[k / 2];
#else
        u32 pair = pairs[k / 2] ^ permute(as_bits(values[k]), as_bits(values[k + 1]), 0xffbb);
#endif
        // One half added to the bits of 128, as in decode().
        float low = as_float(__dp2a_lo(pair, 0x0001u, 0x43000000u));
        float high = as_float(__dp2a_lo(pair, 0x0100u, 0x43000000u));
        bits[k] = as_bits(__fadd_rd(__fmaf_rn(values[k], multiplier, low), 12582784.0f));
        bits[k + 1] = as_bits(__fadd_rd(__fmaf_rn(values[k + 1], multiplier, high), 12582784.0f));
    }
    return permute(permute(bits[0], bits[1], 0x0040), permute(bits[2], bits[3], 0x0040), 0x5410);
}

// ---- Codes times a number, without floats.

// A byte of a word as an integer.
DEVICE int code_of(u32 word, int k) {
#if PERMUTED
    return (int)permute(word, 0, 0x8880 + 0x1111 * k);  // the byte, and three times its sign
#else
    return __dp4a((int)word, 1 << 8 * k, 0);
#endif
}

// Four codes times a multiplier with 24 bits behind the point, rounded: the product and what is added
// below the point fill 32 bits, of which the uppermost eight are the code.  Stochastically as floor, with
// the random bits inverted where the code is negative: see encode_stochastic.
DEVICE u32 multiply_codes(u32 word, int multiplier, const u32 *pairs) {
    u32 sums[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#if STOCHASTIC
#if NONNEGATIVE
        u32 pair = pairs[k / 2];
#else
        u32 pair = pairs[k / 2] ^ permute(word, 0, k < 2 ? 0x9988 : 0xbbaa);
#endif
        const u32 below = permute(pair, 0, k % 2 ? 0x4324 : 0x4104);
#else
        const u32 below = 0x800000u;
#endif
        sums[k] = (u32)(code_of(word, k) * multiplier) + below;
    }
    return permute(permute(sums[0], sums[1], 0x0073), permute(sums[2], sums[3], 0x0073), 0x5410);
}

// The largest of the 8 bytes of two words, and of the largest before, in the upper bytes of halves: of
// bytes 1 and 3, and of bytes 0 and 2, what lies below them not being looked at.
DEVICE void largest_bytes(u32 first, u32 second, u32 (&largest)[2]) {
    largest[0] = __vimax3_u16x2(largest[0], first, second);
    largest[1] = __vimax3_u16x2(largest[1], first * 256u, second * 256u);
}

DEVICE u32 largest_byte(const u32 (&largest)[2]) {
    u32 both = __vmaxu2(largest[0], largest[1]);
    u32 upper = both >> 24, lower = both >> 8 & 255u;
    return upper > lower ? upper : lower;
}

#else

DEVICE u32 encode_nearest(const float *values, float multiplier) {
    u32 low = encode_pair(values[0] * multiplier, values[1] * multiplier);
    return low | encode_pair(values[2] * multiplier, values[3] * multiplier) << 16;
}

// Random bits are added below the three kept ones, and a carry rounds away from zero.  Subnormal
// codes are multiples of 2^-9, as the normal ones just above 2^-6 are: they are rounded up there.
DEVICE u32 encode_stochastic(const float *values, float multiplier, const u32 *pairs) {
    float rounded[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        float ratio = values[k] * multiplier;
        float shift = as_float((as_bits(ratio) & 0x80000000u) | 0x3c800000u);  // 2^-6
        bool subnormal = fabsf(ratio) < 0.015625f;
        u32 bits = as_bits(subnormal ? __fadd_rz(ratio, shift) : ratio);
        u32 random = (k & 1 ? pairs[k / 2] & 0xffff0000u : pairs[k / 2] << 16) >> 12;
        float kept = as_float((bits + random) & 0xfff00000u);
        rounded[k] = subnormal ? kept - shift : kept;
    }
    return encode_pair(rounded[0], rounded[1]) | encode_pair(rounded[2], rounded[3]) << 16;
}

#endif

// Codes of 16 values whose flat index is `index`, as four words.
DEVICE void encode(const float *values, float multiplier, bool is_nan, i64 index,
                   const RoundKeys &keys, u32 *words) {
#if STOCHASTIC
    Random halves[2];
    random_sixteen(index, keys, halves);
#endif
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
#if STOCHASTIC
        words[w] = encode_stochastic(values + 4 * w, multiplier, halves[w / 2].words + w % 2 * 2);
#else
        words[w] = encode_nearest(values + 4 * w, multiplier);
#endif
        if (is_nan) words[w] = NAN_WORD;
    }
}

// ---- Block scales.

struct OutputScale {
    float scale;       // as it is stored
    float multiplier;  // of the values in registers
    bool is_nan;
};

// From the largest magnitude in registers, whose unit is `unit`; poison is any input scale that is
// not finite.
DEVICE OutputScale output_scale(float peak, float unit, bool is_nan) {
    OutputScale out;
    float amax = peak * unit;
    // amax / CODE_MAX correctly rounded by Markstein's theorem (IBM J. R&D 34, 1990).
    const float reciprocal = 1.0f / CODE_MAX;
    float quotient = amax * reciprocal;
    float scale = __fmaf_rn(__fmaf_rn(-CODE_MAX, quotient, amax), reciprocal, quotient);
    // The reciprocal and two products err by less than 6 units of 2^-24 together.  Of a peak beyond
    // 2^126 the reciprocal would be subnormal, and flushed to zero: the peak is taken in sixteens.
    float multiplier =
        reciprocal_approximate(peak * 0x1p-4f) * (CODE_MAX * 0x1p-4f * (1.0f - 6.0f * 0x1p-24f));
    out.is_nan = is_nan || !(amax <= FLOAT_MAX);
    bool zero = !(scale > 0.0f) || !(multiplier <= FLOAT_MAX);
    out.scale = out.is_nan ? as_float(0x7fc00000u) : zero ? 1.0f : scale;
    out.multiplier = zero ? 0.0f : multiplier;
    return out;
}

// ---- Places of a block's vectors.

// Where a thread's vectors lie: TEAM threads go through the rows of their blocks, 16 columns each at a
// time.
struct Place {
    i64 row, col, index;
};

DEVICE u32 member_of() { return threadIdx.x % TEAM; }
// Which of its team's blocks a thread has a part of, and whether it is that one's first.
DEVICE u32 block_of() { return member_of() % LINE / VECTORS_PER_ROW; }
DEVICE bool is_first() { return member_of() < LINE && member_of() % VECTORS_PER_ROW == 0; }

// The place of a thread's vector 0, in the blocks from (down, right) on of the grid of blocks.
DEVICE Place first_place(i64 down, i64 right, i64 cols) {
    Place place;
    place.row = down * BLOCK_ROWS + member_of() / LINE;
    place.col = right * BLOCK_COLS + member_of() % LINE * VECTOR;
    place.index = place.row * cols + place.col;
    return place;
}

// Rows and columns from a thread's vector 0 to its vector i, constants after unrolling.
DEVICE int down_of(int i) {
    return LANES >= VECTORS_PER_ROW ? i * (LANES / VECTORS_PER_ROW) : i * LANES / VECTORS_PER_ROW;
}

DEVICE int right_of(int i) {
    return LANES >= VECTORS_PER_ROW ? 0 : i * LANES % VECTORS_PER_ROW * VECTOR;
}

// The place of vector i, a constant after unrolling.
DEVICE Place place_of(const Place &first, int i, i64 cols) {
    const int down = down_of(i), right = right_of(i);
    Place place = {first.row + down, first.col + right, first.index + down * cols + right};
    return place;
}

// The largest of a block's threads' peaks, in each of them; called by the whole CTA, which lends
// 2 BESIDE THREADS / 32 floats of shared memory where teams are larger than a warp, and tells odd calls
// from even ones: whoever is late still reads what the last one left.
DEVICE float block_peak(float peak, float *of_warp, u32 odd) {
#if BESIDE > 1 || LANES < 32
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2)
        if ((distance < VECTORS_PER_ROW && distance < LANES) || (distance >= LINE && distance < TEAM))
            peak = larger(peak, __shfl_xor_sync(0xffffffffu, peak, distance));
#else
    // Floats that are not negative keep their order as integers, and NaN is above all.
    peak = as_float(__reduce_max_sync(0xffffffffu, as_bits(peak)));
#endif
#if TEAM > 32
    of_warp += odd * (BESIDE * THREADS / 32) + block_of();
    const u32 side_lane = threadIdx.x % 32, first = threadIdx.x / TEAM * (TEAM / 32);
    if (side_lane < LINE && side_lane % VECTORS_PER_ROW == 0)
        of_warp[threadIdx.x / 32 * BESIDE] = peak;
    __syncthreads();
#pragma unroll
    for (int w = 0; w < TEAM / 32; ++w) peak = larger(peak, of_warp[(first + w) * BESIDE]);
#endif
    return peak;
}

// ---- Memory.

// Sixteen codes from `index` on; those at columns from `cols` on are zero.
DEVICE void load_codes(const u8 *codes, i64 index, i64 col, i64 cols, u32 *words) {
#if ALIGNED
    uint4 vector = __ldcs((const uint4 *)(codes + index));
    words[0] = vector.x, words[1] = vector.y, words[2] = vector.z, words[3] = vector.w;
#else
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        words[w] = 0;
        for (int k = 0; k < 4; ++k)
            if (col + 4 * w + k < cols) words[w] |= (u32)codes[index + 4 * w + k] << 8 * k;
    }
#endif
}

DEVICE void store_codes(u8 *codes, i64 index, i64 col, i64 cols, const u32 *words, bool wanted) {
#if ALIGNED
    store_vector(codes + index, words, wanted);
#else
    if (!wanted) return;
#pragma unroll
    for (int w = 0; w < WORDS; ++w)
        for (int k = 0; k < 4; ++k)
            if (col + 4 * w + k < cols) codes[index + 4 * w + k] = (u8)(words[w] >> 8 * k);
#endif
}

// Sixteen values of a vector over the columns; those at columns from `cols` on are zero.
DEVICE void load_columns(const float *vector, i64 col, i64 cols, float *values) {
#if ALIGNED
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        float4 four = __ldg((const float4 *)(vector + col) + w);
        values[4 * w] = four.x, values[4 * w + 1] = four.y;
        values[4 * w + 2] = four.z, values[4 * w + 3] = four.w;
    }
#else
    for (int k = 0; k < VECTOR; ++k) values[k] = col + k < cols ? vector[col + k] : 0.0f;
#endif
}
