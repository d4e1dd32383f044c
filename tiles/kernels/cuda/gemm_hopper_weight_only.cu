// C[M, N] = X[M, K] . W[N, K]^T on Hopper (sm_90a): 16-bit activations, packed weights of 4 or 8
// bits, few rows of X.
//
// Weights are the 16 rows of mma.sync's first operand and rows of X its 8 columns: C^T = W . X^T.
// One warp keeps a ring of STAGES stages filled, each a panel of BLOCK_N rows of weights (64 bytes a
// row: 128 columns of 4-bit codes, 64 of 8-bit ones), the columns of X that they meet (128-byte
// swizzle), scales and zero points.  A tile's panel is contiguous in device memory, so it comes in
// one copy, and a lane finds the 16 bytes that it multiplies side by side: nothing is shuffled, and
// decoded weights exist in registers alone.  The first copies are asked for before the CTA has met.
//
// WGMMA 1: four warps multiply together, 64 rows of weights by all rows of X in shared memory, which
// is read once for the four.  They decode a unit of 64 columns while the tensor cores work on the one
// before, and scale a panel's sums while its successor is decoded.
//
// WARPS_K groups of BLOCK_N / WARP_ROWS warps take the stages in turn, each group with sums of its
// own, and add them up in shared memory at a tile's end.  A group always has the same stages: of one
// that others filled last it could not tell whether that fill has come, or the one before.  Sums of
// PART columns are scaled in fp32 and added to the tile's.
//
// The steps of all tiles stand in one row, tile after tile, and `ctas` CTAs have equal parts of it.
// With as many CTAs as tiles each has a tile.  Otherwise a tile may begin in one CTA and end in
// another: each leaves its sums in the workspace, and whoever comes last adds them in the order of
// K, so that bits never depend on who that was.
//
// The CTAs of a cluster share a tile: each has an equal part of its panels, and reads the others'
// sums through distributed shared memory at the end, to add them in the order of K.  So tiles are
// tall where N is small: the warp that asks for stages takes as long for a panel of 32 rows as for
// one of 128, and CTAs of tall tiles read X less often.
//
// Rows of weights beyond N are not read, and whatever stands in their place is never stored.
// Columns beyond K meet activations of zero.
//
// Macros from the launcher: ELEMENT (0 bf16, 1 fp16), OUT (0 bf16, 1 fp16, 2 fp32), WEIGHT, SCALE
// (see weight_codes.cuh), GROUP (columns under one scale, 0: none), BLOCK_M (rows of X), BLOCK_N
// (rows of W), WARP_ROWS, WARPS_K, STAGES, PER_SM (CTAs that a multiprocessor holds at least),
// CLUSTER (CTAs that share a tile: `ctas` is so many times the tiles, and panels are as many at least),
// WGMMA (groups of columns under one scale are whole panels).

#define ROW_BYTES 128  // of a stage's rows of X: the width of the swizzle
#include "hopper.cuh"
#include "hopper_mma.cuh"
#include "hopper_start.cuh"
#if WGMMA
#define WGMMA_N BLOCK_M
#include "hopper_wgmma.cuh"
#endif

// Of whole warpgroups the last warps may have no rows: they multiply what nobody looks at.
#define WARPS_N (WGMMA ? (BLOCK_N + 63) / 64 * 4 : BLOCK_N / WARP_ROWS)
#define CONSUMERS (WARPS_N * WARPS_K * 32)
#define THREADS (CONSUMERS + 32)
#define M16 (WARP_ROWS / 16)
#define N8 (BLOCK_M / 8)
// Columns that are summed before they are scaled.  Where many sums of a lane hide how long a product
// takes, whole panels: fewer sums are scaled.
#define PART (PER_PANEL > 1 ? (PANEL / PER_PANEL < 64 ? PANEL / PER_PANEL : 64) : M16 * N8 > 2 ? PANEL : 64)
// One after the other where operands of both would not fit the registers.
#define HALVES_AT_ONCE (PER_PANEL == 1 && M16 * N8 > 2 ? 1 : HALVES)
#define X_BYTES (BLOCK_M * ROW_BYTES)  // of 64 columns
#include "hopper_ring.cuh"
#include "weight_codes.cuh"
#include "weight_panels.cuh"

// Words from one row of C to the next while it is staged: 4 more than a multiple of 16, so that the
// lanes of a warp meet in no bank.
#define PITCH (BLOCK_N + 4)
#define STAGED_WORDS (BLOCK_M * PITCH)  // of one group of warps
#define TILE_WORDS (BLOCK_M * BLOCK_N)
#define PIECES (BLOCK_N / 4)  // of 4 columns, in a row of C
#define STAGED 1              // the consumers' named barrier
#define READY 2               // that of the CTA: the ring's barriers can be waited for
// Whether all pieces of a thread, multiples of CONSUMERS apart, are of the same columns, and it has
// registers for their scales: of warpgroups it has not.
#define SAME_COLUMNS (!WGMMA && CONSUMERS % PIECES == 0)

#if (BLOCK_N % WARP_ROWS && !WGMMA) || WARP_ROWS % 16 || BLOCK_M % 8 || STAGES % WARPS_K
#error "BLOCK_N is a multiple of WARP_ROWS, that of 16, BLOCK_M of 8, STAGES of WARPS_K"
#endif
#if WGMMA && (GROUP % PANEL || WARP_ROWS != 16)
#error "products of warpgroups take 16 rows a warp and are scaled by whole panels"
#endif

// The parts of a stage in shared memory.
struct Rings {
    u32 w, x, scale, zero;
};

// Writes 4 neighbouring columns of C.
__device__ __forceinline__ void store_columns(u8 *to, const float (&v)[4]) {
#if OUT == 2
    *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
#elif OUT == 1
    *(uint2 *)to = make_uint2(pack_fp16(v[0], v[1]), pack_fp16(v[2], v[3]));
#else
    *(uint2 *)to = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
#endif
}

// Writes columns x to x + 3 of a row of C, each with the scale of its row of W.
__device__ __forceinline__ void store_scaled(u8 *row, const float4 &by, int x, float (&total)[4]) {
    total[0] *= by.x, total[1] *= by.y, total[2] *= by.z, total[3] *= by.w;
    store_columns(row + (i64)x * (OUT == 2 ? 4 : 2), total);
}

// The first step of a CTA, of all steps in a row.
__device__ __forceinline__ i64 first_step(i64 steps, int cta, int ctas) {
    return steps * cta / ctas;
}

// Asks for a stage: one panel of a tile.
//
// row: of the tile's first one, of all rows of panels in a row.
__device__ __forceinline__ void load_stage(const Rings &ring, u32 bar, const TensorMap *map_x,
                                           const u8 *codes, const u8 *scale, const u8 *zero,
                                           i64 row, int rows, int top, int left, int panel, int n) {
    barrier_expect(bar, rows * PANEL_ROW_BYTES + HALVES * X_BYTES);
    load_panel(ring.w, ring.scale, ring.zero, bar, codes, scale, zero, row, rows, left, panel, n);
    // Behind the weights, which need no tensor map: of a launch's first copies they are not held up
    // by one on its way.
#pragma unroll
    for (int half = 0; half < HALVES; half++)
        load_tile(ring.x + half * X_BYTES, map_x, bar, panel * PANEL + half * 64, top);
}

#if WGMMA
// Of a warp: what the tensor cores add up of a panel, its scales, and the two halves that they read.
struct Products {
    Accumulator part[HALF];
    float factor[2];
    u32 a[2][4][4];
};

// Decodes 64 columns of a panel to a thread's part of wgmma's first operand; row: its first one.
__device__ __forceinline__ void decode_half(const Rings &ring, int row, int lane, int half,
                                            u32 (&a)[4][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int at = row + r * 8;
        const uint4 four = load_shared4(ring.w + at * PANEL_BYTES + lane % 4 * 16);
        const u32 less = load_less(ring.zero, at);
#pragma unroll
        for (int step = 0; step < 4; step++) {
            const u32 word = step == 0 ? four.x : step == 1 ? four.y : step == 2 ? four.z : four.w;
            decode_word(word, half, less, a[step][r], a[step][r + 2]);
        }
    }
}

// Waits for the products on their way and adds them to a warp's sums.
__device__ __forceinline__ void take_products(Products &of, float (&sum)[M16][N8][4]) {
    wgmma_wait<0>();
    pin(of.part);
#pragma unroll
    for (int e = 0; e < HALF; e++) sum[0][e / 4][e % 4] += of.part[e] * of.factor[e / 2 % 2];
}

// Starts a stage's products, and adds those of the stage before to the sums.
//
// row: of the tile, the warp's first one for this lane; done: gives the stage before back.
template <class Done>
__device__ __forceinline__ void start_stage(const Rings &ring, int row, int lane, Products &of,
                                            float (&sum)[M16][N8][4], Done done) {
    const u64 x = descriptor(ring.x);
#pragma unroll
    for (int half = 0; half < HALVES; half++) {
        // The other half may be on its way, in the other registers.
        if (HALVES > 1)
            wgmma_wait<1>();
        else
            wgmma_wait<0>();
        decode_half(ring, row, lane, half, of.a[half]);
        if (half == 0) {
            take_products(of, sum);
            done();
#pragma unroll
            for (int r = 0; r < 2; r++)
                of.factor[r] = load_scale(ring.scale + (row + r * 8) * SCALE_ITEM);
        }
        pin(of.part);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++)
            wgmma_rows(of.part, of.a[half][step], x + half * (X_BYTES >> 4) + step * 2,
                       half > 0 || step > 0);
        wgmma_commit();
        pin(of.part);
    }
}
#else
__device__ __forceinline__ void add_scaled(const float (&part)[4],
                                           const float (&factor)[2][PER_PANEL], int place,
                                           float (&sum)[4]) {
#pragma unroll
    for (int e = 0; e < 4; e++) sum[e] += part[e] * factor[e / 2][place];
}

// Adds a stage's products to a warp's sums.
__device__ __forceinline__ void multiply_stage(const Rings &ring, int warp_row, int lane,
                                               float (&sum)[M16][N8][4]) {
    const u32 w = ring.w + warp_row * PANEL_BYTES + lane * 16;
    const u32 x = ring.x + lane % 8 * ROW_BYTES;
    uint4 words[M16][2];  // of rows lane / 4 and lane / 4 + 8 of every 16
    float factor[M16][2][PER_PANEL];
    u32 less[M16][2][PER_PANEL];
#pragma unroll
    for (int i = 0; i < M16 * 2; i++) {
        words[i / 2][i % 2] = load_shared4(w + i * 8 * PANEL_BYTES);
#pragma unroll
        for (int place = 0; place < PER_PANEL; place++) {
            const int at = (warp_row + lane / 4 + i * 8) * PER_PANEL + place;
            factor[i / 2][i % 2][place] = load_scale(ring.scale + at * SCALE_ITEM);
            less[i / 2][i % 2][place] = load_less(ring.zero, at);
        }
    }
    float part[M16][N8][4];
    if (PART > 64)
#pragma unroll
        for (int i = 0; i < M16 * N8 * 4; i++) part[i / 4 / N8][i / 4 % N8][i % 4] = 0;
#pragma unroll HALVES_AT_ONCE
    for (int half = 0; half < HALVES; half++) {
        u32 b[N8][4];  // of two steps
#pragma unroll
        for (int step = 0; step < 4; step++) {  // of 16 columns
            const int place = PER_PANEL > 1 ? PLACE(half * 64 + step * 16) : 0;
#pragma unroll
            for (int j = 0; j < N8; j++)
                if (step % 2 == 0)
                    load_matrices(b[j], x + half * X_BYTES + j * 8 * ROW_BYTES +
                                            ((step * 2 + lane / 8 ^ lane % 8) << 4));
#pragma unroll
            for (int i = 0; i < M16; i++) {
                u32 a[4];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const uint4 four = words[i][r];
                    const u32 word = step == 0 ? four.x : step == 1 ? four.y : step == 2 ? four.z : four.w;
                    decode_word(word, half, less[i][r][place], a[r], a[r + 2]);
                }
#pragma unroll
                for (int j = 0; j < N8; j++) {
                    float(&p)[4] = part[i][j];
                    if (PART <= 64 && step * 16 % PART == 0) p[0] = p[1] = p[2] = p[3] = 0;
                    multiply_add(p, a, b[j][step % 2 * 2], b[j][step % 2 * 2 + 1]);
                    if ((step + 1) * 16 % PART == 0) add_scaled(p, factor[i], place, sum[i][j]);
                }
            }
        }
    }
    if (PART > 64)
#pragma unroll
        for (int i = 0; i < M16 * N8; i++)
            add_scaled(part[i / N8][i % N8], factor[i / N8], 0, sum[i / N8][i % N8]);
}

#endif

__device__ __forceinline__ void add_bits(const uint4 &bits, float (&total)[4]) {
    total[0] += __uint_as_float(bits.x);
    total[1] += __uint_as_float(bits.y);
    total[2] += __uint_as_float(bits.z);
    total[3] += __uint_as_float(bits.w);
}

// 4 columns of a tile's row, added up over the groups of warps.
__device__ __forceinline__ void add_groups(u32 from, float (&total)[4]) {
    total[0] = total[1] = total[2] = total[3] = 0;
#pragma unroll
    for (int g = 0; g < WARPS_K; g++) add_bits(load_shared4(from + g * STAGED_WORDS * 4), total);
}

extern "C" __global__ void __launch_bounds__(THREADS, PER_SM) CLUSTER_SHAPE
gemm_hopper_weight_only(const __grid_constant__ TensorMap map_x, const u8 *codes, const u8 *scale,
                        const u8 *zero, const float *row_scale, u8 *c, float *partial, int *arrived,
                        i64 c_pitch, int m, int n, int panels, int ctas) {
    extern __shared__ __align__(1024) u8 memory[];
    const int cta = blockIdx.x;
    const u32 w_ring = shared_address(memory), x_ring = w_ring + STAGES * W_BYTES;
    const u32 scale_ring = x_ring + STAGES * HALVES * X_BYTES;
    const u32 zero_ring = scale_ring + STAGES * SCALE_SLOT;
    const u32 staging = zero_ring + STAGES * ZERO_SLOT;
    const u32 full_bar = staging + WARPS_K * STAGED_WORDS * 4, empty_bar = full_bar + STAGES * 8;
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    // Nobody waits for the barriers of others before its first copies are under way.
    const bool loads = warp == CONSUMERS / 32;
    if (loads && elected()) {
        prefetch_map(&map_x);
        init_ring(full_bar, empty_bar, 1, WARPS_N);
        barriers_are_ready();
    }
    // Tiles that share rows of W are neighbours: they find them in the L2.
    const int tiles_m = (m + BLOCK_M - 1) / BLOCK_M, tiles_n = (n + BLOCK_N - 1) / BLOCK_N;
    const i64 steps = (i64)tiles_m * tiles_n * panels;
    // Where a CTA or a cluster has a tile nothing is divided, which takes a hundred clocks each time.
    int first_tile = cta / CLUSTER, first_panel = 0, count = panels;
    if (CLUSTER > 1) {
        const int rank = cta % CLUSTER;
        first_panel = panels * rank / CLUSTER;
        count = panels * (rank + 1) / CLUSTER - first_panel;
    } else if (ctas != tiles_m * tiles_n) {
        const i64 first = first_step(steps, cta, ctas);
        count = (int)(first_step(steps, cta + 1, ctas) - first);
        first_tile = (int)(first / panels), first_panel = (int)(first % panels);
    }
    auto place = [&](int tile, int &top, int &left) {
        const int across = tiles_m == 1 ? tile : tile / tiles_m;
        top = (tile - across * tiles_m) * BLOCK_M, left = across * BLOCK_N;
    };
#define RINGS(stage)                                                                        \
    Rings {                                                                                 \
        w_ring + (stage) * W_BYTES, x_ring + (stage) * HALVES * X_BYTES,                    \
            scale_ring + (stage) * SCALE_SLOT, zero_ring + (stage) * ZERO_SLOT              \
    }

    if (loads) {
        __syncwarp();
        named_arrive(READY, THREADS);
        follow_launch();
        if (elected()) {
            int stage = 0, tile = first_tile, panel = first_panel, asked = 0;
            u32 phase = 1;
            for (; asked < count; tile++, panel = 0) {
                int top, left;
                place(tile, top, left);
                const int rows = min(BLOCK_N, n - left), until = min(panels, panel + count - asked);
                asked += until - panel;
                i64 row = (i64)panel * n + left;
                for (; panel < until; panel++, row += n) {
                    barrier_wait(empty_bar + stage * 8, phase);
                    load_stage(RINGS(stage), full_bar + stage * 8, &map_x, codes, scale, zero, row,
                               rows, top, left, panel, n);
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
        if (CLUSTER > 1) {
            __syncwarp();
            cluster_sync_relaxed();
            cluster_sync_relaxed();
        }
        return;
    }

    const int thread = threadIdx.x, group = warp / WARPS_N, warp_row = warp % WARPS_N * WARP_ROWS;
#if WGMMA
    const int lane_row = warp_row + lane / 4;
#endif
    int stage = group, mine = group, done = 0;
    u32 phase = 0;
    named_sync(READY, THREADS);
    follow_launch();
    for (int tile = first_tile; done < count; tile++) {
        int top, left;
        place(tile, top, left);
        // Its scales are the last that a tile reads: asked for then they would come from far away.
        if (thread < PIECES && left + thread * 4 < n) prefetch_line(row_scale + left + thread * 4);
        const int begin = tile == first_tile ? first_panel : 0;
        const int here = min(panels - begin, count - done);
        done += here;
        float sum[M16][N8][4] = {};
#if WGMMA
        Products products = {};
        int before = -1;  // the stage whose products are on their way
        auto give_back = [&] {
            __syncwarp();
            if (lane == 0 && before >= 0) barrier_arrive(empty_bar + before * 8);
        };
#endif
        for (; mine < done; mine += WARPS_K) {
            barrier_wait(full_bar + stage * 8, phase);
#if WGMMA
            start_stage(RINGS(stage), lane_row, lane, products, sum, give_back);
            before = stage;
#else
            multiply_stage(RINGS(stage), warp_row, lane, sum);
            __syncwarp();
            if (lane == 0) barrier_arrive(empty_bar + stage * 8);
#endif
            stage += WARPS_K;
            if (stage >= STAGES) stage -= STAGES, phase ^= 1;
        }
#if WGMMA
        take_products(products, sum);
        give_back();
#endif

        auto scale_of = [&](int x) {
            return x < n ? *(const float4 *)(row_scale + x) : make_float4(0, 0, 0, 0);
        };
#if SAME_COLUMNS
        const float4 row_scales = scale_of(left + thread % PIECES * 4);  // while sums are staged
#define ROW_SCALES(x) row_scales
#else
#define ROW_SCALES(x) scale_of(x)
#endif
        // mma.sync leaves element (row, column) of 16 x 8 in lane row % 8 * 4 + column / 2.
#pragma unroll
        for (int i = 0; i < M16 * N8 * 4; i++) {
            const int block = i / 4 / N8, j = i / 4 % N8, e = i % 4;
            const int row = warp_row + block * 16 + e / 2 * 8 + lane / 4;
            const int column = j * 8 + lane % 4 * 2 + e % 2;
            if (WGMMA && BLOCK_N % 64 && row >= BLOCK_N) continue;
            store_shared(staging + (group * STAGED_WORDS + column * PITCH + row) * 4,
                         __float_as_uint(sum[block][j][e]));
        }
        named_sync(STAGED, CONSUMERS);

        const int pieces = min(BLOCK_M, m - top) * PIECES;
#if CLUSTER > 1
        // Groups of warps are added up by the CTA that has them, in the first one's place.
        for (int piece = thread; WARPS_K > 1 && piece < pieces; piece += CONSUMERS) {
            const u32 at = staging + (piece / PIECES * PITCH + piece % PIECES * 4) * 4;
            float total[4];
            add_groups(at, total);
#pragma unroll
            for (int e = 0; e < 4; e++) store_shared(at + e * 4, __float_as_uint(total[e]));
        }
        cluster_sync();
        for (int piece = (int)cluster_rank() * CONSUMERS + thread; piece < pieces;
             piece += CLUSTER * CONSUMERS) {
            const int row = piece / PIECES, column = piece % PIECES * 4, x = left + column;
            if (x >= n) continue;
            uint4 parts[CLUSTER];
#pragma unroll
            for (int r = 0; r < CLUSTER; r++)
                parts[r] = load_peer4(staging + (row * PITCH + column) * 4, r);
            float total[4] = {};
#pragma unroll
            for (int r = 0; r < CLUSTER; r++) add_bits(parts[r], total);
            store_scaled(c + (i64)(top + row) * c_pitch, ROW_SCALES(x), x, total);
        }
        __syncwarp();
        cluster_sync_relaxed();  // until then a neighbour may read this CTA's sums
#else
        const u32 arrivals = empty_bar + STAGES * 8;  // of a tile that several CTAs share
        int from = cta, to = cta;  // the CTAs that share the tile
        if (here < panels) {
            from = (int)((((i64)tile * panels + 1) * ctas - 1) / steps);
            to = (int)((((i64)tile + 1) * panels * ctas - 1) / steps);
            float *const own = partial + (2 * (i64)cta + (tile != first_tile)) * TILE_WORDS;
            for (int piece = thread; piece < pieces; piece += CONSUMERS) {
                const int row = piece / PIECES, column = piece % PIECES * 4;
                float total[4];
                add_groups(staging + (row * PITCH + column) * 4, total);
                store_far(own + row * BLOCK_N + column, total);
            }
            named_sync(STAGED, CONSUMERS);
            if (thread == 0) store_shared(arrivals, (u32)count_arrival(arrived + tile));
            named_sync(STAGED, CONSUMERS);
            if ((int)load_shared_u32(arrivals) < to - from) continue;
            if (thread == 0) arrived[tile] = 0;  // ready for the next launch
        }
        // Of a tile a CTA has its first part in its second place if it began with another tile.
        const int second = here < panels && first_step(steps, from, ctas) < (i64)tile * panels;
        for (int piece = thread; piece < pieces; piece += CONSUMERS) {
            const int row = piece / PIECES, column = piece % PIECES * 4, x = left + column;
            if (x >= n) continue;
            float total[4];
            if (here == panels) {
                add_groups(staging + (row * PITCH + column) * 4, total);
            } else {
                const float *const at = partial + row * BLOCK_N + column;
                load_far(total, at + (2 * (i64)from + second) * TILE_WORDS);
                for (int other = from + 1; other <= to; other++) {
                    float more[4];
                    load_far(more, at + 2 * (i64)other * TILE_WORDS);
#pragma unroll
                    for (int e = 0; e < 4; e++) total[e] += more[e];
                }
            }
            store_scaled(c + (i64)(top + row) * c_pitch, ROW_SCALES(x), x, total);
        }
        named_sync(STAGED, CONSUMERS);  // staged sums have been read
#endif
    }
}
