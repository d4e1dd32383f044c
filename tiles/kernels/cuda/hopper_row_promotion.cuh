// Adds products under scales of rows and of columns to fp32 sums: 1x128 scales of both operands.
//
// A sum takes two instructions, for the product of its two scales ("factor") and for the multiply-add,
// and two columns of eight a load of their scales.
//
// Macros: BLOCK_N, TILES_M, CONSUMER_REGISTERS, and HALF and Accumulator of hopper_wgmma.cuh.

// Arithmetic on scales and sums keeps subnormals, E8M0's 2^-127 among them, whatever -ftz says.
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

// Has a number made here, and not where it is used.
__device__ __forceinline__ void keep_here(float &x) { asm volatile("" : "+f"(x)); }

// Groups of eight columns whose factors are made before the product is waited for: as many as there
// are registers for beside sums and product.  The compiler puts some of them behind the wait again.
#define SPARE_REGISTERS (CONSUMER_REGISTERS - (TILES_M + 1) * HALF)
#define EARLY_GROUPS (SPARE_REGISTERS / 4 < BLOCK_N / 8 ? SPARE_REGISTERS / 4 : BLOCK_N / 8)

// What the sums of eight columns are multiplied by.  rows: scales of a thread's two rows; columns:
// where those of its first two columns lie.
__device__ __forceinline__ void make_factors(float (&factor)[4], float2 rows, u32 columns, int group) {
    const float2 pair = load_shared2(columns + group * 32);
#pragma unroll
    for (int e = 0; e < 4; e++)
        factor[e] = multiply_rn(e / 2 ? rows.y : rows.x, e % 2 ? pair.y : pair.x);
}

__device__ __forceinline__ void make_early(float (&early)[EARLY_GROUPS][4], float2 rows, u32 columns) {
#pragma unroll
    for (int g = 0; g < EARLY_GROUPS; g++) {
        make_factors(early[g], rows, columns, g);
#pragma unroll
        for (int e = 0; e < 4; e++) keep_here(early[g][e]);
    }
}

// sum += factor x d.
__device__ __forceinline__ void add_product(float (&sum)[HALF], const Accumulator (&d)[HALF],
                                            const float (&early)[EARLY_GROUPS][4], float2 rows,
                                            u32 columns) {
#pragma unroll
    for (int g = 0; g < BLOCK_N / 8; g++) {
        float factor[4];
        if (g >= EARLY_GROUPS) make_factors(factor, rows, columns, g);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float by = g < EARLY_GROUPS ? early[g < EARLY_GROUPS ? g : 0][e] : factor[e];
            sum[g * 4 + e] = fused_rn((float)d[g * 4 + e], by, sum[g * 4 + e]);
        }
    }
}
