// C[M, N] = A[M, K] . B[N, K]^T on Hopper (sm_90a) for few rows of A or few tiles of C.
//
// wgmma is 64 rows high and as narrow as 8 columns, so B's rows are its rows and A's its columns:
// C^T = B . A^T.  One row of A then costs no more than 8, and 64 rows of B are a tile.
//
// A CTA has one tile of C: one warp keeps a ring of STAGES tiles of A and B filled (128 bytes of K
// each, 128-byte swizzle), and each of BLOCK_N / 64 warpgroups multiplies 64 rows of B.  "full"
// barriers count the bytes that the copy engine has brought, "empty" barriers the warps that are done
// with a stage.  The first copies are asked for before the CTA has met.  Where tiles are small several
// CTAs share a multiprocessor: together they keep as many bytes under way as the memory's latency asks
// for, and one multiplies while another starts or ends.
//
// The CTAs of a cluster share a tile: each takes its part of the steps along K, neighbouring ones
// or (INTERLEAVED) every CLUSTER-th.  They then read each other's sums through distributed shared
// memory and add them in the order of their ranks: one launch, no workspace, the same bits always.
//
// Sums are staged transposed in the ring's place, and leave it row by row: 4 columns of C a thread.
//
// SCALES 3 and 4 change along K: every 128 of K a product is scaled and added to an fp32 sum on the
// CUDA cores ("promoted").  SCALES 5 are MX: every 32 of K, on both sides.  A step is then four units
// of one wgmma, or two for many rows of A; three small ones or one wide one are under way while one is
// promoted, from step to step.  The warp that loads brings the scales too (hopper_mx_scales.cuh): with
// the stages full of tiles that are on their way it writes their scales, then asks for the tile of a
// stage that has been multiplied and writes that tile's scales, so that both are as many steps ahead.
// The first tiles are asked for by a warp that has none to multiply yet, beside the first scales.
// (Scales written one step before they are read make each step as long as a consumer's and that warp's
// together: a step's products are issued while those of the step before are promoted.)
//
// Instructions of a consumer warp for a step of 128 of K and 64 rows of B with MX scales, as compiled:
//   BLOCK_M   8   16   32   48   64   96  128
//            93  122  195  262  333  482  622   of them 4 x BLOCK_M / 2 x (FMUL: row x column, FFMA)
// and of the warp that loads some 55 and 14 for every 32 rows of A or B.  A multiprocessor's share of
// the DRAM brings the 8 KiB of such a step in some 450 clocks: up to 64 rows the memory is the slower
// one.
//
// A NaN scale makes what it touches NaN.  Integer products are exact up to K = 133 144.
//
// Macros from the launcher: ELEMENT (0 bf16, 1 fp16, 2 e4m3fn, 3 e5m2, 4 int8), OUT (0 bf16,
// 1 fp16, 2 fp32), SCALES (0 none, 1 one each, 2 rows of A x rows of B, 3 A 1x128 and B 128x128,
// 4 both 128x128, 5 both 1x32 in E8M0), BLOCK_M (rows of A), BLOCK_N (rows of B), STAGES, CLUSTER, INTERLEAVED.

// With MX scales many rows are multiplied in parts: a thread has not the registers for two products of
// all.
#define WGMMA_N (SCALES == 5 && BLOCK_M > 64 ? (BLOCK_N > 64 ? 32 : BLOCK_M / 2) : BLOCK_M)
#include "hopper.cuh"
#include "hopper_wgmma.cuh"

#define CONSUMERS (BLOCK_N / 64 * 128)  // threads that multiply
#define THREADS (CONSUMERS + 32)
#define ROW_BYTES 128  // of a stage's rows: the width of the swizzle
#define BLOCK_K (ELEMENT < 2 ? 64 : 128)
#define A_BYTES (BLOCK_M * ROW_BYTES)
#define B_BYTES (BLOCK_N * ROW_BYTES)
#define MX (SCALES == 5)
#define PROMOTED (SCALES >= 3)
#define SUMS (BLOCK_M / 2)  // of a thread
#define SCALE_BYTES (SCALES == 3 ? BLOCK_M * 4 : 0)
// The copy engine writes to multiples of 128.
#define SCALE_SLOT (MX ? (BLOCK_M + BLOCK_N) * 16 : (SCALE_BYTES + 127) / 128 * 128)
#define RING_BYTES (STAGES * (A_BYTES + B_BYTES + SCALE_SLOT))
// Words from one row of C to the next while it is staged: 4 more than a multiple of 16, so that
// neither the columns that warps write nor the rows that they read meet in a bank.
#define PITCH (BLOCK_N + 4)
#define STAGING_BYTES (BLOCK_M * PITCH * 4)
#define TILES_BYTES (RING_BYTES > STAGING_BYTES ? RING_BYTES : STAGING_BYTES)
#define PART (SCALES == 3 && BLOCK_M == 128 ? 64 : BLOCK_M)  // promoted together: fewer registers
#define QUANT 128  // K under one scale, and rows of B (and of A in mode 4)
#define PIECES (BLOCK_N / 4)  // of 4 columns, in a row of C
#define STAGED 1  // the consumers' named barrier
#define READY 2   // that of the CTA: the ring's barriers can be waited for

#if BLOCK_N % 64
#error "BLOCK_N is a multiple of 64"
#endif
#if MX && (ELEMENT < 2 || BLOCK_M > 128 || BLOCK_N > 192)
#error "MX scales are for 8-bit elements, 128 rows of A and 192 of B at most"
#endif
#if SCALES == 4 && QUANT % BLOCK_M
#error "128x128 scales of A take a BLOCK_M that divides 128"
#endif

#include "hopper_ring.cuh"
#include "hopper_start.cuh"
#if MX
#include "hopper_mx_scales.cuh"
#define PARTS (BLOCK_M / WGMMA_N)
#define PRODUCTS (UNITS * PARTS)  // of a step, a wgmma each
// Accumulators, sums included, that the registers of so many warpgroups have room for, and products
// that have accumulators.
#define ROOM (BLOCK_N <= 128 ? 128 : 96)
#define SLOTS (WGMMA_N <= 32 && SUMS + 4 * HALF <= ROOM ? 4 : 2)
// Products under way while one is promoted, and those across the loop's back edge: the first wait of
// the body is for all of them, else ptxas waits before every use of an accumulator.
#define IN_FLIGHT (SLOTS - 1)
#define CARRIED (IN_FLIGHT > 1 ? IN_FLIGHT - 1 : 1)
// Reads of scales before the wait for their product: with 64 rows a product the others would cost a
// multiprocessor's third CTA.
#define EARLY (WGMMA_N == 64 || BLOCK_M == 128 ? 1 : READS)
#define COLUMNS (BLOCK_M == 8 ? 2 : 4)  // rows of A whose scales a lane reads at once
#define READS (WGMMA_N / 4 / COLUMNS)   // of a product
#endif

// CTAs that a multiprocessor has registers for.
#if MX
typedef u8 Scale;
#define RESIDENT (BLOCK_N > 64 ? 1 : BLOCK_M > 64 ? 2 : 3)
#else
typedef float Scale;
#define RESIDENT 1
#endif

// What is staged and added up across a cluster.
#if PROMOTED
typedef float Sum;
#else
typedef Accumulator Sum;
#endif

__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u32 bits_of(int x) { return (u32)x; }

__device__ __forceinline__ void read_bits(u32 bits, float &x) { x = __uint_as_float(bits); }
__device__ __forceinline__ void read_bits(u32 bits, int &x) { x = (int)bits; }

__device__ __forceinline__ void take(const uint4 &bits, Sum (&x)[4]) {
    read_bits(bits.x, x[0]);
    read_bits(bits.y, x[1]);
    read_bits(bits.z, x[2]);
    read_bits(bits.w, x[3]);
}

// Writes 4 neighbouring columns of C, or the first `count` of them.
__device__ __forceinline__ void store_columns(u8 *to, const float (&v)[4], int count) {
#if OUT == 2
    if (count >= 4) {
        *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (i < count) ((float *)to)[i] = v[i];
#else
#if OUT == 1
    const uint2 packed = make_uint2(pack_fp16(v[0], v[1]), pack_fp16(v[2], v[3]));
#else
    const uint2 packed = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
#endif
    if (count >= 4) {
        *(uint2 *)to = packed;
        return;
    }
#pragma unroll
    for (int i = 0; i < 3; i++)
        if (i < count) ((u16 *)to)[i] = (u16)((i < 2 ? packed.x : packed.y) >> (i % 2 * 16));
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) CLUSTER_SHAPE
gemm_hopper_skinny(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
                   const __grid_constant__ TensorMap map_scale, const Scale *a_scale,
                   const Scale *b_scale, u8 *c, i64 c_pitch, int m, int n, int k) {
    extern __shared__ __align__(1024) u8 memory[];
    const u32 b_ring = shared_address(memory), a_ring = b_ring + STAGES * B_BYTES;
    const u32 full_bar = b_ring + TILES_BYTES, empty_bar = full_bar + STAGES * 8;
#if SCALES == 2
    const u32 row_scales = empty_bar + STAGES * 8, column_scales = row_scales + BLOCK_M * 4;
#elif SCALES == 3 || MX
    const u32 scale_ring = a_ring + STAGES * A_BYTES;
#endif
    const int warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;
    // Tiles that share rows of B are neighbours: they find them in the L2.
    const int tile = blockIdx.x / CLUSTER, tiles_m = (m + BLOCK_M - 1) / BLOCK_M;
    const int row_of_tiles = tiles_m == 1 ? tile : tile / tiles_m;  // mostly without a division
    const int top = (tile - row_of_tiles * tiles_m) * BLOCK_M, left = row_of_tiles * BLOCK_N;
    // The part of K that is this CTA's; none is possible.
    const int steps = (k + BLOCK_K - 1) / BLOCK_K;
    const int begin = steps * (int)rank / CLUSTER;
    const int first = INTERLEAVED ? (int)rank : begin, apart = INTERLEAVED ? CLUSTER : 1;
    const int count = INTERLEAVED ? (steps + CLUSTER - 1 - (int)rank) / CLUSTER
                                  : steps * ((int)rank + 1) / CLUSTER - begin;

    // Asks for a step's tiles.
    auto load = [&](int i, int stage) {
        const int step = first + i * apart;
        const u32 bar = full_bar + stage * 8;
        barrier_expect(bar, A_BYTES + B_BYTES + SCALE_BYTES);
        load_tile(b_ring + stage * B_BYTES, &map_b, bar, step * BLOCK_K, left);
        load_tile(a_ring + stage * A_BYTES, &map_a, bar, step * BLOCK_K, top);
#if SCALES == 3
        load_tile(scale_ring + stage * SCALE_SLOT, &map_scale, bar, top, step);
#endif
    };
#if MX
    ScaleWords scales;
    int early = 0;  // steps of another CTA that are fetched with its first
    auto fetch_ahead = [&](int then) {
        if (then < count)
            scales.fetch_words(scales.ahead, first + then * apart, apart, count - then);
    };
    if (warp == CONSUMERS / 32) {
        scales.begin(a_scale, b_scale, m, n, k, top, left, lane);
        early = scales.early(first);
        follow_launch();
        if (count > 0 && !scales.whole) scales.fetch_bytes(first);
        if (count > 0 && scales.whole) {
            if (GROUP > QUAD) scales.fetch_words(scales.held, first - early, apart, count);
            fetch_ahead((GROUP > QUAD ? GROUP : 0) - early);
        }
    }
    // Meanwhile a warp that multiplies asks for the first tiles.
    if (warp == 0 && elected()) {
        prefetch_map(&map_a);
        prefetch_map(&map_b);
        init_ring(full_bar, empty_bar, 2, CONSUMERS / 32);
        barriers_are_ready();
        follow_launch();
        for (int i = 0; i < min(STAGES, count); i++) load(i, i);
    }
    __syncthreads();
#else
    if (warp == CONSUMERS / 32) {
        if (lane == 0) {
            prefetch_map(&map_a);
            prefetch_map(&map_b);
            init_ring(full_bar, empty_bar, 1, CONSUMERS / 32);
            barriers_are_ready();
        }
        __syncwarp();
        named_arrive(READY, THREADS);  // its copies need not wait until the CTA has met
    } else {
        named_sync(READY, THREADS);
    }
    follow_launch();
#endif

    if (warp == CONSUMERS / 32) {
#if MX
        // A stage that has been multiplied gets its next tile, then that tile's scales.
        int written = 0;
        u32 parity = 1;
        auto claim = [&](int i) {
            if (i < STAGES) return;
            barrier_wait(empty_bar + written * 8, parity);
            if (elected()) load(i, written);
        };
        auto pass_on = [&] {
            __syncwarp();
            if (lane == 0) barrier_arrive(full_bar + written * 8);
            if (++written == STAGES) written = 0, parity ^= 1;
        };
        if (scales.whole) {
            bool taken = GROUP == QUAD;  // the QUADs held but the last
            for (int from = -early; from < count; from += QUAD) {
                if (GROUP == QUAD || from > -early) {
                    scales.turn_over(taken);
                    if (taken) fetch_ahead(from + GROUP);
                    if (GROUP > QUAD) taken = !taken;
                }
#pragma unroll
                for (int turn = 0; turn < QUAD; turn++) {
                    const int i = from + turn;
                    if (i >= count) break;
                    if (i < 0) continue;
                    claim(i);
                    scales.write_words(scale_ring + written * SCALE_SLOT, turn, lane);
                    pass_on();
                }
            }
        } else {
            for (int i = 0; i < count; i++) {
                claim(i);
                scales.write_bytes(scale_ring + written * SCALE_SLOT, lane);
                if (i + 1 < count) scales.fetch_bytes(first + (i + 1) * apart);
                pass_on();
            }
        }
#else
        int stage = 0;
        u32 phase = 1;
        if (lane == 0)
            for (int i = 0; i < count; i++) {
                barrier_wait(empty_bar + stage * 8, phase);
                load(i, stage);
                if (++stage == STAGES) stage = 0, phase ^= 1;
            }
#endif
        __syncwarp();
        if (CLUSTER > 1) {
            cluster_sync_relaxed();
            cluster_sync_relaxed();
        }
        return;
    }

    const int thread = threadIdx.x, group = warp / 4;
#if SCALES == 2
    // Under way while the first tiles are; seen by all after the barrier of the epilogue.
    for (int i = thread; i < BLOCK_M; i += CONSUMERS)
        store_shared(row_scales + i * 4, bits_of(top + i < m ? __ldg(a_scale + top + i) : 0.0f));
    for (int i = thread; i < BLOCK_N; i += CONSUMERS)
        store_shared(column_scales + i * 4,
                     bits_of(left + i < n ? __ldg(b_scale + left + i) : 0.0f));
#elif SCALES == 1
    const float one_factor = __ldg(a_scale) * __ldg(b_scale);
#endif
    const u64 a_first = descriptor(a_ring);
    const u64 b_first = descriptor(b_ring + group * (64 * ROW_BYTES));
    int stage = 0;
    u32 phase = 0;
    auto release = [&](int s) {
        if (lane == 0) barrier_arrive(empty_bar + s * 8);
    };
#if MX
    float sum[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; i++) sum[i] = 0.0f;
    Accumulator product[SLOTS][HALF];
    u64 a_tile = 0, b_tile = 0;
    // Waits until a stage is full: its products can be issued.
    auto await_stage = [&](int s) {
        barrier_wait(full_bar + s * 8, phase);
        a_tile = a_first + s * (A_BYTES >> 4);
        b_tile = b_first + s * (B_BYTES >> 4);
    };
    auto issue = [&](int index) {
        const int unit = index / PARTS, across = index % PARTS * (WGMMA_N * ROW_BYTES >> 4);
        pin(product[index % SLOTS]);
        wgmma_fence();
        wgmma(product[index % SLOTS], b_tile + unit * 2, a_tile + across + unit * 2, 0);
        wgmma_commit();
    };
    if (count > 0) {
        await_stage(0);
#pragma unroll
        for (int index = 0; index < CARRIED; index++) issue(index);
    }
    for (int i = 0; i < count; i++) {
        const bool more = i + 1 < count;
        const int next = stage_after(stage);
        const u32 scales = scale_ring + stage * SCALE_SLOT;
        const u32 row_scales = scales + ROW_SCALES + (warp * 16 + lane / 4) * (UNITS * 4);
        const u32 column_scales = scales + lane % 4 * (COLUMNS * 4);
        float down[UNITS][2];  // the scales of its rows of B
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint4 bits = load_shared4(row_scales + h * (8 * UNITS * 4));
            read_bits(bits.x, down[0][h]), read_bits(bits.y, down[1][h]);
            read_bits(bits.z, down[2][h]), read_bits(bits.w, down[3][h]);
        }
        // Waits for a product, issues the one IN_FLIGHT later, promotes the first.  The last products
        // of all have none that is so much later: they issue the first ones of the last stage once
        // more, which nobody reads.
#pragma unroll
        for (int index = 0; index < PRODUCTS; index++) {
            const int unit = index / PARTS, part = index % PARTS;
            if (index == 0 && IN_FLIGHT > 1) {
                wgmma_wait<0>();
                issue(CARRIED);
            }
            if (index + IN_FLIGHT == PRODUCTS) {
                if (next == 0) phase ^= 1;
                if (more) await_stage(next);
            }
            // The scales of its columns, rows of A.
            float across[WGMMA_N / 4];
            auto fetch_across = [&](int from, int to) {
#pragma unroll
                for (int g = from; g < to; g++) {
                    const u32 at = column_scales + (unit * BLOCK_M + part * WGMMA_N) * 4 +
                                   g * (COLUMNS * 16);
#if COLUMNS == 4
                    const uint4 bits = load_shared4(at);
                    read_bits(bits.x, across[g * 4]), read_bits(bits.y, across[g * 4 + 1]);
                    read_bits(bits.z, across[g * 4 + 2]), read_bits(bits.w, across[g * 4 + 3]);
#else
                    const float2 pair = load_shared2(at);
                    across[0] = pair.x, across[1] = pair.y;
#endif
                }
            };
            fetch_across(0, EARLY);
            if (index > 0 || IN_FLIGHT == 1) wgmma_wait<IN_FLIGHT - 1>();
            if (index < PRODUCTS - 1 || IN_FLIGHT == 1) issue((index + IN_FLIGHT) % PRODUCTS);
            fetch_across(EARLY, READS);
            if (index == PRODUCTS - 1) {
                __syncwarp();  // every lane has read its scales before the first gives them up
                if (more) release(stage);
                stage = next;
            }
            Accumulator(&d)[HALF] = product[index % SLOTS];
            pin(d);
#pragma unroll
            for (int g = 0; g < WGMMA_N / 8; g++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const float factor = multiply_rn(down[unit][e / 2], across[g * 2 + e % 2]);
                    float &to = sum[part * HALF + g * 4 + e];
                    to = fused_rn((float)d[g * 4 + e], factor, to);
                }
        }
    }
    wgmma_wait<0>();
#else
    Accumulator product[HALF];
#pragma unroll
    for (int i = 0; i < HALF; i++) product[i] = 0;
    auto multiply = [&](bool fresh) {
        const u64 a = a_first + stage * (A_BYTES >> 4), b = b_first + stage * (B_BYTES >> 4);
        pin(product);
        wgmma_fence();
#pragma unroll
        for (int s = 0; s < 4; s++) wgmma(product, b + s * 2, a + s * 2, !fresh || s > 0);
        wgmma_commit();
    };
#if PROMOTED
    float sum[HALF];
#pragma unroll
    for (int i = 0; i < HALF; i++) sum[i] = 0.0f;
    // A warpgroup's rows of B lie under one row of scales, in mode 4 the tile's rows of A as well;
    // rows beyond N take the last.  A lane holds the scale of every 32nd step.
    const int block = min(left + group * 64, n - 1) / QUANT;
    const float *of_b = b_scale + (i64)block * steps;
    const float *of_a = SCALES == 4 ? a_scale + (i64)(top / QUANT) * steps : b_scale;
    auto fetch = [&](int i) {
        const int step = first + i * apart;
        if (i >= count) return 0.0f;
        return SCALES == 4 ? __ldg(of_a + step) * __ldg(of_b + step) : __ldg(of_b + step);
    };
    float held = 0.0f, ahead = fetch(lane);
    for (int i = 0; i < count; i++) {
        if (i % 32 == 0) {
            held = ahead;
            ahead = fetch(i + 32 + lane);
        }
        barrier_wait(full_bar + stage * 8, phase);
        multiply(true);
        // While the product runs: its factors.
        const float common = __shfl_sync(0xffffffffu, held, i % 32);
#if SCALES == 3
        float factor[PART / 4];
        auto fetch_factors = [&](int from) {
            const u32 scales = scale_ring + stage * SCALE_SLOT + (from + lane % 4 * 2) * 4;
#pragma unroll
            for (int g = 0; g < PART / 8; g++) {
                const float2 pair = load_shared2(scales + g * 32);
                factor[g * 2] = pair.x * common;
                factor[g * 2 + 1] = pair.y * common;
            }
        };
        fetch_factors(0);
#endif
        wgmma_wait<0>();
        pin(product);
#pragma unroll
        for (int part = 0; part < BLOCK_M / PART; part++) {
#if SCALES == 3
            if (part > 0) fetch_factors(part * PART);
#endif
            if (part == BLOCK_M / PART - 1) {
                __syncwarp();  // every lane has read its scales before the first gives them up
                release(stage);
            }
#pragma unroll
            for (int j = 0; j < PART / 2; j++) {
#if SCALES == 3
                const float scale = factor[j / 4 * 2 + j % 2];
#else
                const float scale = common;
#endif
                sum[part * (PART / 2) + j] += scale * (float)product[part * (PART / 2) + j];
            }
        }
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
#else
    Sum(&sum)[HALF] = product;
    int last = 0;
    for (int i = 0; i < count; i++) {
        barrier_wait(full_bar + stage * 8, phase);
        multiply(false);
        pin(product);
        wgmma_wait<1>();
        if (i > 0) release(last);
        last = stage;
        if (++stage == STAGES) stage = 0, phase ^= 1;
    }
    wgmma_wait<0>();
    pin(product);
#endif
#endif

    // All that was loaded has arrived and been multiplied, by every warp: the ring's place is free.
    named_sync(STAGED, CONSUMERS);
    // wgmma leaves element (row, column) of 64 x BLOCK_M in lane row % 8 * 4 + column % 8 / 2 of
    // warp row / 16.
#pragma unroll
    for (int j = 0; j < SUMS; j++) {
        const int row = j / 4 * 8 + lane % 4 * 2 + j % 2;
        const int column = warp * 16 + j / 2 % 2 * 8 + lane / 4;
        store_shared(b_ring + (row * PITCH + column) * 4, bits_of(sum[j]));
    }
    if (CLUSTER > 1)
        cluster_sync();
    else
        named_sync(STAGED, CONSUMERS);

    const int pieces = min(BLOCK_M, m - top) * PIECES;
    const int to = pieces * ((int)rank + 1) / CLUSTER;
    for (int piece = pieces * (int)rank / CLUSTER + thread; piece < to; piece += CONSUMERS) {
        const int row = piece / PIECES, column = piece % PIECES * 4, x = left + column;
        if (x >= n) continue;
        const u32 from = b_ring + (row * PITCH + column) * 4;
        Sum total[4];
#if CLUSTER > 1
        uint4 part[CLUSTER];
#pragma unroll
        for (int r = 0; r < CLUSTER; r++) part[r] = load_peer4(from, r);
        take(part[0], total);
#pragma unroll
        for (int r = 1; r < CLUSTER; r++) {
            Sum more[4];
            take(part[r], more);
#pragma unroll
            for (int e = 0; e < 4; e++) total[e] += more[e];
        }
#else
        take(load_shared4(from), total);
#endif
        float v[4];
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] = (float)total[e];
#if SCALES == 1
#pragma unroll
        for (int e = 0; e < 4; e++) v[e] *= one_factor;
#elif SCALES == 2
        const float row_scale = load_shared(row_scales + row * 4);
        const float2 pairs[2] = {load_shared2(column_scales + column * 4),
                                 load_shared2(column_scales + column * 4 + 8)};
#pragma unroll
        for (int e = 0; e < 4; e++) {
            v[e] *= row_scale;
            v[e] *= e % 2 ? pairs[e / 2].y : pairs[e / 2].x;
        }
#endif
        store_columns(c + (i64)(top + row) * c_pitch + (i64)x * (OUT == 2 ? 4 : 2), v, n - x);
    }
    __syncwarp();
    if (CLUSTER > 1) cluster_sync_relaxed();  // until then a neighbour may read this CTA's sums
}
