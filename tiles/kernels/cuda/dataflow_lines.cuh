// The blockwise kernel where a warp has whole blocks to itself and moves whole lines of memory.
//
// A tile is SIDE blocks beside one another, rows of 128 bytes.  A warp copies one to its own part of shared
// memory, takes its blocks one after the other (evaluate() of dataflow_blocks.cu, two vectors a lane for
// 32 x 32), puts their codes where it took them from, and stores lines: no barrier of the CTA, places are
// worked out once a tile.  Where it walks through several, the next one is under way meanwhile (STAGES).
//
// Shared memory: of each warp STAGES of the matrices' tiles; then the tables, one a warp.
#include "dataflow_tiles.cuh"

#define STAGE_BYTES ((1 + BINARY) * TILE_BYTES)

// Where a tile lies.
struct Corner {
    u32 down, right;  // its first block
    i64 index;        // its first code
};

DEVICE Corner corner_of(const Operands &p, u32 number) {
    Corner at;
    at.down = (__umulhi(number, p.magic) + number) >> p.shift;
    at.right = (number - at.down * p.tiles_across) * SIDE;
    at.index = at.down * (BLOCK_ROWS * p.cols) + at.right * BLOCK_COLS;
    return at;
}

// What is asked for with a tile's codes, which are under way.
struct Ahead {
    float scale, dy_scale;  // of block lane % SIDE
#if NORM
    float mean[ITEMS], variance[ITEMS];
#endif
};

DEVICE void ask_for_tile(const Operands &p, u32 number, u8 *stage, Ahead &tile) {
    const Corner at = corner_of(p, number);
    const u32 right = at.right + threadIdx.x % SIDE;
    const i64 index = at.index + lane_index(p.cols, CHUNKS);
    copy_lines(p.cols, p.x + index, stage);
    tile.scale = __ldg(p.x_scales + at.down * p.x_row_stride + right * p.x_col_stride);
    tile.dy_scale = 1.0f;
#if BINARY
    copy_lines(p.cols, p.dy + index, stage + TILE_BYTES);
    tile.dy_scale = __ldg(p.dy_scales + at.down * p.dy_row_stride + right * p.dy_col_stride);
#endif
#if NORM
    const i64 row = (i64)at.down * BLOCK_ROWS + threadIdx.x % 32 / VECTORS_PER_ROW;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        tile.mean[i] = __ldg(p.mean + row + down_of(i));
        tile.variance[i] = __ldg(p.variance + row + down_of(i));
    }
#endif
}

// Takes a block's codes from its tile and puts the new ones there; returns the output's scale.
DEVICE float turn_block(const Operands &p, Loaded &from, u8 *stage, u32 place, float *tables) {
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const u8 *at = stage + place + i * ROWS_A_VECTOR * LINE_BYTES;
        const uint4 x = *(const uint4 *)at;
        from.x[i][0] = x.x, from.x[i][1] = x.y, from.x[i][2] = x.z, from.x[i][3] = x.w;
#if BINARY
        const uint4 dy = *(const uint4 *)(at + TILE_BYTES);
        from.dy[i][0] = dy.x, from.dy[i][1] = dy.y, from.dy[i][2] = dy.z, from.dy[i][3] = dy.w;
#endif
    }
    Value y[ITEMS][VALUES];
    float unit;
#if LINEAR
    float peak = evaluate(p, from, y, unit);
#else
    float peak = evaluate(p, from, tables, 0, y, unit);
#endif
    peak = block_peak(peak, nullptr, 0);
    const OutputScale out = output_scale(peak, unit, hidden_nan(from));
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        u32 words[WORDS];
#if MAGNITUDES
#pragma unroll
        for (int w = 0; w < WORDS; ++w) words[w] = from.x[i][w];
#endif
        round_vector(y[i], out, from.index + down_of(i) * p.cols, p.keys, words);
        *(uint4 *)(stage + place + i * ROWS_A_VECTOR * LINE_BYTES) =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
    return out.scale;
}

extern "C" __global__ void __launch_bounds__(THREADS, CTAS) dataflow_blocks(const Operands p) {
    SHARED_MEMORY(arena);
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, stride = gridDim.x * GROUPS;
    u8 *own = arena + warp * (STAGES * STAGE_BYTES);
    float *tables = (float *)(arena + GROUPS * STAGES * STAGE_BYTES);
    const u32 place = chunk_place(lane / VECTORS_PER_ROW, lane % VECTORS_PER_ROW);
    u32 number = blockIdx.x * GROUPS + warp, stage = 0;
    follow_launch();
    if (number >= p.tiles) return;
    Ahead ahead;
    ask_for_tile(p, number, own, ahead);
    while (true) {
        const Ahead tile = ahead;
        u8 *codes = own + stage * STAGE_BYTES;
        const Corner at = corner_of(p, number);
        number += stride;
#if STAGES > 1
        copies_begun();
        if (number < p.tiles) ask_for_tile(p, number, own + (stage ^ 1) * STAGE_BYTES, ahead);
        copies_begun();
        copies_left<1>();
#else
        copies_done();
#endif
        __syncwarp();
        Loaded from;
#if NORM
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            from.rows[i] = row_statistics(p, tile.mean[i], tile.variance[i]);
#endif
        from.down = at.down, from.index = at.index + lane_index(p.cols, VECTORS_PER_ROW);
        from.rows_left = 1, from.cols_left = VECTOR;
        float scale = 1.0f;
#pragma unroll 1
        for (u32 b = 0; b < SIDE; ++b, from.index += BLOCK_COLS) {
            from.right = at.right + b;
            from.scale = __shfl_sync(0xffffffffu, tile.scale, b);
            from.dy_scale = BINARY ? __shfl_sync(0xffffffffu, tile.dy_scale, b) : 1.0f;
            const float left = turn_block(p, from, codes, place ^ b * BLOCK_COLS, tables);
            scale = lane == b ? left : scale;
        }
        __syncwarp();
        store_lines(p.cols, codes, p.out + at.index + lane_index(p.cols, CHUNKS));
        store_scale(p.out_scales + at.down * p.out_row_stride + (at.right + lane) * p.out_col_stride,
                    scale, lane < SIDE);
        if (number >= p.tiles) break;
        __syncwarp();  // what was stored from is written anew
#if STAGES > 1
        stage ^= 1;
#else
        ask_for_tile(p, number, codes, ahead);
#endif
    }
#if STAGES > 1
    copies_done();
#endif
}
