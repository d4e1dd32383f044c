// fp32 sums of a tile to codes and block scales, as the workbench's codec has them.
//
// Bit-identical to quantising the fp32 product: scale = amax / max_element and code = round(x /
// scale), both quotients correctly rounded; 1 for a block of zeros; a NaN or an infinity makes the
// scale NaN and the codes 0 (int8) or 0x7f (e4m3fn).  Subnormals count, whatever -ftz says: what
// may meet one is written in PTX.
//
// Macros: OUT (3 int8, 4 e4m3fn), STOCHASTIC (int8 only), OUT_BLOCK, COLUMNS, STORE_PITCH, ROW_BYTES,
// BLOCK_M, BLOCK_N, CONSUMERS, CONSUMER_BARRIER.

#define CODE_MAX (OUT == 3 ? 127.0f : 448.0f)
#define INFINITY_BITS 0x7f800000u
#define NAN_BITS 0x7fc00000u

__device__ __forceinline__ float divide_rn(float x, float y) {
    float result;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

__device__ __forceinline__ float larger(float x, float y) {  // of the magnitudes; NaN wins
    float result;
    asm("{\n.reg .f32 a, b;\nabs.f32 a, %1;\nabs.f32 b, %2;\nmax.NaN.f32 %0, a, b;\n}"
        : "=f"(result)
        : "f"(x), "f"(y));
    return result;
}

// The largest of a warp's magnitudes, whose bits keep their order as integers.
__device__ __forceinline__ u32 warp_peak(float magnitude) {
    u32 peak;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(peak) : "r"(__float_as_uint(magnitude)));
    return peak;
}

// What a block's values are divided by; see divide().
struct Divisor {
    float scale, divisor, negative_reciprocal, negative_lift;
};

__device__ __forceinline__ Divisor divisor_of(u32 amax_bits) {
    Divisor d;
    d.scale = divide_rn(__uint_as_float(amax_bits), CODE_MAX);
    // amax / max_element can underflow; such a block is stored as an all-zero one.
    if (__float_as_uint(d.scale) == 0) d.scale = 1.0f;
    if (amax_bits >= INFINITY_BITS) d.scale = __uint_as_float(NAN_BITS);
    const float lift = d.scale < 0x1p-60f ? 0x1p64f : d.scale > 0x1p60f ? 0x1p-64f : 1.0f;
    d.divisor = multiply_rn(d.scale, lift);
    d.negative_reciprocal = divide_rn(-1.0f, d.divisor);
    d.negative_lift = -lift;
    return d;
}

// The divisor that another lane has made.
__device__ __forceinline__ Divisor divisor_from(const Divisor &mine, int lane) {
    Divisor d;
    d.scale = __shfl_sync(0xffffffffu, mine.scale, lane);
    d.divisor = __shfl_sync(0xffffffffu, mine.divisor, lane);
    d.negative_reciprocal = __shfl_sync(0xffffffffu, mine.negative_reciprocal, lane);
    d.negative_lift = __shfl_sync(0xffffffffu, mine.negative_lift, lane);
    return d;
}

// x / scale, correctly rounded: two corrections of the product with the correctly rounded
// reciprocal (Markstein, IBM J. R&D 34, 1990), as in quantize_blocks.cu.
__device__ __forceinline__ float divide(float x, const Divisor &d) {
    const float negated = multiply_rn(x, d.negative_lift);
    float q = multiply_rn(negated, d.negative_reciprocal);
    q = fused_rn(fused_rn(q, d.divisor, negated), d.negative_reciprocal, q);
    return fused_rn(fused_rn(q, d.divisor, negated), d.negative_reciprocal, q);
}

#if OUT == 3

// The code of one ratio in the low byte; the upper bytes hold anything.  Only scales below 2^-142
// have so few bits that a ratio passes 127.5, but those are clamped.
__device__ __forceinline__ u32 nearest_code(float ratio) {
    // Below 2^22 the ulp of x + 1.5 2^23 is 1: the sum is rounded to an integer, ties to even.
    return __float_as_uint(__fadd_rn(fminf(fmaxf(ratio, -127.0f), 127.0f), 12582912.0f));
}

// Bytes 0xff where a value is negative, else 0: of two values.
__device__ __forceinline__ u32 sign_bytes(float first, float second) {
    u32 bytes;
    asm("prmt.b32 %0, %1, %2, 0x00fb;"
        : "=r"(bytes) : "r"(__float_as_uint(first)), "r"(__float_as_uint(second)));
    return bytes;
}

// Four codes: ratios rounded away from zero with the probability of what lies above the integer.  A random
// half under the exponent of 128 is 128 + u, and a sum that is cut off there has the integer in byte 2.
__device__ __forceinline__ u32 stochastic_codes(const float *ratios, const u32 *random) {
    u32 bits[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        const u32 above = __byte_perm(random[k / 2], 0x43000000u, k % 2 ? 0x7632 : 0x7610);
        bits[k] = __float_as_uint(__fadd_rz(fminf(fabsf(ratios[k]), 127.0f), __uint_as_float(above)));
    }
    const u32 sizes = __byte_perm(__byte_perm(bits[0], bits[1], 0x0062),
                                  __byte_perm(bits[2], bits[3], 0x0062), 0x5410);
    const u32 negative = __byte_perm(sign_bytes(ratios[0], ratios[1]), sign_bytes(ratios[2], ratios[3]), 0x5410);
    // 128 - size never borrows from the next byte; with its upper bit turned it is -size.
    return ((negative & (0x80808080u - sizes)) | (~negative & sizes)) ^ (negative & 0x80808080u);
}

#endif

// Codes of four values, the first in the lowest byte; random halves as they lie in two words.
__device__ __forceinline__ u32 encode_four(const float *values, const Divisor &d, const u32 *random) {
    float ratios[4];
#pragma unroll
    for (int k = 0; k < 4; k++) ratios[k] = divide(values[k], d);
#if OUT == 4
    u32 pairs[2];  // nearest even, saturating, NaN becomes 0x7f; the first operand is the upper byte
#pragma unroll
    for (int h = 0; h < 2; h++) {
        u16 codes;
        asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
            : "=h"(codes) : "f"(ratios[2 * h + 1]), "f"(ratios[2 * h]));
        pairs[h] = codes;
    }
    return pairs[0] | pairs[1] << 16;
#else
#if STOCHASTIC
    const u32 codes = stochastic_codes(ratios, random);
#else
    const u32 codes = __byte_perm(__byte_perm(nearest_code(ratios[0]), nearest_code(ratios[1]), 0x0040),
                                  __byte_perm(nearest_code(ratios[2]), nearest_code(ratios[3]), 0x0040), 0x5410);
#endif
    return __float_as_uint(d.scale) == NAN_BITS ? 0 : codes;  // int8 has no NaN
#endif
}

#define DEVICE __device__ __forceinline__
#include "philox.cuh"

#if STOCHASTIC
// Hands `high` to the lane at a distance and takes its `low` in place, or the other way round in the upper
// lane of both.
__device__ __forceinline__ void exchange(u32 &low, u32 &high, int distance, bool upper) {
    const u32 other = __shfl_xor_sync(0xffffffffu, upper ? low : high, distance);
    low = upper ? other : low, high = upper ? high : other;
}

// Random words of a thread's pairs in rows r and r + 8 of two groups of eight columns, the first half
// in the lower bits.  Four lanes share the groups' rows: where counters begin with them, each draws
// one for all.
__device__ __forceinline__ void draw(u64 row, i64 column, int n, int lane, const RoundKeys &keys,
                                     u32 (&random)[2][2]) {
    const bool odd = lane & 1, upper = lane & 2;
    if (n % 8 == 0) {
        const Random eight = philox(((row + 8 * odd) * n + column + 8 * upper) >> 3, keys);
        u32 w[4] = {eight.words[0], eight.words[1], eight.words[2], eight.words[3]};
        exchange(w[0], w[1], 1, odd), exchange(w[2], w[3], 1, odd);
        exchange(w[0], w[2], 2, upper), exchange(w[1], w[3], 2, upper);
        random[0][0] = w[0], random[0][1] = w[1], random[1][0] = w[2], random[1][1] = w[3];
        return;
    }
    // Two lanes share the two words of four neighbours: the even one draws those of row r, the odd
    // one those of row r + 8, and each hands over the other's.
#pragma unroll
    for (int group = 0; group < 2; group++) {
        const u64 index = (row + 8 * odd) * n + column + 8 * group + 4 * upper;
        const Random eight = philox(index >> 3, keys);
        u32 w[2] = {index & 4 ? eight.words[2] : eight.words[0], index & 4 ? eight.words[3] : eight.words[1]};
        exchange(w[0], w[1], 1, odd);
        random[group][0] = w[0], random[group][1] = w[1];
    }
}
#endif

// ---- The rows of a consumer.

#define OUT_BLOCKS (COLUMNS / OUT_BLOCK)   // along a consumer's columns
#define BLOCK_WARPS (OUT_BLOCK / 16)       // whose rows share a block
#define BLOCK_SUMS (OUT_BLOCK / 2)         // of a thread's sums of 64 rows, in one block
// A block higher than a consumer's 64 rows is the tile, which two consumers share.
#define SHARED_BLOCK (OUT_BLOCK > 64)
#if SHARED_BLOCK && (OUT_BLOCK != BLOCK_M || OUT_BLOCK != BLOCK_N || CONSUMERS != 2)
#error "a block of more than 64 rows is the tile of two consumers"
#endif

// Where warps leave the largest magnitudes of their parts of blocks: a consumer's, or where a
// block is shared those of both.
typedef u32 Peaks[SHARED_BLOCK ? 8 : 4][OUT_BLOCKS];

// Joins the consumers that share a block.
__device__ __forceinline__ void peaks_sync(int consumer) {
    if (SHARED_BLOCK)
        asm volatile("bar.sync %0, 256;" ::"n"(CONSUMER_BARRIER + CONSUMERS) : "memory");
    else
        consumer_sync(consumer);
}

// Quantises a warpgroup's 64 rows from (x, y) on: codes into a staging buffer, scales to memory.
__device__ __forceinline__ void stage_codes(u32 buffer, const float *sum, Peaks &peaks,
                                            float *c_scale, const RoundKeys &keys, int consumer,
                                            int warp, int lane, int x, int y, int m, int n) {
    const int place = SHARED_BLOCK ? consumer * 4 + warp : warp;
#pragma unroll
    for (int j = 0; j < OUT_BLOCKS; j++) {
        float peak = 0.0f;
#pragma unroll
        for (int i = 0; i < BLOCK_SUMS; i++) peak = larger(peak, sum[j * BLOCK_SUMS + i]);
        const u32 bits = warp_peak(peak);
        if (lane == j) peaks[place][j] = bits;
    }
    peaks_sync(consumer);
    // Lane j has block j's divisor, the others repeat it.
    const int first = place / BLOCK_WARPS * BLOCK_WARPS, mine = lane % OUT_BLOCKS;
    u32 amax = 0;
#pragma unroll
    for (int w = 0; w < BLOCK_WARPS; w++) amax = max(amax, peaks[first + w][mine]);
    const Divisor own = divisor_of(amax);
    const int down = (y + warp * 16) / OUT_BLOCK, right = x / OUT_BLOCK + lane;
    const int grid_cols = (n + OUT_BLOCK - 1) / OUT_BLOCK;
    if (place == first && lane < OUT_BLOCKS && y + warp * 16 < m && right < grid_cols)
        c_scale[(i64)down * grid_cols + right] = own.scale;
#pragma unroll
    for (int j = 0; j < OUT_BLOCKS; j++) {
        const Divisor d = divisor_from(own, j);
        u32 random[2][2] = {};  // of two groups of columns
#pragma unroll
        for (int g = 0; g < OUT_BLOCK / 8; g++) {
            const int column = j * OUT_BLOCK + g * 8;
#if STOCHASTIC
            if (g % 2 == 0) draw(y + warp * 16 + lane / 4, x + column, n, lane, keys, random);
#endif
            const u32 codes = encode_four(sum + j * BLOCK_SUMS + g * 4, d, random[g % 2]);
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const int r = warp * 16 + h * 8 + lane / 4, byte = column + lane % 4 * 2;
                const int piece = STORE_PITCH == ROW_BYTES ? byte / 16 ^ r % 8 : byte / 16;
                asm volatile("st.shared.u16 [%0], %1;" ::"r"(buffer + r * STORE_PITCH +
                                                             piece * 16 + byte % 16),
                             "h"((u16)(codes >> 16 * h))
                             : "memory");
            }
        }
    }
}
