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

// The same, rounded away from zero with a probability of what lies above the integer: its bits behind
// the point are added to the random word, 16 bits above 16 zeros, and a carry counts.
__device__ __forceinline__ u32 stochastic_code(float ratio, u32 random) {
    const float size = fminf(fabsf(ratio), 127.0f);
    const float shifted = __fadd_rz(size, 8388608.0f);  // its low bits are the integer
    const u32 rest = __float2uint_rz((size - (shifted - 8388608.0f)) * 0x1p32f);
    const u32 code = __float_as_uint(shifted) + (rest + random < rest);
    const u32 sign = (u32)((int)__float_as_uint(ratio) >> 31);
    return (code ^ sign) - sign;
}

#endif

// Codes of two neighbours, the first in the lower byte.
__device__ __forceinline__ u16 encode_pair(float low, float high, const Divisor &d, u32 random_low,
                                           u32 random_high) {
    const float a = divide(low, d), b = divide(high, d);
#if OUT == 4
    u16 codes;  // nearest even, saturating, NaN becomes 0x7f; the first operand is the upper byte
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(codes) : "f"(b), "f"(a));
    return codes;
#else
#if STOCHASTIC
    const u32 codes = __byte_perm(stochastic_code(a, random_low), stochastic_code(b, random_high), 0x0040);
#else
    const u32 codes = __byte_perm(nearest_code(a), nearest_code(b), 0x0040);
#endif
    return __float_as_uint(d.scale) == NAN_BITS ? 0 : (u16)codes;  // int8 has no NaN
#endif
}

// Philox4x32-10 (Salmon et al., SC 2011): a key and its nine successors.  They travel among the
// kernel's parameters, where an instruction takes them from constant memory.
struct RoundKeys {
    u32 words[20];
};

struct Random {
    u32 words[4];
};

__device__ __forceinline__ Random philox(u64 counter, const RoundKeys &keys) {
    u32 a = (u32)counter, b = (u32)(counter >> 32), c = 0, d = 0;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const u64 first = (u64)a * 0xd2511f53u, second = (u64)c * 0xcd9e8d57u;
        a = (u32)(second >> 32) ^ b ^ keys.words[2 * round];
        b = (u32)second;
        c = (u32)(first >> 32) ^ d ^ keys.words[2 * round + 1];
        d = (u32)first;
    }
    return {{a, b, c, d}};
}

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
#pragma unroll
        for (int g = 0; g < OUT_BLOCK / 8; g++) {
            const float *v = sum + j * BLOCK_SUMS + g * 4;
            const int column = j * OUT_BLOCK + g * 8;
            u32 random[2] = {};  // of the thread's pairs in its two rows, the first in the lower half
#if STOCHASTIC
            // Two lanes share the two words of four neighbours: the even one draws those of row r,
            // the odd one those of row r + 8, and each hands over the other's.
            const int row = y + warp * 16 + lane / 4, odd = lane & 1;
            const u64 index = (u64)(row + 8 * odd) * n + (x + column + lane % 4 / 2 * 4);
            const Random eight = philox(index >> 3, keys);
            const u32 word0 = index & 4 ? eight.words[2] : eight.words[0];
            const u32 word1 = index & 4 ? eight.words[3] : eight.words[1];
            const u32 other = __shfl_xor_sync(0xffffffffu, odd ? word0 : word1, 1);
            random[0] = odd ? other : word0;
            random[1] = odd ? word1 : other;
#endif
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const u16 codes = encode_pair(v[h * 2], v[h * 2 + 1], d, random[h] << 16,
                                              random[h] & 0xffff0000u);
                const int r = warp * 16 + h * 8 + lane / 4, byte = column + lane % 4 * 2;
                const int piece = STORE_PITCH == ROW_BYTES ? byte / 16 ^ r % 8 : byte / 16;
                asm volatile("st.shared.u16 [%0], %1;" ::"r"(buffer + r * STORE_PITCH +
                                                             piece * 16 + byte % 16),
                             "h"(codes)
                             : "memory");
            }
        }
    }
}
