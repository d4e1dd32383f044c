// Quantise a matrix in blocks: scale = amax / max_element, code = round(x / scale).
//
// Codes and scales are bit-identical to the workbench's NumPy codec: both divisions are IEEE fp32,
// rounding is to nearest even and saturates.  An all-zero block has codes 0 and scale 1.  A NaN or
// an infinity makes the scale of its block NaN and all its codes 0 (int8) or 0x7f (8-bit floats).
// Subnormals count: CuPy compiles with -ftz=true whatever it is asked for, so what may meet one is
// written in PTX, which the option does not touch.
//
// LANES threads share one block of BLOCK_ROWS x BLOCK_COLS elements (BLOCK_COLS 0: whole rows) and
// take its vectors of VECTOR adjacent elements in turn, ITEMS each.  With KEEP a block is read once
// and stays in registers; without it is read twice, the second time out of L2.  UNROLL blocks a
// group of lanes are in flight together.  ALIGNED says that every vector lies inside its row and on
// its natural boundary; otherwise elements are moved one by one.
//
// Macros from the launcher: SOURCE (0 fp32, 1 bf16, 2 fp16), TARGET (0 int8, 1 e4m3fn, 2 e5m2),
// THREADS, LANES, VECTOR, UNROLL, ITEMS, KEEP, BLOCK_ROWS, BLOCK_COLS, ALIGNED.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

#define SOURCE_BYTES (SOURCE == 0 ? 4 : 2)
#if SOURCE == 0
#define WORDS VECTOR
#else
#define WORDS ((VECTOR + 1) / 2)
#endif
#define CODE_WORDS ((VECTOR + 3) / 4)
#define GROUPS (THREADS / LANES)
#define INFINITY_BITS 0x7f800000u
#define NAN_BITS 0x7fc00000u
#define CODE_MAX (TARGET == 0 ? 127.0f : TARGET == 1 ? 448.0f : 57344.0f)

// What a block's elements are divided by; see divide().
struct Divisor {
    float scale, divisor, negative_reciprocal, negative_lift;
};

__device__ __forceinline__ float divide_rn(float x, float y) {
    float result;
    asm("div.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

__device__ __forceinline__ float multiply_rn(float x, float y) {
    float result;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

__device__ __forceinline__ float fused_rn(float x, float y, float z) {
    float result;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(result) : "f"(x), "f"(y), "f"(z));
    return result;
}

__device__ __forceinline__ float element(const u32 *words, int j) {
#if SOURCE == 0
    return __uint_as_float(words[j]);
#elif SOURCE == 1
    return __uint_as_float(j & 1 ? words[j / 2] & 0xffff0000u : words[j / 2] << 16);
#else
    float value;
    u16 half = (u16)(words[j / 2] >> (16 * (j & 1)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
#endif
}

// Magnitudes are compared as integers: non-negative floats keep their order and NaN wins over all.
__device__ __forceinline__ u32 larger(u32 peak, u32 word) {
#if SOURCE == 0
    return max(peak, word & 0x7fffffffu);
#else
    return __vmaxu2(peak, word & 0x7fff7fffu);  // two 16-bit magnitudes at once
#endif
}

// Bits of the fp32 value of a peak that larger() gathered.
__device__ __forceinline__ u32 peak_bits(u32 peak) {
#if SOURCE == 0
    return peak;
#else
    u32 word = max(peak & 0xffffu, peak >> 16);
    return __float_as_uint(element(&word, 0));
#endif
}

__device__ __forceinline__ Divisor divisor_of(u32 amax_bits) {
    Divisor d;
    d.scale = divide_rn(__uint_as_float(amax_bits), CODE_MAX);
    // amax / max_element can underflow; such a block is stored as an all-zero one.
    if (__float_as_uint(d.scale) == 0) d.scale = 1.0f;
    if (amax_bits >= INFINITY_BITS) d.scale = __uint_as_float(NAN_BITS);
    float lift = d.scale < 0x1p-60f ? 0x1p64f : d.scale > 0x1p60f ? 0x1p-64f : 1.0f;
    d.divisor = multiply_rn(d.scale, lift);
    d.negative_reciprocal = divide_rn(-1.0f, d.divisor);
    d.negative_lift = -lift;
    return d;
}

// x / scale, correctly rounded: with r the correctly rounded reciprocal, q0 = x r is within 2 ulp, a
// first correction within 1 ulp, and by Markstein's theorem (IBM J. R&D 34, 1990) a second one gives
// the correctly rounded quotient as long as remainders are exact.  Lifting x and the scale by one
// power of two keeps them so for every scale; they underflow only where |x / scale| is far below
// half the smallest code.  The signs are arranged so that x = -0 gives -0.
__device__ __forceinline__ float divide(float x, const Divisor &d) {
    float negated = multiply_rn(x, d.negative_lift);
    float q = multiply_rn(negated, d.negative_reciprocal);
    q = fused_rn(fused_rn(q, d.divisor, negated), d.negative_reciprocal, q);
    return fused_rn(fused_rn(q, d.divisor, negated), d.negative_reciprocal, q);
}

#if TARGET == 0

// The code of one ratio in the low byte; the upper bytes hold anything.
__device__ __forceinline__ u32 code_of(float ratio) {
#if SOURCE == 0
    // Only scales below 2^-142 carry so few bits that a ratio reaches 127.5; the smallest numbers
    // of bf16 and fp16 lie far above them.
    ratio = fminf(fmaxf(ratio, -127.0f), 127.0f);
#endif
    // Below 2^22 the ulp of x + 1.5 2^23 is 1: the sum is rounded to an integer, ties to even.
    return __float_as_uint(__fadd_rn(ratio, 12582912.0f));
}

#elif __CUDA_ARCH__ < 890

// Round to an 8-bit float by integer operations: nearest even, saturating, NaN becomes 0x7f.
__device__ __forceinline__ u32 code_of(float ratio) {
    const int mantissa = TARGET == 1 ? 3 : 2, bias = TARGET == 1 ? 7 : 15, shift = 23 - mantissa;
    u32 bits = __float_as_uint(ratio);
    if ((bits & 0x7fffffffu) > INFINITY_BITS) return 0x7f;
    float magnitude = fminf(__uint_as_float(bits & 0x7fffffffu), CODE_MAX);
    u32 kept = __float_as_uint(magnitude), code;
    if (kept >= (u32)(128 - bias) << 23) {
        code = ((kept + (1u << (shift - 1)) - 1 + (kept >> shift & 1)) >> shift) -
               ((u32)(127 - bias) << mantissa);
    } else {
        // An addend whose ulp is the smallest code leaves the code in the low bits of the sum.
        const u32 addend = (u32)(127 + 23 + 1 - bias - mantissa) << 23;
        code = __float_as_uint(__fadd_rn(magnitude, __uint_as_float(addend))) - addend;
    }
    return code | (bits >> 24 & 0x80u);
}

#endif

// Codes of four ratios, the first in the lowest byte.
__device__ __forceinline__ u32 pack(float a, float b, float c, float d) {
#if TARGET != 0 && __CUDA_ARCH__ >= 890
    // cvt.satfinite: nearest even, saturating, NaN becomes 0x7f; its first operand is the high byte.
    u16 low, high;
#if TARGET == 1
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
#else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(low) : "f"(b), "f"(a));
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(high) : "f"(d), "f"(c));
#endif
    return (u32)low | (u32)high << 16;
#else
    u32 low = __byte_perm(code_of(a), code_of(b), 0x0040);
    u32 high = __byte_perm(code_of(c), code_of(d), 0x0040);
    return __byte_perm(low, high, 0x5410);
#endif
}

__device__ __forceinline__ void quantize(const u32 *words, const Divisor &d, u32 *codes) {
    float ratio[CODE_WORDS * 4];
#pragma unroll
    for (int j = 0; j < CODE_WORDS * 4; ++j)
        ratio[j] = j < VECTOR ? divide(element(words, j), d) : 0.0f;
#pragma unroll
    for (int j = 0; j < CODE_WORDS; ++j) {
        codes[j] = pack(ratio[4 * j], ratio[4 * j + 1], ratio[4 * j + 2], ratio[4 * j + 3]);
#if TARGET == 0
        if (isnan(d.scale)) codes[j] = 0;  // int8 has no NaN
#endif
    }
}

// Where a vector lies: first element, and how many of its elements are inside the block (0: none).
struct Place {
    i64 offset;
    int count;
};

struct Block {
    i64 row, col, end_row, end_col;  // corners in elements; end_row <= row where there is no block
};

__device__ __forceinline__ Place place_of(const Block &block, i64 index, i64 cols) {
    i64 row, col;
#if BLOCK_COLS == 0
    row = block.row;
    col = index * VECTOR;
#else
    const u32 across = BLOCK_COLS / VECTOR;  // the launcher sees to it that VECTOR divides
    row = block.row + (u32)index / across;
    col = block.col + (u32)index % across * VECTOR;
#endif
    Place place;
    place.offset = row * cols + col;
    i64 left = row < block.end_row ? block.end_col - col : 0;
    place.count = left >= VECTOR ? VECTOR : left > 0 ? (int)left : 0;
    return place;
}

__device__ __forceinline__ void load(const void *x, const Place &place, u32 *words) {
#pragma unroll
    for (int j = 0; j < WORDS; ++j) words[j] = 0;
#if ALIGNED && VECTOR > 1
    if (place.count == 0) return;
    const char *from = (const char *)x + place.offset * SOURCE_BYTES;
#if WORDS >= 4
#pragma unroll
    for (int j = 0; j < WORDS / 4; ++j) {
        uint4 four = __ldg((const uint4 *)from + j);
        words[4 * j] = four.x, words[4 * j + 1] = four.y;
        words[4 * j + 2] = four.z, words[4 * j + 3] = four.w;
    }
#else
    uint2 two = __ldg((const uint2 *)from);
    words[0] = two.x, words[1] = two.y;
#endif
#else
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) {
        if (j >= place.count) break;
#if SOURCE == 0
        words[j] = ((const u32 *)x)[place.offset + j];
#else
        words[j / 2] |= (u32)((const u16 *)x)[place.offset + j] << (16 * (j & 1));
#endif
    }
#endif
}

__device__ __forceinline__ void store(u8 *codes, const Place &place, const u32 *packed) {
#if ALIGNED && VECTOR > 1
    if (place.count == 0) return;
#if VECTOR == 16
    *(uint4 *)(codes + place.offset) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
#elif VECTOR == 8
    *(uint2 *)(codes + place.offset) = make_uint2(packed[0], packed[1]);
#else
    *(u32 *)(codes + place.offset) = packed[0];
#endif
#else
#pragma unroll
    for (int j = 0; j < VECTOR; ++j)
        if (j < place.count) codes[place.offset + j] = (u8)(packed[j / 4] >> (8 * (j & 3)));
#endif
}

// Largest value among the LANES threads of every group; all threads of the CTA take part.
__device__ __forceinline__ void reduce(u32 *peaks) {
#if LANES >= 32
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) peaks[u] = __reduce_max_sync(0xffffffffu, peaks[u]);
#else
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            peaks[u] = max(peaks[u], __shfl_xor_sync(0xffffffffu, peaks[u], distance));
#endif
#if LANES > 32
    __shared__ u32 of_warp[UNROLL][THREADS / 32];
    const int warp = threadIdx.x / 32, first = threadIdx.x / LANES * (LANES / 32);
    if (threadIdx.x % 32 == 0)
        for (int u = 0; u < UNROLL; ++u) of_warp[u][warp] = peaks[u];
    __syncthreads();
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int w = 0; w < LANES / 32; ++w) peaks[u] = max(peaks[u], of_warp[u][first + w]);
#endif
}

// blocks = scale rows x scale columns; scales across is divided by as (high(n magic) + n) >> shift,
// exact for n < 2^31 (Granlund and Montgomery, PLDI 1994).
extern "C" __global__ void __launch_bounds__(THREADS)
quantize_blocks(const void *__restrict__ x, u8 *__restrict__ codes, float *__restrict__ scales,
                i64 rows, i64 cols, u32 blocks, u32 across, u32 magic, u32 shift, i64 row_stride,
                i64 col_stride) {
    const u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    Block block[UNROLL];
    u32 index[UNROLL], peaks[UNROLL];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        index[u] = (blockIdx.x * UNROLL + u) * GROUPS + group;
        u32 down = (__umulhi(index[u], magic) + index[u]) >> shift;
        block[u].row = (i64)down * BLOCK_ROWS;
        block[u].end_row = index[u] < blocks ? min(block[u].row + BLOCK_ROWS, rows) : 0;
#if BLOCK_COLS == 0
        block[u].col = 0;
        block[u].end_col = cols;
#else
        block[u].col = (i64)(index[u] - down * across) * BLOCK_COLS;
        block[u].end_col = min(block[u].col + BLOCK_COLS, cols);
#endif
        peaks[u] = 0;
    }
#if KEEP
    u32 words[UNROLL][ITEMS][WORDS];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            load(x, place_of(block[u], (i64)i * LANES + lane, cols), words[u][i]);
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
#pragma unroll
            for (int j = 0; j < WORDS; ++j) peaks[u] = larger(peaks[u], words[u][i][j]);
#else
#if BLOCK_COLS == 0
    const i64 vectors = (cols + VECTOR - 1) / VECTOR;
#else
    const i64 vectors = (i64)BLOCK_ROWS * (BLOCK_COLS / VECTOR);
#endif
    for (i64 i = lane; i < vectors; i += LANES) {
        u32 words[WORDS];
        load(x, place_of(block[0], i, cols), words);
#pragma unroll
        for (int j = 0; j < WORDS; ++j) peaks[0] = larger(peaks[0], words[j]);
    }
#endif
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) peaks[u] = peak_bits(peaks[u]);
    reduce(peaks);
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        const Divisor divisor = divisor_of(peaks[u]);
        u32 packed[CODE_WORDS];
        if (lane == 0 && index[u] < blocks) {
            u32 down = (__umulhi(index[u], magic) + index[u]) >> shift;
            scales[down * row_stride + (index[u] - down * across) * col_stride] = divisor.scale;
        }
#if KEEP
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            quantize(words[u][i], divisor, packed);
            store(codes, place_of(block[u], (i64)i * LANES + lane, cols), packed);
        }
#else
        for (i64 i = lane; i < vectors; i += LANES) {
            u32 words[WORDS];
            const Place place = place_of(block[u], i, cols);
            load(x, place, words);
            quantize(words, divisor, packed);
            store(codes, place, packed);
        }
#endif
    }
}
