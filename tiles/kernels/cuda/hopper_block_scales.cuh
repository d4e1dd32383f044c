// Scales of both operands that change along K: how they reach a stage, and a piece's promotion.
//
// A stage holds the scales of its UNITS of K.  With scales of rows (VECTOR) these are UNITS rows of
// BLOCK_M, then UNITS of BLOCK_N, which the copy engine brings.  With scales of blocks, where a
// stage has a few only, a warp copies them: of every unit those of B, then of every block of rows
// of A those of the units.
//
// RUN: the integer sums' bits are floats, see gemm_hopper_blocks.cu, and hopper_block_factors.cuh
// for what a stage holds.
//
// Macros: RUN, VECTOR, UNITS, UNIT_LOG2, PARTS, PIECES_N, PIECE_TILES, TILES_M, SUMS, EARLY, A_ROWS,
// B_ROWS, B_SCALES, OWN_SCALES, BLOCK_M, BLOCK_N, WGMMA_N.

#if RUN > 1
#define BIAS 12582912.0f  // 1.5 x 2^23

// Starts an accumulator at the bits of BIAS, each by itself: copies of one register would wait for
// the wgmma that has it as an accumulator.
__device__ __forceinline__ void start_sum(Accumulator &d) {
    asm volatile("mov.b32 %0, 0x4b400000;" : "=r"(d));
}
#endif

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

#if RUN > 1
__device__ __forceinline__ float add_rn(float x, float y) {
    float result;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}

__device__ __forceinline__ float subtract_rn(float x, float y) {
    float result;
    asm("sub.rn.f32 %0, %1, %2;" : "=f"(result) : "f"(x), "f"(y));
    return result;
}
#endif

#if !VECTOR && RUN == 1
// Copies a scale to a stage, asynchronously; one beyond the grid becomes 0.
__device__ __forceinline__ void copy_scale(u32 to, const float *scale, int grid_rows, int grid_cols,
                                           int row, int column) {
    const bool inside = column < grid_cols && row < grid_rows;
    const float *from = scale + (inside ? (i64)row * grid_cols + column : 0);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from),
                 "r"(inside ? 4 : 0)
                 : "memory");
}

// One arrival of this thread at a barrier, when the copies that it has asked for have come.
__device__ __forceinline__ void arrive_after_copies(u32 bar) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}
#endif

// Count is 1, 2 or 4, and `from` a multiple of so many floats.
template <int Count>
__device__ __forceinline__ void load_floats(u32 from, float (&x)[Count]) {
    if constexpr (Count == 4)
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                     : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                     : "r"(from));
    else if constexpr (Count == 2)
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x[0]), "=f"(x[1]) : "r"(from));
    else
        x[0] = load_shared(from);
}

// What a thread multiplies its accumulators of a stage by.  fetch() goes before the wait for a
// piece, add() promotes it.
struct Factors {
#if RUN > 1
    u32 differences[TILES_M], starts[TILES_M];  // where those of its rows and columns lie
    float both[TILES_M][OWN_SCALES];            // of one unit
    float first[TILES_M][OWN_SCALES];           // sums of the runs' first scales

    __device__ __forceinline__ void begin_stage(u32 scales, int first_row, int first_column, int lane) {
#pragma unroll
        for (int t = 0; t < TILES_M; t++) {
            const int down = (first_row + t * 64) / A_ROWS, aside = first_column / B_ROWS;
            differences[t] = scales + (down * UNITS * B_SCALES + aside) * 4;
            starts[t] = scales + ((A_SCALES * UNITS + down) * B_SCALES + aside) * 4;
        }
    }

    __device__ __forceinline__ void fetch(int piece, int at) {
        if (piece % PARTS != 0) return;
#pragma unroll
        for (int t = 0; t < TILES_M; t++) {
            load_floats(differences[t] + piece / PARTS * B_SCALES * 4, both[t]);
            if (at == 0) load_floats(starts[t], first[t]);
        }
    }

    // Takes the bias of all runs off the sums of a piece.
    __device__ __forceinline__ void start(float (&sum)[TILES_M][SUMS], int piece) const {
        const int down = piece % PARTS / PIECES_N * PIECE_TILES, across = piece % PIECES_N * HALF;
#pragma unroll
        for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
            for (int i = across; i < across + HALF; i++)
                sum[down + t][i] = fused_rn(first[down + t][i / 4 * 8 / B_ROWS], -BIAS, sum[down + t][i]);
    }

    __device__ __forceinline__ void add(Accumulator (&d)[PIECE_TILES][HALF],
                                        float (&sum)[TILES_M][SUMS], int piece) const {
        const int down = piece % PARTS / PIECES_N * PIECE_TILES, across = piece % PIECES_N * HALF;
#pragma unroll
        for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
            for (int i = 0; i < HALF; i++) {
                const int at = across + i;
                sum[down + t][at] = fused_rn(__int_as_float(d[t][i]),
                                             both[down + t][at / 4 * 8 / B_ROWS], sum[down + t][at]);
            }
    }
#elif VECTOR
    u32 rows, columns;               // where the scales of its first row and first columns lie
    float left[PIECE_TILES][2];      // of its rows of a piece
    float right[WGMMA_N / 8][2];     // of its columns of a piece

    __device__ __forceinline__ void begin_stage(u32 scales, int first_row, int first_column, int lane) {
        rows = scales + first_row * 4;
        columns = scales + (UNITS * BLOCK_M + first_column + lane % 4 * 2) * 4;
    }

    __device__ __forceinline__ void fetch(int piece, int) {
        const int unit = piece / PARTS, down = piece % PARTS / PIECES_N, across = piece % PIECES_N;
        if (across == 0)
#pragma unroll
            for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    const int row = unit * BLOCK_M + (down * PIECE_TILES + t) * 64 + h * 8;
                    left[t][h] = load_shared(rows + row * 4);
                    if (UNIT_LOG2 == -12) left[t][h] = multiply_rn(left[t][h], 0x1p-12f);
                }
        if (EARLY && (down == 0 || PIECES_N > 1))
#pragma unroll
            for (int g = 0; g < WGMMA_N / 8; g++) fetch_columns(unit, across, g);
    }

    __device__ __forceinline__ void fetch_columns(int unit, int across, int g) {
        load_floats(columns + (unit * BLOCK_N + across * WGMMA_N + g * 8) * 4, right[g]);
    }

    __device__ __forceinline__ void add(Accumulator (&d)[PIECE_TILES][HALF],
                                        float (&sum)[TILES_M][SUMS], int piece) {
        const int unit = piece / PARTS, down = piece % PARTS / PIECES_N, across = piece % PIECES_N;
#pragma unroll
        for (int g = 0; g < WGMMA_N / 8; g++) {
            if (!EARLY) fetch_columns(unit, across, g);
#pragma unroll
            for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float factor = multiply_rn(left[t][e / 2], right[g][e % 2]);
                    float &to = sum[down * PIECE_TILES + t][across * HALF + g * 4 + e];
                    to = fused_rn((float)d[t][g * 4 + e], factor, to);
                }
        }
    }
#else
    u32 columns;                       // where the scales of B lie
    float left[TILES_M][UNITS];
    float both[TILES_M][OWN_SCALES];  // of one unit

    __device__ __forceinline__ void begin_stage(u32 scales, int first_row, int first_column, int lane) {
        columns = scales + first_column / B_ROWS * 4;
#pragma unroll
        for (int t = 0; t < TILES_M; t++)
            load_floats(scales + (B_SCALES + (first_row + t * 64) / A_ROWS) * UNITS * 4, left[t]);
    }

    __device__ __forceinline__ void fetch(int piece, int) {
        if (piece % PARTS != 0) return;
        const int unit = piece / PARTS;
        float right[OWN_SCALES];
        load_floats(columns + unit * B_SCALES * 4, right);
#pragma unroll
        for (int t = 0; t < TILES_M; t++)
#pragma unroll
            for (int j = 0; j < OWN_SCALES; j++) both[t][j] = multiply_rn(left[t][unit], right[j]);
    }

    __device__ __forceinline__ void add(Accumulator (&d)[PIECE_TILES][HALF],
                                        float (&sum)[TILES_M][SUMS], int piece) const {
        const int down = piece % PARTS / PIECES_N * PIECE_TILES, across = piece % PIECES_N * HALF;
#pragma unroll
        for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
            for (int i = 0; i < HALF; i++) {
                const int at = across + i;
                sum[down + t][at] = fused_rn((float)d[t][i], both[down + t][at / 4 * 8 / B_ROWS],
                                             sum[down + t][at]);
            }
    }
#endif
};
