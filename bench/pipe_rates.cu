// What an SM issues a clock, alone and together: one kernel a stream of instructions, each made of
// CHAINS independent chains so that latencies hide, UNROLL links of them before a jump.
//
// STREAM: 0 FFMA beside LOP3 (issue slots), 1 FFMA, 2 int32 to fp32, 3 the same by a magic number
// (IADD, FADD), 4 conversion and FFMA (promotion), 5 promotion by the magic number,
// 6 wgmma of int8, 7 wgmma and promotion of the sums before, in the same warps, 8 mma.sync of int8,
// 9 mma.sync and an FFMA for each of its sums.
// The streams of wgmma take ELEMENT 4 and WGMMA_N, and compile for sm_90a alone.

#if STREAM < 6

#define UNROLL 32
#ifndef CHAINS
#define CHAINS 8
#endif

// The number 1.5 * 2^23: a float of this exponent holds an integer in its last 22 bits.
#define MAGIC_BITS 0x4b400000
#define MAGIC 12582912.0f

__device__ __forceinline__ void link(float &x, unsigned &word, float a, float b, unsigned mask) {
#if STREAM == 0
    x = fmaf(x, a, b);
    // Opaque: the compiler would fold a chain of them into one.
    asm volatile("lop3.b32 %0, %0, %1, %2, 0x6a;" : "+r"(word) : "r"(mask), "r"(~mask));
#elif STREAM == 1
    x = fmaf(x, a, b);
#elif STREAM == 2
    x = (float)__float_as_int(x);
#elif STREAM == 3
    x = __int_as_float(__float_as_int(x) + MAGIC_BITS) - MAGIC;
#elif STREAM == 4
    x = fmaf((float)__float_as_int(x), a, x);
#else
    x = fmaf(__int_as_float(__float_as_int(x) + MAGIC_BITS) - MAGIC, a, x);
#endif
}

extern "C" __global__ void __launch_bounds__(1024, 1)
    stream(long long *clk, float *sink, int rounds, float a, float b, unsigned mask) {
    float x[CHAINS];
    unsigned word[CHAINS];
#pragma unroll
    for (int i = 0; i < CHAINS; i++) {
        x[i] = a * (threadIdx.x + i);
        word[i] = mask + threadIdx.x + i;
    }
    __syncthreads();
    const long long start = clock64();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
#pragma unroll
            for (int i = 0; i < CHAINS; i++) link(x[i], word[i], a, b, mask);
        }
    }
    __syncthreads();
    const long long stop = clock64();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < CHAINS; i++) sum += x[i] + word[i];
    // Never true, which the compiler does not know.
    if (rounds < 0) sink[blockIdx.x * blockDim.x + threadIdx.x] = sum;
    if (threadIdx.x == 0) clk[blockIdx.x] = stop - start;
}

#elif STREAM >= 8

#define TILES_M 2  // of 16 rows, and
#define TILES_N 8  // of 8 columns: a warp has 32 x 64 sums

__device__ __forceinline__ void multiply(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Each warp multiplies registers by registers, 32 of K at a time.  The sums run on, and their bits are
// taken as floats: what a promotion needs at least.
extern "C" __global__ void __launch_bounds__(256, 1)
    stream(long long *clk, float *sink, int rounds, float a, float b, unsigned mask) {
    unsigned left[TILES_M][4], right[TILES_N][2], state = mask ^ (threadIdx.x + 1) * 2654435761u;
    int product[TILES_M][TILES_N][4] = {};
    float sum[TILES_M][TILES_N][4] = {};
    auto draw = [&] { return state ^= state << 13, state ^= state >> 17, state ^= state << 5; };
    for (int t = 0; t < TILES_M; t++)
        for (int e = 0; e < 4; e++) left[t][e] = draw();
    for (int n = 0; n < TILES_N; n++)
        for (int e = 0; e < 2; e++) right[n][e] = draw();
    __syncthreads();
    const long long start = clock64();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < TILES_N; n++)
#pragma unroll
                for (int t = 0; t < TILES_M; t++) {
                    multiply(product[t][n], left[t], right[n]);
#if STREAM == 9
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        sum[t][n][e] = fmaf(__int_as_float(product[t][n][e]), a, sum[t][n][e]);
#endif
                }
    }
    __syncthreads();
    const long long stop = clock64();
    float total = b;
    for (int t = 0; t < TILES_M; t++)
        for (int n = 0; n < TILES_N; n++)
            for (int e = 0; e < 4; e++) total += sum[t][n][e] + product[t][n][e];
    if (rounds < 0) sink[blockIdx.x * blockDim.x + threadIdx.x] = total;
    if (threadIdx.x == 0) clk[blockIdx.x] = stop - start;
}

#else

#include "hopper.cuh"
#include "hopper_wgmma.cuh"

#define ROWS 64
#define ROW_BYTES 128  // the width of the swizzle

__device__ __forceinline__ void promote(const Accumulator (&d)[HALF], float (&sum)[HALF], float s) {
#pragma unroll
    for (int i = 0; i < HALF; i++) sum[i] = fmaf((float)d[i], s, sum[i]);
}

// Each warpgroup multiplies its 64 rows by the same WGMMA_N columns, 32 of K at a time.
extern "C" __global__ void stream(long long *clk, float *sink, int rounds, float a, float b,
                                  unsigned mask) {
    extern __shared__ __align__(1024) u8 tiles[];
    const int warpgroups = blockDim.x / 128, warpgroup = threadIdx.x / 128;
    // Random codes: what the tensor cores draw, and with it the clock, depends on the data.
    u32 *words = reinterpret_cast<u32 *>(tiles);
    const int count = (ROWS * warpgroups + WGMMA_N) * ROW_BYTES / 4;
    u32 state = mask ^ (blockIdx.x * blockDim.x + threadIdx.x + 1) * 2654435761u;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        state ^= state << 13, state ^= state >> 17, state ^= state << 5;
        words[i] = state;
    }
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    const u32 base = shared_address(tiles);
    const u64 rows = descriptor(base + warpgroup * ROWS * ROW_BYTES);
    const u64 columns = descriptor(base + warpgroups * ROWS * ROW_BYTES);
    Accumulator first[HALF], second[HALF];
#pragma unroll
    for (int i = 0; i < HALF; i++) first[i] = second[i] = 0;
#if STREAM == 7
    float sum[HALF];
#pragma unroll
    for (int i = 0; i < HALF; i++) sum[i] = b;
#endif
    const long long start = clock64();
#pragma unroll 1
    for (int round = 0; round < rounds; round++) {
        wgmma_fence();
        wgmma(first, rows, columns, STREAM == 6);
        wgmma_commit();
#if STREAM == 7
        promote(second, sum, a);
#endif
        wgmma_wait<STREAM == 6>();
        pin(second);
#if STREAM == 7
        pin(first);
#endif
        wgmma_fence();
        wgmma(second, rows + 2, columns + 2, STREAM == 6);  // the next 32 bytes
        wgmma_commit();
#if STREAM == 7
        promote(first, sum, a);
#endif
        wgmma_wait<STREAM == 6>();
        pin(first);
#if STREAM == 7
        pin(second);
#endif
    }
    wgmma_wait<0>();
    pin(first);
    pin(second);
    const long long stop = clock64();
    float total = 0;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        total += first[i] + second[i];
#if STREAM == 7
        total += sum[i];
#endif
    }
    if (rounds < 0) sink[blockIdx.x * blockDim.x + threadIdx.x] = total;
    // The warpgroups end within one product of each other.
    if (threadIdx.x == 0) clk[blockIdx.x] = stop - start;
}

#endif
