// Tiles of whole lines in shared memory: SIDE blocks beside one another, which a warp copies there by lines
// of 128 bytes and takes block by block.
//
// Macros: those of dataflow_device.cuh, with LANES 32.
#include "dataflow_copies.cuh"

// Of two matrices, two tiles of which have to find room, half lines.
#ifndef LINE_BYTES
#define LINE_BYTES 128
#endif
#define CHUNKS (LINE_BYTES / VECTOR)
#define SIDE (LINE_BYTES / BLOCK_COLS)
#define TILE_BYTES (BLOCK_ROWS * LINE_BYTES)
#define ROWS_A_COPY (32 / CHUNKS)  // that an instruction of a warp moves
#define ROWS_A_VECTOR (32 / VECTORS_PER_ROW)  // of a block, that one vector a lane makes

// Where a chunk of 16 codes lies.  Eight lanes read chunks of one block in several rows at once, or a row's
// eight: neither meets in a bank.
DEVICE u32 chunk_place(u32 row, u32 chunk) {
    const u32 turn = row * LINE_BYTES / 128 % (CHUNKS / VECTORS_PER_ROW) * VECTORS_PER_ROW;
    return row * LINE_BYTES + (chunk ^ turn) * VECTOR;
}

// From a tile's first code to the first that a lane has, where so many lanes share a row.
DEVICE i64 lane_index(i64 cols, u32 sharing) {
    const u32 lane = threadIdx.x % 32;
    return lane / sharing * cols + lane % sharing * VECTOR;
}

DEVICE void copy_lines(i64 cols, const u8 *from, u8 *to) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < BLOCK_ROWS / ROWS_A_COPY; ++k, from += ROWS_A_COPY * cols) {
        const u32 place = chunk_place(lane / CHUNKS + k * ROWS_A_COPY, lane % CHUNKS);
        copy_async((uint4 *)(to + place), from);
    }
}

DEVICE void store_lines(i64 cols, const u8 *from, u8 *to) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < BLOCK_ROWS / ROWS_A_COPY; ++k, to += ROWS_A_COPY * cols) {
        const u32 place = chunk_place(lane / CHUNKS + k * ROWS_A_COPY, lane % CHUNKS);
        const uint4 vector = *(const uint4 *)(from + place);
        const u32 words[WORDS] = {vector.x, vector.y, vector.z, vector.w};
        store_vector(to, words, true);
    }
}
