// C[M, N] = A[M, K] . B[N, K]^T on Hopper (sm_90a): TMA loads, wgmma, TMA stores.
//
// One warp of the first warpgroup keeps a ring of STAGES tiles of A and B filled (128 bytes of K
// each, 128-byte swizzle); two more warpgroups multiply.  "full" barriers count the bytes that the
// copy engine has brought, "empty" barriers the warps that are done with a stage.  The launch is
// persistent: each CTA, or cluster of CLUSTER CTAs that share a tile by multicast (hopper_raster.cuh),
// walks over the tiles in a raster of GROUP_M cluster rows.
//
// PINGPONG 0: both warpgroups work on one tile, BLOCK_M / 2 rows each.  PINGPONG 1: each has a tile
// of its own and they take turns, so that one stores while the other multiplies.
//
// SCALES 3 to 5 change along K: every 128 of K a product is scaled and added to an fp32 sum on the
// CUDA cores ("promoted").  CHAINED 0: a warpgroup has two sets of accumulators for its products, one
// is promoted while the tensor cores fill the other, and a tile begins when the last one is stored.
// CHAINED 1: it has one set, of 64 rows, so that there is room for the sums of up to 192 columns, or
// of 128 rows a warpgroup; the other warpgroup's product runs under a promotion, and the next tile's
// first one under a tile's way out.  The warpgroups begin products in turns: the tensor cores share
// themselves out among products in flight, so that two which began together would end together, and
// nothing would multiply while both promote.
//
// A NaN scale makes what it touches NaN.  Integer products are exact up to K = 133 144.
//
// GROUPS > 0: rows belong to so many groups, each with a B of its own (hopper_groups.cuh).
//
// Macros from the launcher: ELEMENT (0 bf16, 1 fp16, 2 e4m3fn, 3 e5m2, 4 int8), OUT (0 bf16,
// 1 fp16, 2 fp32), SCALES (0 none, 1 one each, 2 rows of A x rows of B, 3 A 1x128 and B 128x128,
// 4 both 128x128, 5 both 1x128: chained products alone), BLOCK_M, BLOCK_N, STAGES, CLUSTER, GROUP_M,
// PINGPONG, STORE_BUFFERS, CHAINED, GROUPS.

#include "hopper.cuh"
#include "hopper_wgmma.cuh"

#define CONSUMERS 2
#define THREADS (128 * (CONSUMERS + 1))
#define ROW_BYTES 128  // of a stage's rows and of a staging buffer's: the width of the swizzle
#define ELEMENT_BYTES (ELEMENT < 2 ? 2 : 1)
#define BLOCK_K (ROW_BYTES / ELEMENT_BYTES)
#define ROWS (PINGPONG ? BLOCK_M : BLOCK_M / CONSUMERS)  // of a tile, for one warpgroup
#define TILES_M (ROWS / 64)                              // wgmma is 64 rows high
#define HELD_TILES (CHAINED ? 1 : TILES_M)               // of a set of accumulators
#define A_BYTES (BLOCK_M * ROW_BYTES)
#define B_BYTES (BLOCK_N * ROW_BYTES)
#define PROMOTED (SCALES >= 3)
// Scales of a tile's rows.  The copy engine starts at multiples of 16 bytes only, a group anywhere;
// so its rows come with four more, and 256 in two parts, since the engine takes no 260 at a time.
#define SCALE_ROWS (GROUPS && BLOCK_M > 128 ? 128 : BLOCK_M)  // of a part, without the four
#define ROW_SCALES (SCALES == 3 || SCALES == 5)
#define COLUMN_SCALES (SCALES == 5 ? BLOCK_N : 0)  // behind those of the rows
#define SCALE_PARTS (ROW_SCALES ? BLOCK_M / SCALE_ROWS : 0)
#define SCALE_BYTES ((SCALE_PARTS * (SCALE_ROWS + (GROUPS ? 4 : 0)) + COLUMN_SCALES) * 4)
// 128: the alignment of what the copy engine brings.
#define SCALE_PITCH \
    (ROW_SCALES ? ((BLOCK_M + (GROUPS ? 4 : 0) + COLUMN_SCALES) * 4 + 127) / 128 * 128 : 0)
#define SCALE_RING ((STAGES * SCALE_PITCH + 1023) / 1024 * 1024)
#define STORE_BYTES (64 * ROW_BYTES)
#define STORE_COLUMNS (OUT == 2 ? 32 : 64)
#define STORES ((BLOCK_N + STORE_COLUMNS - 1) / STORE_COLUMNS)  // of 64 rows of a tile
#define QUANT 128  // K under one scale, and rows of B (and of A in mode 4)

// Registers of the producer and of a consumer thread: 128 * 40 + 256 * 232 = 64 512 of 65 536.
#define PRODUCER_REGISTERS 40
#define CONSUMER_REGISTERS 232

// Named barriers: 1 and 2 are the consumers' turns, 3 and 4 join the threads of one.
#define TURN 1
#define CONSUMER_BARRIER 3

#include "hopper_raster.cuh"
#include "hopper_ring.cuh"
#include "hopper_staging.cuh"
#if SCALES == 5
#include "hopper_row_promotion.cuh"
#define COLUMNS_PARAMETER , const __grid_constant__ TensorMap map_columns
#else
#define COLUMNS_PARAMETER
#endif
#if CHAINED && SCALES != 5
#include "hopper_promotion.cuh"
#endif
#if SCALES == 5 && (!CHAINED || GROUPS)
#error "1x128 scales of both operands are for chained products without groups"
#endif

__device__ __forceinline__ void turn_wait(int who) { named_sync(TURN + who, 128 * CONSUMERS); }
__device__ __forceinline__ void turn_pass(int who) { named_arrive(TURN + who, 128 * CONSUMERS); }

// Where a tile lies.
struct Tile {
    int top, left;    // its first row, in A and C, and its first column
    int end;          // behind the last row that is stored
    int b_top;        // row of B's map for its first column
    int group;        // 0 without groups
    int scale_x;      // of map_scale, for its first row or up to 3 rows before
    int scale_shift;  // the first row's place in what is fetched from there
    int scale_y;      // of map_scale, for K = 0
};

#if GROUPS
#include "hopper_groups.cuh"
#define GROUPS_PARAMETER , const __grid_constant__ Groups groups
#else
#define GROUPS_PARAMETER

struct TileOrder {
    Raster raster;
    int m;

    __device__ TileOrder(int m, int n) : raster(m, n), m(m) {}

    __device__ int count() const { return raster.count(); }

    __device__ Tile place(int index, u32 rank) const {
        Tile tile;
        raster.place(index, rank, tile.top, tile.left);
        tile.end = m;
        tile.b_top = tile.left;
        tile.group = 0;
        tile.scale_x = tile.top;
        tile.scale_shift = 0;
        tile.scale_y = 0;
        return tile;
    }
};
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_SHAPE
gemm_hopper(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
            const __grid_constant__ TensorMap map_scale, const __grid_constant__ TensorMap map_c,
            const float *a_scale, const float *b_scale, int m, int n,
            int k COLUMNS_PARAMETER GROUPS_PARAMETER) {
    extern __shared__ __align__(1024) u8 memory[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
#if SCALES == 2
    __shared__ __align__(8) float columns[CONSUMERS][BLOCK_N];  // scales of a tile's columns
#endif
    const u32 a_ring = shared_address(memory), b_ring = a_ring + STAGES * A_BYTES;
    const u32 scale_ring = b_ring + STAGES * B_BYTES, store_ring = scale_ring + SCALE_RING;
    const u32 full_bar = shared_address(full), empty_bar = shared_address(empty);
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
#if GROUPS
    __shared__ GroupTable table;
    TileOrder tiles(n, table, groups);
#else
    TileOrder tiles(m, n);
#endif
    const int steps = (k + BLOCK_K - 1) / BLOCK_K;
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;

    if (threadIdx.x == 0)
        init_ring(full_bar, empty_bar, 1, (PINGPONG ? 1 : CONSUMERS) * 4 * CLUSTER);
    if (threadIdx.x == 128) {
        prefetch_map(&map_a);
        prefetch_map(&map_b);
        if (ROW_SCALES) prefetch_map(&map_scale);
#if SCALES == 5
        prefetch_map(&map_columns);
#endif
        prefetch_map(&map_c);
    }
    follow_launch();
#if GROUPS
    if (threadIdx.x < 32) scan_groups(table, groups, m);
#endif
    sync_cluster_or_cta();

    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        if (threadIdx.x == 0) {
            int stage = 0;
            u32 phase = 1;
            for (int index = blockIdx.x / CLUSTER; index < tiles.count();
                 index += gridDim.x / CLUSTER) {
                const Tile tile = tiles.place(index, rank);
                for (int step = 0; step < steps; step++) {
                    const u32 bar = full_bar + stage * 8;
                    barrier_wait(empty_bar + stage * 8, phase);
                    barrier_expect(bar, A_BYTES + B_BYTES + SCALE_BYTES);
                    load_cluster_tile<BLOCK_M, SHARE_A>(a_ring + stage * A_BYTES, &map_a, bar,
                                                        step * BLOCK_K, tile.top, rank);
                    load_cluster_tile<BLOCK_N, !SHARE_A>(b_ring + stage * B_BYTES, &map_b, bar,
                                                         step * BLOCK_K, tile.b_top, rank);
#pragma unroll
                    for (int part = 0; part < SCALE_PARTS; part++)
                        load_tile(scale_ring + stage * SCALE_PITCH + part * SCALE_ROWS * 4,
                                  &map_scale, bar, tile.scale_x + part * SCALE_ROWS,
                                  tile.scale_y + step);
#if SCALES == 5
                    load_tile(scale_ring + stage * SCALE_PITCH + BLOCK_M * 4, &map_columns, bar,
                              tile.left, step);
#endif
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        const int consumer = group - 1, thread = threadIdx.x % 128;
        const int lane = thread % 32, warp = thread / 32;
        const int offset = PINGPONG ? 0 : consumer * ROWS;  // of this warpgroup's rows in a tile
#if SCALES >= 2
        const int first_row = offset + warp * 16 + lane / 4;
#endif
        const u64 a_first = descriptor(a_ring + offset * ROW_BYTES), b_first = descriptor(b_ring);
        int stage = 0, sequence = 0, store_turn = 0;
        u32 phase = 0;
        // Of the tile's rows from the first_tile-th 64 on.
        auto multiply = [&](Accumulator(&d)[HELD_TILES][HALF], int first_tile, bool first) {
            const u64 a = a_first + stage * (A_BYTES >> 4);
            const u64 b = b_first + stage * (B_BYTES >> 4);
#pragma unroll
            for (int t = 0; t < HELD_TILES; t++) pin(d[t]);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < HELD_TILES; t++)
#pragma unroll
                for (int s = 0; s < 4; s++)
                    wgmma(d[t], a + (first_tile + t) * (64 * ROW_BYTES >> 4) + s * 2, b + s * 2,
                          !first || s > 0);
            wgmma_commit();
        };
#if PINGPONG
        if (consumer == 1) turn_pass(0);
#endif
#if CHAINED
        // Of the product on its way, also from a tile to the next.
        Accumulator product[1][HALF];
        int oldest = 0;  // the stage whose products are promoted next
        // Waits until a product can be started: the first of a stage needs its tiles.
        auto await_tiles = [&](int t, bool there) {
            if (t == 0 && there) barrier_wait(full_bar + stage * 8, phase);
        };
        // Starts the product of the t-th 64 rows.  It stands under no condition, because the
        // compiler would then wait for every instruction of it: where there is none left, what lies
        // in the stage is multiplied and nobody looks at it.
        auto start = [&](int t, bool there) {
            if (there) turn_wait(consumer);
            multiply(product, t, true);
            if (there) turn_pass(1 - consumer);
            if (t == TILES_M - 1 && there && ++stage == STAGES) stage = 0, phase ^= 1;
        };
        const bool any = (int)(blockIdx.x / CLUSTER) < tiles.count();
        if (any && consumer == 1) turn_pass(0);
        await_tiles(0, any);
        start(0, any);
#endif
        for (int index = blockIdx.x / CLUSTER; index < tiles.count();
             index += gridDim.x / CLUSTER, sequence++) {
            if (PINGPONG) {
                if (sequence % 2 != consumer) continue;
                const u32 position = (u32)sequence * steps;
                stage = position % STAGES, phase = position / STAGES & 1;
            }
            const Tile tile = tiles.place(index, rank);
            const int top = tile.top, left = tile.left;
#if !CHAINED
            Accumulator product[TILES_M][HALF];
#endif
#if SCALES == 2
            // Asked for before the products, so that the epilogue need not wait for them.
            float my_columns[(BLOCK_N + 127) / 128], row_factor[TILES_M][2];
#pragma unroll
            for (int i = 0; i < (BLOCK_N + 127) / 128; i++) {
                const int x = left + i * 128 + thread;
                my_columns[i] = x < n ? __ldg(b_scale + (i64)tile.group * n + x) : 0.0f;
            }
#pragma unroll
            for (int t = 0; t < TILES_M; t++)
#pragma unroll
                for (int h = 0; h < 2; h++)
                    row_factor[t][h] =
                        __ldg(a_scale + min(top + first_row + t * 64 + h * 8, m - 1));
#elif SCALES == 1
            const float one_factor = __ldg(a_scale) * __ldg(b_scale);
#endif
#if CHAINED
            float sum[TILES_M][HALF];
#pragma unroll
            for (int t = 0; t < TILES_M; t++)
#pragma unroll
                for (int i = 0; i < HALF; i++) sum[t][i] = 0.0f;
            const bool more = index + (int)(gridDim.x / CLUSTER) < tiles.count();
#if SCALES != 5
            BlockScales scales(a_scale, b_scale, min(top + offset, m - 1), left, tile.group, n, steps,
                               lane);
#endif
            const int scale_row = first_row + tile.scale_shift;
            // Gives a stage back behind the last 64 rows: every lane has read its scales before one
            // arrives for the warp.
            auto give_back = [&](int next) {
                if (next > 0) return;
                if (ROW_SCALES) __syncwarp();
                release_stage(empty_bar, oldest, lane);
                oldest = stage_after(oldest);
            };
            for (int step = 0; step < steps; step++) {
#if SCALES != 5
                float common[SPANNED];
                scales.take(step, lane, common);
#endif
#pragma unroll
                for (int t = 0; t < TILES_M; t++) {
                    const u32 stage_scales = scale_ring + oldest * SCALE_PITCH;
                    const u32 row = stage_scales + (scale_row + t * 64) * 4;
#if SCALES == 5
                    const u32 column = stage_scales + (BLOCK_M + lane % 4 * 2) * 4;
                    const float2 of_rows = {load_shared(row), load_shared(row + 32)};
                    float early[EARLY_GROUPS][4];
                    make_early(early, of_rows, column);
#else
                    float factor[SPANNED][2];
#pragma unroll
                    for (int h = 0; h < 2; h++) {
                        const float of_row = SCALES == 3 ? load_shared(row + h * 32) : 1.0f;
#pragma unroll
                        for (int s = 0; s < SPANNED; s++)
                            factor[s][h] = SCALES == 3 ? of_row * common[s] : common[s];
                    }
#endif
                    const int next = (t + 1) % TILES_M;
                    const bool there = next > 0 || more || step + 1 < steps;
                    await_tiles(next, there);
                    wgmma_wait<0>();
                    pin(product[0]);
#if SCALES == 5
                    add_product(sum[t], product[0], early, of_rows, column);
                    start(next, there);
                    give_back(next);
#else
                    give_back(next);
                    add_product(sum[t], product[0], factor, left % QUANT);
                    start(next, there);
#endif
                }
            }
#elif PROMOTED
            Accumulator other[TILES_M][HALF];  // products take turns in two sets
            float sum[TILES_M][HALF];
#pragma unroll
            for (int t = 0; t < TILES_M; t++)
#pragma unroll
                for (int i = 0; i < HALF; i++) sum[t][i] = 0.0f;
            // A cluster's last tile may lie beyond M or N: its scales are those of the last block.
            const i64 b_block = (i64)tile.group * ((n + QUANT - 1) / QUANT) + min(left, n - 1) / QUANT;
            const float *b_next = b_scale + b_block * steps;
            const int a_block = min(top + offset, m - 1) / QUANT;
            const float *a_next = SCALES == 4 ? a_scale + (i64)a_block * steps : b_next;
            const int scale_row = first_row + tile.scale_shift;
            float factor[2][TILES_M][2];
            // Starts the product of the next step in one of the two sets of accumulators.
            auto start = [&](Accumulator(&d)[TILES_M][HALF], float(&f)[TILES_M][2]) {
                barrier_wait(full_bar + stage * 8, phase);
                multiply(d, 0, true);
                const float common = SCALES == 4 ? __ldg(a_next++) * __ldg(b_next++)
                                                 : __ldg(b_next++);
#pragma unroll
                for (int t = 0; t < TILES_M; t++)
#pragma unroll
                    for (int h = 0; h < 2; h++)
                        f[t][h] = SCALES == 3 ? load_shared(scale_ring + stage * SCALE_PITCH +
                                                            (scale_row + t * 64 + h * 8) * 4) *
                                                    common
                                              : common;
                if (++stage == STAGES) stage = 0, phase ^= 1;
            };
            // Adds a product that is done, while the next one runs on the tensor cores.
            int oldest = stage;  // its product is promoted next
            auto promote = [&](Accumulator(&d)[TILES_M][HALF], const float(&f)[TILES_M][2]) {
#pragma unroll
                for (int t = 0; t < TILES_M; t++) pin(d[t]);
                // Every lane has read its scales before one arrives for the warp.
                if (SCALES == 3) __syncwarp();
                release_stage(empty_bar, oldest, lane);
                oldest = stage_after(oldest);
#pragma unroll
                for (int t = 0; t < TILES_M; t++)
#pragma unroll
                    for (int i = 0; i < HALF; i++) sum[t][i] += f[t][i / 2 % 2] * (float)d[t][i];
            };
            // No start stands under a condition inside the loop: the compiler would then wait for
            // every instruction of a product.
            start(product, factor[0]);
            int started = 1;
            for (; started + 1 < steps; started += 2) {
                start(other, factor[1]);
                wgmma_wait<1>();
                promote(product, factor[0]);
                start(product, factor[0]);
                wgmma_wait<1>();
                promote(other, factor[1]);
            }
            if (started < steps) {
                start(other, factor[1]);
                wgmma_wait<1>();
                promote(product, factor[0]);
                wgmma_wait<0>();
                promote(other, factor[1]);
            } else {
                wgmma_wait<0>();
                promote(product, factor[0]);
            }
#else
#if PINGPONG
            turn_wait(consumer);
#endif
            for (int step = 0; step < steps; step++) {
                barrier_wait(full_bar + stage * 8, phase);
                multiply(product, 0, step == 0);
#pragma unroll
                for (int t = 0; t < TILES_M; t++) pin(product[t]);
                wgmma_wait<1>();
                if (step > 0) release_stage(empty_bar, stage_before(stage), lane);
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
#if PINGPONG
            turn_pass(1 - consumer);
#endif
            wgmma_wait<0>();
            release_stage(empty_bar, stage_before(stage), lane);
#pragma unroll
            for (int t = 0; t < TILES_M; t++) pin(product[t]);
#endif
#if SCALES == 2
            consumer_sync(consumer);  // the last tile's columns have been read
#pragma unroll
            for (int i = 0; i < (BLOCK_N + 127) / 128; i++)
                if (i * 128 + thread < BLOCK_N) columns[consumer][i * 128 + thread] = my_columns[i];
#endif
#pragma unroll
            for (int t = 0; t < TILES_M; t++) {
#pragma unroll
                for (int chunk = 0; chunk < STORES; chunk++) {
                    // The last one begins earlier where it would reach beyond the tile: columns that
                    // two have are stored twice alike.
                    const int from = min(chunk * STORE_COLUMNS, BLOCK_N - STORE_COLUMNS);
                    const u32 buffer =
                        store_ring + (consumer * STORE_BUFFERS + store_turn) * STORE_BYTES;
                    store_turn = (store_turn + 1) % STORE_BUFFERS;
                    const int x = left + from;
                    await_buffer(consumer, thread);
#pragma unroll
                    for (int part = 0; part < STORE_COLUMNS / 16; part++) {
                        float v[8];
#pragma unroll
                        for (int e = 0; e < 8; e++) {
                            const int i = from / 2 + part * 8 + e;
#if PROMOTED
                            v[e] = sum[t][i];
#else
                            v[e] = (float)product[t][i];
#endif
#if SCALES == 1
                            v[e] *= one_factor;
#elif SCALES == 2
                            const int column = from + part * 16 + e / 4 * 8;
                            const float2 pair =
                                *(const float2 *)&columns[consumer][column + lane % 4 * 2];
                            v[e] *= row_factor[t][e / 2 % 2];
                            v[e] *= e % 2 ? pair.y : pair.x;
#endif
                        }
                        stage_columns(buffer, warp, lane, part, v);
                    }
                    publish_buffer(consumer);
                    const int y = top + offset + t * 64;
                    const bool full_tile = !GROUPS || y + 64 <= tile.end;
#if GROUPS
                    if (!full_tile) store_rows(groups, buffer, thread, x, y, tile.end - y, n);
#endif
                    if (thread == 0) {
                        if (full_tile && x < n && y < tile.end) store_tile(&map_c, buffer, x, y);
                        commit_buffer();
                    }
                }
            }
        }
#if PINGPONG
        if (sequence % 2 == consumer) turn_wait(consumer);  // takes the turn that nobody used
#endif
#if CHAINED
        wgmma_wait<0>();  // of the product that nobody looks at
        if (any && consumer == 0) turn_wait(0);  // takes the turn that nobody used
#endif
        if (thread == 0) await_stores();
    }
    if (CLUSTER > 1) cluster_sync();  // until then a neighbour may arrive at this CTA's barriers
}
