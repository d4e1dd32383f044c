// Quantise a matrix in blocks, with the transposed copy of its codes and scales if wanted.
//
// LANES threads share one block of BLOCK_ROWS x BLOCK_COLS elements (BLOCK_COLS 0: whole rows) and
// take its vectors of VECTOR adjacent elements in turn, ITEMS each.  With KEEP a block is read once
// and stays in registers; without it is read twice, the second time out of L2.  UNROLL blocks a
// group of lanes are in flight together.  ALIGNED says that every vector lies inside its row and on
// its natural boundary; otherwise elements are moved one by one.  EVEN says that no block reaches over
// the edge, and that every CTA has all its blocks.
//
// With TRANSPOSED a CTA's blocks lie in a tile of DOWN x RIGHT, and a thread has patches of four rows,
// whose codes are turned in shared memory.
//
// With PLACED the matrix is part of another one, whose codes have rows of `pitch` (turned `pitch_t`) elements
// and whose element `first` is the part's first one: addresses of codes and scales are those of the part.
//
// Macros from the launcher: SOURCE, TARGET, STOCHASTIC (see quantize_codes.cuh), THREADS, LANES, VECTOR,
// UNROLL, ITEMS, KEEP, BLOCK_ROWS, BLOCK_COLS, ALIGNED, NARROW, EVEN, TRANSPOSED, RIGHT, PLACED.

#include "quantize_codes.cuh"
#include "follow_launch.cuh"

#define GROUPS (THREADS / LANES)
#define ACROSS (BLOCK_COLS / VECTOR)  // vectors of a block's row; the launcher sees to it that VECTOR divides

#if TRANSPOSED
#define DOWN (GROUPS * UNROLL / RIGHT)
#define TILE_ROWS (DOWN * BLOCK_ROWS)
#define TILE_COLS (RIGHT * BLOCK_COLS)
// Of a warp's patches as many lie side by side, the others below.
#define SIDE (ACROSS < 8 ? ACROSS : 8)
#define BELOW (32 / SIDE)
#define PATCH_COLS VECTOR
#define SKEW (LANES < 32 || BELOW < 4 ? 1 : BELOW / 4)
#include "byte_tiles.cuh"
#define TILE_BYTES (TILE_COLS * TILE_ROWS + TILE_COLS / VECTOR * 16 * SKEW)
#else
#define TILE_BYTES 0
#endif

// Whether a thread's vectors lie at constant distances, whatever the lane.
#if TRANSPOSED
#define LINEAR (LANES % SIDE == 0 && (ACROSS == SIDE || (LANES >= 32 && LANES / 32 % (ACROSS / SIDE) == 0)))
#elif BLOCK_COLS == 0
#define LINEAR 1
#else
#define LINEAR (LANES % ACROSS == 0 || ACROSS % LANES == 0)
#endif

#if PLACED
#define PITCH p.pitch
#define PITCH_T p.pitch_t
#define FIRST p.first
#else
#define PITCH p.cols
#define PITCH_T p.rows
#define FIRST 0
#endif

struct Operands {
    const void *x;
    u8 *codes;
    float *scales;
    u8 *codes_t;
    float *scales_t;
    i64 rows, cols, scales_row, scales_col, scales_t_row, scales_t_col, pitch, pitch_t, first;
    RoundKeys keys;
    // Blocks = scale rows x scale columns, or tiles.  Those across are divided by as (high(n magic) + n)
    // >> shift, exact for n < 2^31 (Granlund and Montgomery, PLDI 1994).
    u32 blocks, across, magic, shift;
};

// A block, and what a thread has of it.
struct Block {
    i64 down, right;           // in the grid of blocks
    i64 row, col;              // of its corner
    i64 end_row, end_col;      // what is inside; end_row <= row where there is no block
    i64 first_row, first_col;  // of the thread's vector 0
    i64 first, first_code;     // its offset, and that of its codes
};

// Where a vector lies: first element, first code, and how many of its elements are inside the block (0: none).
struct Place {
    i64 offset, code;
    int count;
};

// Row and column in elements of a thread's vector i, from its block's corner.
DEVICE void inside_block(u32 lane, u32 i, u32 *row, u32 *col) {
#if TRANSPOSED
    const u32 patch = i / 4 * LANES + lane, warps = patch / 32;
    const u32 aside = patch % SIDE + warps % (ACROSS / SIDE) * SIDE;
    *row = (patch / SIDE % BELOW + warps / (ACROSS / SIDE) * BELOW) * 4 + i % 4;
    *col = aside * VECTOR;
#elif BLOCK_COLS == 0
    *row = 0;
    *col = (i * LANES + lane) * VECTOR;
#else
    const u32 index = i * LANES + lane;
    *row = index / ACROSS;
    *col = index % ACROSS * VECTOR;
#endif
}

// Elements of the vector at (row, col) that are inside the block.
DEVICE int inside(i64 row, i64 col, const Block &block) {
#if EVEN
    return VECTOR;
#else
    const i64 left = row < block.end_row ? block.end_col - col : 0;
    return left >= VECTOR ? VECTOR : left > 0 ? (int)left : 0;
#endif
}

DEVICE Place place_of(const Block &block, u32 lane, u32 i, const Operands &p) {
    u32 down, right;
    Place place;
#if LINEAR
    inside_block(0, i, &down, &right);
    place.offset = block.first + (down * p.cols + right);
    place.code = block.first_code + (down * PITCH + right);
    place.count = inside(block.first_row + down, block.first_col + right, block);
#else
    inside_block(lane, i, &down, &right);
    place.offset = (block.row + down) * p.cols + block.col + right;
    place.code = (block.row + down) * PITCH + block.col + right;
    place.count = inside(block.row + down, block.col + right, block);
#endif
    return place;
}

DEVICE void load(const void *x, const Place &place, u32 *words) {
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

DEVICE void store(u8 *codes, const Place &place, const u32 *packed) {
#if ALIGNED && VECTOR > 1
    if (place.count == 0) return;
#if VECTOR == 16
    *(uint4 *)(codes + place.code) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
#elif VECTOR == 8
    *(uint2 *)(codes + place.code) = make_uint2(packed[0], packed[1]);
#else
    *(u32 *)(codes + place.code) = packed[0];
#endif
#else
#pragma unroll
    for (int j = 0; j < VECTOR; ++j)
        if (j < place.count) codes[place.code + j] = (u8)(packed[j / 4] >> (8 * (j & 3)));
#endif
}

// Largest value among the LANES threads of every group; all threads of the CTA take part, which lends
// UNROLL x THREADS / 32 words where blocks are larger than a warp.
DEVICE void reduce(u32 *peaks, u32 *of_warp) {
#if LANES >= 32
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) peaks[u] = __reduce_max_sync(0xffffffffu, peaks[u]);
#else
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int distance = LANES / 2; distance > 0; distance /= 2)
            peaks[u] = max(peaks[u],
                           as_bits(__shfl_xor_sync(0xffffffffu, as_float(peaks[u]), distance)));
#endif
#if LANES > 32
    const int warp = threadIdx.x / 32, first = threadIdx.x / LANES * (LANES / 32);
    if (threadIdx.x % 32 == 0)
        for (int u = 0; u < UNROLL; ++u) of_warp[u * (THREADS / 32) + warp] = peaks[u];
    __syncthreads();
#pragma unroll
    for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int w = 0; w < LANES / 32; ++w)
            peaks[u] = max(peaks[u], of_warp[u * (THREADS / 32) + first + w]);
#endif
}

DEVICE u32 quotient_of(u32 n, const Operands &p) { return (__umulhi(n, p.magic) + n) >> p.shift; }

// The block u of a group of lanes.
DEVICE Block block_of(u32 group, u32 lane, u32 u, const Operands &p) {
    Block block;
#if TRANSPOSED
    const u32 down = quotient_of(blockIdx.x, p), right = blockIdx.x - down * p.across;
    const u32 own = u * GROUPS + group;
    block.down = (i64)down * DOWN + own / RIGHT;
    block.right = (i64)right * RIGHT + own % RIGHT;
    const bool there = true;
#else
    const u32 index = (blockIdx.x * UNROLL + u) * GROUPS + group;
    const u32 down = quotient_of(index, p);
    block.down = down;
    block.right = index - down * p.across;
    const bool there = EVEN || index < p.blocks;
#endif
    block.row = block.down * BLOCK_ROWS;
    block.end_row = there ? min(block.row + BLOCK_ROWS, p.rows) : 0;
#if BLOCK_COLS == 0
    block.col = 0;
    block.end_col = p.cols;
#else
    block.col = block.right * BLOCK_COLS;
    block.end_col = min(block.col + BLOCK_COLS, p.cols);
#endif
    u32 row, col;
    inside_block(lane, 0, &row, &col);
    block.first_row = block.row + row, block.first_col = block.col + col;
    block.first = block.first_row * p.cols + block.first_col;
    block.first_code = block.first_row * PITCH + block.first_col;
    return block;
}

DEVICE void store_scale(const Block &block, float scale, const Operands &p) {
    if (!EVEN && (block.row >= block.end_row || block.col >= block.end_col)) return;
    p.scales[block.down * p.scales_row + block.right * p.scales_col] = scale;
#if TRANSPOSED
    p.scales_t[block.right * p.scales_t_row + block.down * p.scales_t_col] = scale;
#endif
}

#if KEEP

// Codes of a thread's part of a block; `ordinary` is a constant.
DEVICE void quantize(const u32 words[ITEMS][WORDS], const Block &block, u32 lane, const Divisor &d,
                     bool ordinary, const Operands &p, u8 *tile) {
#if TRANSPOSED
#pragma unroll
    for (int first = 0; first < ITEMS; first += 4) {
        u32 packed[4][CODE_WORDS];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Place place = place_of(block, lane, first + i, p);
            encode(words[first + i], d, ordinary, place.code + FIRST, p.keys, packed[i]);
            store(p.codes, place, packed[i]);
        }
        u32 row, col;
        inside_block(lane, first, &row, &col);
        row += (u32)(block.down % DOWN) * BLOCK_ROWS, col += (u32)(block.right % RIGHT) * BLOCK_COLS;
        keep_turned(tile, row, col, TILE_ROWS, packed);
    }
#else
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Place place = place_of(block, lane, i, p);
        u32 packed[CODE_WORDS];
        encode(words[i], d, ordinary, place.code + FIRST, p.keys, packed);
        store(p.codes, place, packed);
    }
#endif
}

#else

DEVICE u32 peak_of_block(const Block &block, u32 lane, u32 items, const Operands &p) {
    u32 peak = 0;
    for (u32 i = 0; i < items; ++i) {
        u32 words[WORDS];
        load(p.x, place_of(block, lane, i, p), words);
#pragma unroll
        for (int j = 0; j < WORDS; ++j) peak = larger_magnitude(peak, words[j]);
    }
    return peak;
}

DEVICE void quantize_again(const Block &block, u32 lane, u32 items, const Divisor &d, bool ordinary,
                           const Operands &p) {
    for (u32 i = 0; i < items; ++i) {
        const Place place = place_of(block, lane, i, p);
        u32 words[WORDS], packed[CODE_WORDS];
        load(p.x, place, words);
        encode(words, d, ordinary, place.code + FIRST, p.keys, packed);
        store(p.codes, place, packed);
    }
}

#endif

extern "C" __global__ void __launch_bounds__(THREADS)
quantize_blocks(const Operands p) {
    const u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    SHARED_BYTES(tile, TILE_BYTES + UNROLL * THREADS / 32 * 4);
    u32 *of_warp = (u32 *)(tile + TILE_BYTES);
    u32 peaks[UNROLL];
    follow_launch();
#if KEEP
    u32 words[UNROLL][ITEMS][WORDS];
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        const Block block = block_of(group, lane, u, p);
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            load(p.x, place_of(block, lane, i, p), words[u][i]);
    }
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        peaks[u] = 0;
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
#pragma unroll
            for (int j = 0; j < WORDS; ++j) peaks[u] = larger_magnitude(peaks[u], words[u][i][j]);
    }
#else
#if BLOCK_COLS == 0
    const u32 items = (u32)((p.cols + LANES * VECTOR - 1) / (LANES * VECTOR));
#else
    const u32 items = (BLOCK_ROWS * ACROSS + LANES - 1) / LANES;
#endif
    peaks[0] = peak_of_block(block_of(group, lane, 0, p), lane, items, p);
#endif
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) peaks[u] = peak_bits(peaks[u]);
    reduce(peaks, of_warp);
#pragma unroll
    for (int u = 0; u < UNROLL; ++u) {
        const Block block = block_of(group, lane, u, p);
        const Divisor d = divisor_of(peaks[u]);
        if (lane == 0) store_scale(block, d.scale, p);
#if KEEP
        if (d.ordinary)
            quantize(words[u], block, lane, d, true, p, tile);
        else
            quantize(words[u], block, lane, d, false, p, tile);
#else
        if (d.ordinary)
            quantize_again(block, lane, items, d, true, p);
        else
            quantize_again(block, lane, items, d, false, p);
#endif
    }
#if TRANSPOSED
    __syncthreads();
    const u32 down = quotient_of(blockIdx.x, p), right = blockIdx.x - down * p.across;
    store_turned(tile, p.codes_t, (i64)down * TILE_ROWS, (i64)right * TILE_COLS, p.rows, p.cols,
                 PITCH_T, TILE_ROWS, TILE_COLS, THREADS, ALIGNED, EVEN);
#endif
}
