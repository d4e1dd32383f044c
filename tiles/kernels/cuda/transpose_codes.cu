// Transpose a matrix of one-byte codes: whole lines are read and whole lines written.
//
// A CTA moves a tile of TILE_ROWS x TILE_COLS through shared memory.  A thread reads patches of four rows,
// 16 bytes of each; their columns are turned into words, and 16 bytes at once go out again.
//
// Macros from the launcher: TILE_ROWS, TILE_COLS, THREADS, ALIGNED (rows of both matrices are multiples of
// 16 bytes, on 16-byte boundaries; otherwise bytes are moved one by one), EVEN (whole tiles).

#include "words.cuh"
#include "follow_launch.cuh"

#define PATCH_COLS 16
#define PATCHES (TILE_ROWS / 4 * (TILE_COLS / PATCH_COLS))
#define ITEMS (PATCHES / THREADS)
// Of a warp's patches as many lie side by side, the others below.
#define SIDE (TILE_COLS / PATCH_COLS < 8 ? TILE_COLS / PATCH_COLS : 8)
#define BELOW (32 / SIDE)
#define SKEW (BELOW / 4)

#include "byte_tiles.cuh"

struct Operands {
    const u8 *codes;
    u8 *out;
    i64 rows, cols;
    // Tiles across are divided by as (high(n magic) + n) >> shift, exact for n < 2^31 (Granlund and
    // Montgomery, PLDI 1994).
    u32 across, magic, shift;
};

// 16 codes of a row; those outside are zero.
DEVICE void load_row(const u8 *codes, i64 row, i64 col, i64 rows, i64 cols, u32 *words) {
#if ALIGNED
    uint4 four = make_uint4(0, 0, 0, 0);
    if (EVEN || (row < rows && col < cols)) four = __ldcs((const uint4 *)(codes + row * cols + col));
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
#else
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        words[w] = 0;
        for (int k = 0; k < 4; ++k)
            if (row < rows && col + 4 * w + k < cols)
                words[w] |= (u32)codes[row * cols + col + 4 * w + k] << 8 * k;
    }
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS) transpose_codes(const Operands p) {
    SHARED_BYTES(tile, TILE_ROWS * TILE_COLS + TILE_COLS / PATCH_COLS * 16 * SKEW);
    const u32 down = (__umulhi(blockIdx.x, p.magic) + blockIdx.x) >> p.shift;
    const i64 first_row = (i64)down * TILE_ROWS;
    const i64 first_col = (i64)(blockIdx.x - down * p.across) * TILE_COLS;
    u32 words[ITEMS][4][4], rows[ITEMS], cols[ITEMS];
    follow_launch();
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const u32 patch = i * THREADS + threadIdx.x, warps = patch / 32;
        const u32 sides = TILE_COLS / PATCH_COLS / SIDE;
        rows[i] = (patch / SIDE % BELOW + warps / sides * BELOW) * 4;
        cols[i] = (patch % SIDE + warps % sides * SIDE) * PATCH_COLS;
#pragma unroll
        for (int r = 0; r < 4; ++r)
            load_row(p.codes, first_row + rows[i] + r, first_col + cols[i], p.rows, p.cols, words[i][r]);
    }
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) keep_turned(tile, rows[i], cols[i], TILE_ROWS, words[i]);
    __syncthreads();
    store_turned(tile, p.out, first_row, first_col, p.rows, p.cols, p.rows, TILE_ROWS, TILE_COLS,
                 THREADS, ALIGNED, EVEN);
}
