// C[M, N] = X[M, K] . W[N, K]^T on Hopper (sm_90a): 16-bit activations, packed weights of 4 or 8
// bits, many rows of X.
//
// Weights are the 64 rows of wgmma's first operand, which lies in registers, and BLOCK_M rows of X
// its columns, in shared memory: C^T = W . X^T.  Decoded weights exist in registers alone, each
// fragment meets BLOCK_M rows of X, and shared memory is read for X only.
//
// One thread of the first warpgroup keeps a ring of STAGES stages filled, 64 columns of X each
// (128-byte swizzle).  With the first one of a panel comes the panel of BLOCK_N rows of weights
// (weight_panels.cuh), to a ring of its own without barriers: it has so many places that the one
// that is next was given up with the stage.  Two more warpgroups have BLOCK_N / 2 rows of weights
// each.  A warpgroup's products come in units of 64 rows by 64 columns of weights, or 32 columns,
// and it has the registers of two: while the tensor cores work on one, it decodes the next one, also
// from a panel and from a tile to the next.
// Weights are multiplied by the scale of their group, rounded to the activations' type, and the
// product is rounded to it; scales of rows multiply the sums at the end.
//
// The launch is persistent: each CTA, or cluster of CLUSTER CTAs that are neighbours along N and
// share each tile of X by multicast, walks over the tiles in rasters of GROUP_M rows of tiles.
//
// Rows of weights beyond N are not read, and whatever stands in their place is never stored.
// Columns beyond K meet activations of zero.
//
// Macros from the launcher: ELEMENT (0 bf16, 1 fp16), OUT (0 bf16, 1 fp16, 2 fp32), WEIGHT, SCALE
// (see weight_codes.cuh), GROUP (columns under one scale, 0: none), BLOCK_M (rows of X), BLOCK_N
// (rows of W), STAGES (from 2), CLUSTER, GROUP_M, STORE_BUFFERS.

#define ROW_BYTES 128  // of a stage's rows of X and of a staging buffer's: the width of the swizzle
#define WGMMA_N BLOCK_M
#include "hopper.cuh"
#include "hopper_mma.cuh"
#include "hopper_wgmma.cuh"

#define CONSUMERS 2
#define THREADS (128 * (CONSUMERS + 1))
#define CONSUMER_BARRIER 1             // the named barrier of the first consumer
#define ROWS (BLOCK_N / CONSUMERS)     // of weights, of a warpgroup
#define TILES_N (ROWS / 64)            // wgmma is 64 rows high
#define X_BYTES (BLOCK_M * ROW_BYTES)  // of 64 columns
#define STORE_BYTES (64 * ROW_BYTES)   // 64 rows of C by 64 columns
// Registers of the producer and of a consumer thread: 128 * 40 + 256 * 232 = 64 512 of 65 536.
#define PRODUCER_REGISTERS 40
#define CONSUMER_REGISTERS 232

#include "hopper_ring.cuh"
#include "hopper_staging.cuh"
#include "weight_codes.cuh"
#include "weight_panels.cuh"

// Places for panels.  Stage s of all has been given up when stage s + STAGES is filled: with HALVES
// of 2 the panel that ends with it gave place to one that begins no earlier.
#define PANELS (HALVES == 1 ? STAGES : STAGES / 2 + 1)
// An even number of units a panel, so that one always has the same registers.
#define PARTS (HALVES * TILES_N == 1 ? 2 : 1)  // of 64 columns
#define UNITS (HALVES * TILES_N * PARTS)
#define STEPS (4 / PARTS)  // of 16 columns, of a unit
#define STORES ((BLOCK_M + 63) / 64)

#if BLOCK_N % 128 || TILES_N * BLOCK_M > 256
#error "BLOCK_N is 128 rows, or 256 of at most 128 rows of X"
#endif

// A panel of a tile in shared memory.
struct Panel {
    u32 w, scale, zero;
};

// Where a tile lies: its first row and column of C.
struct Tile {
    int top, left;
};

__device__ __forceinline__ Tile place(int index, int rows, int columns, u32 rank) {
    const int raster = index / (GROUP_M * columns), inside = index % (GROUP_M * columns);
    const int height = min(rows - raster * GROUP_M, GROUP_M);
    return {(raster * GROUP_M + inside % height) * BLOCK_M,
            (inside / height * CLUSTER + (int)rank) * BLOCK_N};
}

// A stored scale twice, in the activations' type.
__device__ __forceinline__ u32 load_factor(u32 address) {
#if SCALE == 3 && ELEMENT == 0 || SCALE == 2 && ELEMENT == 1
    return load_shared_u16(address) * 0x10001u;
#else
    const float factor = load_scale(address);
    return ELEMENT == 1 ? pack_fp16(factor, factor) : pack_bf16(factor, factor);
#endif
}

// Decodes a unit of a panel to a thread's part of wgmma's first operand.
//
// row: of the tile, the unit's first one for this lane; half, part: which columns of the panel.
__device__ __forceinline__ void decode_unit(const Panel &from, int row, int lane, int half, int part,
                                            u32 (&a)[STEPS][4]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int at = row + r * 8;
        const uint4 four = load_shared4(from.w + at * PANEL_BYTES + lane % 4 * 16);
        u32 factor = 0, less = 0;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int step = part * STEPS + s, column = half * 64 + step * 16;
            const int place = PER_PANEL > 1 ? PLACE(column) : 0;
            if (s == 0 || PER_PANEL > 1 && column % (PANEL / PER_PANEL) == 0) {
                if (GROUP) factor = load_factor(from.scale + (at * PER_PANEL + place) * SCALE_ITEM);
                less = load_less(from.zero, at * PER_PANEL + place);
            }
            const u32 word = step == 0 ? four.x : step == 1 ? four.y : step == 2 ? four.z : four.w;
            decode_word(word, half, less, a[s][r], a[s][r + 2]);
            if (GROUP) {
                a[s][r] = fma_pair(a[s][r], factor, SIGN_BITS);
                a[s][r + 2] = fma_pair(a[s][r + 2], factor, SIGN_BITS);
            }
        }
    }
}

#if OUT != 2
// Writes 16 rows of C by 16 columns, a warp's, as wgmma leaves them turned, into a staging buffer.
//
// row: of the buffer; v: two rows 2l, 2l+1 of column r, the same of column r + 8, then 8 rows on.
__device__ __forceinline__ void stage_turned(u32 buffer, int warp, int lane, int row,
                                             const float *v, const float (&factor)[2]) {
    const int r = row + lane / 16 * 8 + lane % 8, piece = warp * 2 + lane / 8 % 2;
    const u32 words[4] = {
        pack(v[0] * factor[0], v[1] * factor[0]), pack(v[2] * factor[1], v[3] * factor[1]),
        pack(v[4] * factor[0], v[5] * factor[0]), pack(v[6] * factor[1], v[7] * factor[1])};
    store_turned(buffer + r * ROW_BYTES + ((piece ^ r % 8) * 16), words);
}
#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_SHAPE
gemm_hopper_weight_prefill(const __grid_constant__ TensorMap map_x,
                           const __grid_constant__ TensorMap map_c, const u8 *codes,
                           const u8 *scale, const u8 *zero, const float *row_scale, float *c,
                           i64 c_pitch, int m, int n, int panels) {
    extern __shared__ __align__(1024) u8 memory[];
    const u32 x_ring = shared_address(memory), store_ring = x_ring + STAGES * X_BYTES;
    const u32 w_ring = store_ring + (OUT == 2 ? 0 : CONSUMERS * STORE_BUFFERS * STORE_BYTES);
    const u32 scale_ring = w_ring + PANELS * W_BYTES;
    const u32 zero_ring = scale_ring + PANELS * SCALE_SLOT;
    const u32 full_bar = zero_ring + PANELS * ZERO_SLOT, empty_bar = full_bar + STAGES * 8;
    const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
    const int rows = (m + BLOCK_M - 1) / BLOCK_M;
    const int columns = ((n + BLOCK_N - 1) / BLOCK_N + CLUSTER - 1) / CLUSTER;
    const int tiles = rows * columns, first_tile = blockIdx.x / CLUSTER;
    const int more_tiles = gridDim.x / CLUSTER;
    const auto panel_at = [&](int place) {
        return Panel{w_ring + place * W_BYTES, scale_ring + place * SCALE_SLOT,
                     zero_ring + place * ZERO_SLOT};
    };

    if (threadIdx.x == 0) init_ring(full_bar, empty_bar, 1, CONSUMERS * 4 * CLUSTER);
    if (threadIdx.x == 128) {
        prefetch_map(&map_x);
        prefetch_map(&map_c);
    }
    follow_launch();
    sync_cluster_or_cta();

    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        if (threadIdx.x < 32 && elected()) {
            int stage = 0, place_of_panel = 0;
            u32 phase = 1;
            for (int index = first_tile; index < tiles; index += more_tiles) {
                const Tile tile = place(index, rows, columns, rank);
                const int height = max(0, min(BLOCK_N, n - tile.left));
                i64 row = tile.left;
                for (int panel = 0; panel < panels; panel++, row += n) {
                    const Panel to = panel_at(place_of_panel);
#pragma unroll
                    for (int half = 0; half < HALVES; half++) {
                        const u32 bar = full_bar + stage * 8, x = x_ring + stage * X_BYTES;
                        const int part = rank * (BLOCK_M / CLUSTER), k = panel * PANEL + half * 64;
                        barrier_wait(empty_bar + stage * 8, phase);
                        barrier_expect(bar, X_BYTES + (half == 0 ? height * PANEL_ROW_BYTES : 0));
                        if (half == 0 && height > 0)
                            load_panel(to.w, to.scale, to.zero, bar, codes, scale, zero, row,
                                       height, tile.left, panel, n);
                        if (CLUSTER > 1)
                            load_tile_everywhere(x + part * ROW_BYTES, &map_x, bar, k,
                                                 tile.top + part);
                        else
                            load_tile(x, &map_x, bar, k, tile.top);
                        if (++stage == STAGES) stage = 0, phase ^= 1;
                    }
                    if (++place_of_panel == PANELS) place_of_panel = 0;
                }
            }
        }
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        const int consumer = group - 1, thread = threadIdx.x % 128;
        const int lane = thread % 32, warp = thread / 32;
        const int first_row = consumer * ROWS + warp * 16 + lane / 4;  // of this lane, in a tile
        const u64 x_first = descriptor(x_ring);
        int stage = 0, place_of_panel = 0;
        u32 phase = 0;
#if OUT != 2
        int store_turn = 0;
#endif
        u32 a[2][STEPS][4];  // of a unit that is multiplied and of the next one
        if (first_tile < tiles) barrier_wait(full_bar, 0);
        decode_unit(panel_at(0), first_row, lane, 0, 0, a[0]);
        for (int index = first_tile; index < tiles; index += more_tiles) {
            const Tile tile = place(index, rows, columns, rank);
            float factor[TILES_N][2];
#pragma unroll
            for (int i = 0; i < TILES_N * 2; i++)
                factor[i / 2][i % 2] =
                    __ldg(row_scale + min(tile.left + first_row + i / 2 * 64 + i % 2 * 8, n - 1));
            Accumulator sum[TILES_N][HALF];
            for (int panel = 0; panel < panels; panel++) {
                const int next = place_of_panel + 1 == PANELS ? 0 : place_of_panel + 1;
#pragma unroll
                for (int u = 0; u < UNITS; u++) {
                    const int half = u / PARTS / TILES_N, t = u / PARTS % TILES_N, part = u % PARTS;
#pragma unroll
                    for (int i = 0; i < TILES_N; i++) pin(sum[i]);
                    const bool fresh = u % (UNITS / HALVES) == 0;  // begins with a stage
                    // The first stage of a panel was waited for when its weights were decoded.
                    if (fresh && half > 0) barrier_wait(full_bar + stage * 8, phase);
                    const u64 x = x_first + stage * (X_BYTES >> 4);
                    wgmma_fence();
#pragma unroll
                    for (int s = 0; s < STEPS; s++)
                        wgmma_rows(sum[t], a[u % 2][s], x + (part * STEPS + s) * 2,
                                   panel > 0 || half > 0 || part > 0 || s > 0);
                    wgmma_commit();
#pragma unroll
                    for (int i = 0; i < TILES_N; i++) pin(sum[i]);
                    wgmma_wait<1>();
                    const int then = (u + 1) % UNITS;
                    if (fresh && (half > 0 || panel > 0)) {
                        __syncwarp();
                        release_stage(empty_bar, stage_before(stage), lane);
                    }
                    if (then % (UNITS / HALVES) == 0) {
                        stage = stage_after(stage);
                        if (stage == 0) phase ^= 1;
                    }
                    // Decoding stands under no condition: behind the last panel of all it takes
                    // whatever stands in the next place, and nobody looks at it.
                    if (then == 0 && (panel + 1 < panels || index + more_tiles < tiles))
                        barrier_wait(full_bar + stage * 8, phase);
                    decode_unit(panel_at(then == 0 ? next : place_of_panel),
                                first_row + then / PARTS % TILES_N * 64, lane,
                                then / PARTS / TILES_N, then % PARTS, a[then % 2]);
                }
                place_of_panel = next;
            }
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < TILES_N; i++) pin(sum[i]);
            __syncwarp();
            release_stage(empty_bar, stage_before(stage), lane);
#pragma unroll
            for (int t = 0; t < TILES_N; t++) {
                const int x = tile.left + consumer * ROWS + t * 64;
#if OUT == 2
#pragma unroll
                for (int i = 0; i < HALF; i++) {
                    const int y = tile.top + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    const int at = x + warp * 16 + i / 2 % 2 * 8 + lane / 4;
                    if (y < m && at < n)
                        *(float *)((u8 *)c + y * c_pitch + (i64)at * 4) =
                            sum[t][i] * factor[t][i / 2 % 2];
                }
#else
#pragma unroll
                for (int store = 0; store < STORES; store++) {
                    // The last one begins earlier where it would reach beyond the tile: rows that
                    // two have are stored twice alike.
                    const int from = min(store * 64, BLOCK_M - 64);
                    const u32 buffer =
                        store_ring + (consumer * STORE_BUFFERS + store_turn) * STORE_BYTES;
                    store_turn = (store_turn + 1) % STORE_BUFFERS;
                    await_buffer(consumer, thread);
#pragma unroll
                    for (int sixteen = 0; sixteen < 4; sixteen++)
                        stage_turned(buffer, warp, lane, sixteen * 16,
                                     &sum[t][from / 2 + sixteen * 8], factor[t]);
                    publish_buffer(consumer);
                    if (thread == 0) {
                        if (x < n && tile.top + from < m) store_tile(&map_c, buffer, x, tile.top + from);
                        commit_buffer();
                    }
                }
#endif
            }
        }
        if (OUT != 2 && thread == 0) await_stores();
    }
    if (CLUSTER > 1) cluster_sync();  // until then a neighbour may arrive at this CTA's barriers
}
