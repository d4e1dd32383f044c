// Adds products under scales of blocks to fp32 sums, for tiles that need not be as wide as a block.
//
// A tile of BLOCK_N columns begins at a multiple of BLOCK_N, so its columns lie under up to SPANNED
// blocks of B, and only at multiples of GRANULE, the divisor that both widths have in common, does one
// block end and the next begin.
//
// Macros: BLOCK_N, QUANT, SCALES (3 rows of A by blocks of B, 4 blocks of both), and HALF,
// Accumulator and add_scaled of hopper_wgmma.cuh.

#define GRANULE \
    (BLOCK_N % 128 == 0 ? 128 : BLOCK_N % 64 == 0 ? 64 : BLOCK_N % 32 == 0 ? 32 : 16)
#define SPANNED ((QUANT - GRANULE + BLOCK_N + QUANT - 1) / QUANT)

// Scales of a tile's blocks along K: those of B, times that of A where A has blocks too.  A lane holds
// those of one step in 32, so that a step waits for no load: it takes what another lane has had for
// 32 steps.
struct BlockScales {
    const float *a, *b;
    int apart[SPANNED];  // items from the first block's scales to those of each
    int last;            // step
    float of_a, of_b[SPANNED], next_a, next_b[SPANNED];

    // row: the first of the tile's rows, inside of A; left: its first column.
    __device__ BlockScales(const float *a_scale, const float *b_scale, int row, int left, int group,
                           int n, int steps, int lane)
        : last(steps - 1) {
        const int first = left / QUANT, blocks = (n + QUANT - 1) / QUANT;
        a = a_scale + (SCALES == 4 ? (i64)(row / QUANT) * steps : 0);
        b = b_scale + ((i64)group * blocks + first) * steps;
        // Columns beyond N are not stored: they may take any scale.
#pragma unroll
        for (int s = 0; s < SPANNED; s++) apart[s] = min(s, blocks - 1 - first) * steps;
        fetch(lane, of_a, of_b);
        fetch(lane + 32, next_a, next_b);
    }

    __device__ __forceinline__ void fetch(int step, float &one, float (&each)[SPANNED]) const {
        step = min(step, last);
        one = SCALES == 4 ? __ldg(a + step) : 1.0f;
#pragma unroll
        for (int s = 0; s < SPANNED; s++) each[s] = __ldg(b + apart[s] + step);
    }

    // By all lanes of a warp, of every step in turn.
    __device__ __forceinline__ void take(int step, int lane, float (&common)[SPANNED]) {
        if (step % 32 == 0 && step > 0) {
            of_a = next_a;
#pragma unroll
            for (int s = 0; s < SPANNED; s++) of_b[s] = next_b[s];
            fetch(step + 32 + lane, next_a, next_b);
        }
        const float block = SCALES == 4 ? __shfl_sync(0xffffffffu, of_a, step % 32) : 1.0f;
#pragma unroll
        for (int s = 0; s < SPANNED; s++) {
            common[s] = __shfl_sync(0xffffffffu, of_b[s], step % 32);
            if (SCALES == 4) common[s] *= block;
        }
    }
};

// sum += factor * d, by columns' blocks (first index) and by the two rows of a thread (second).
// shift: columns from the beginning of the first block to the tile's.
__device__ __forceinline__ void add_product(float (&sum)[HALF], const Accumulator (&d)[HALF],
                                            const float (&factor)[SPANNED][2], int shift) {
#pragma unroll
    for (int column = 0; column < BLOCK_N; column += GRANULE) {
        // No tile's shift is more than QUANT - GRANULE: most columns' blocks are known beforehand.
        const int block = column / QUANT, edge = (block + 1) * QUANT - column;
        const bool next = edge <= QUANT - GRANULE && shift >= edge;
        float here[2];
#pragma unroll
        for (int h = 0; h < 2; h++)
            here[h] = next ? factor[block + 1 < SPANNED ? block + 1 : block][h] : factor[block][h];
#pragma unroll
        for (int i = column / 2; i < (column + GRANULE) / 2; i++)
            add_scaled(sum[i], d[i], here[i / 2 % 2]);
    }
}
