// Rate of mma.sync from registers: 16 warps of a CTA, eight accumulators each.
//
// ELEMENT: 0 bf16, 1 fp16, 2 e4m3fn, 3 e5m2, 4 int8.

typedef unsigned int u32;
typedef unsigned long long u64;

#define TILES 8

#if ELEMENT == 4
typedef int Accumulator;
#define REGISTER "r"
#define INSTRUCTION "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32"
#else
typedef float Accumulator;
#define REGISTER "f"
#if ELEMENT == 0
#define INSTRUCTION "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#elif ELEMENT == 1
#define INSTRUCTION "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
#elif ELEMENT == 2
#define INSTRUCTION "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32"
#elif ELEMENT == 3
#define INSTRUCTION "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32"
#else
#error "ELEMENT is 0 to 4"
#endif
#endif

extern "C" __global__ void __launch_bounds__(512) rate(int turns, u32 zero, u32 *sink, u64 *begins,
                                                        u64 *ends) {
    Accumulator d[TILES][4] = {};
    const u32 a = zero, b = zero;  // unknown to the compiler
    __syncthreads();
    const long long begin = clock64();
    for (int turn = 0; turn < turns; turn++) {
#pragma unroll
        for (int t = 0; t < TILES; t++)
            asm volatile(INSTRUCTION
                         " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                         : "+" REGISTER(d[t][0]), "+" REGISTER(d[t][1]), "+" REGISTER(d[t][2]),
                           "+" REGISTER(d[t][3])
                         : "r"(a), "r"(a), "r"(a), "r"(a), "r"(b), "r"(b));
    }
    const long long end = clock64();
    Accumulator sum = 0;
#pragma unroll
    for (int t = 0; t < TILES; t++) sum += d[t][0] + d[t][1] + d[t][2] + d[t][3];
    if (sum != 0) sink[0] = 1;
    if (threadIdx.x % 32 == 0) {
        const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
        begins[warp] = begin;
        ends[warp] = end;
    }
}
