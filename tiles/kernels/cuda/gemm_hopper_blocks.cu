// C[M, N] = A[M, K] . B[N, K]^T of 8-bit elements whose scales change along K, on Hopper (sm_90a).
//
// Structure as in gemm_hopper.cu: one warp keeps a ring of STAGES tiles of A and B filled (128
// bytes of K, 128-byte swizzle), two or four more warpgroups ("consumers") multiply, the launch is
// persistent, clusters share B.  New here: scales on both sides in blocks down to 32 of K, and
// codes with scales as output.
//
// A *unit* is the QUANT_K of K under one scale.  wgmma starts its accumulators from zero, the CUDA
// cores scale them and add them to an fp32 sum (promotion).  With SETS 2 a consumer has two sets of
// accumulators: one is promoted while the tensor cores fill the other.  The loop is then bound by
// the issue slots of the promotion, not by the tensor cores: each of the four schedulers issues one
// warp's instruction a clock, and holds one warp of each consumer.
//
// Instructions of a warp for a stage of 128 of K, 128 x 128 a tile, SETS 2, two consumers, as
// compiled, and with the product in PARTS 2:
//   int8 32x32     4 x 64 x (I2FP.F32.S32 + FFMA)                          512 +  88 =  600   619
//   int8 64x64     2 x 64 x the same                                       256 +  65 =  321   337
//   float 1x32     4 x 64 x (FMUL: row scale x column scale, FFMA)         512
//                  4 x 16 LDS.64 for two columns, 8 LDS for two rows        72 +  70 =  654   688
//     256 x 64     half of those LDS.64, twice the LDS                     560 +  91 =  651   660
//   mxint8 1x32    the same as 1x32 and I2FP                                           918
//   float 128x128  64 x FFMA                                                64 +  61 =  125
//   float 1x128    64 x (FMUL + FFMA), 18 LDS                              146 +  60 =  206
// and with four consumers, whose warps are twice as many:
//   int8 32x32     4 x 32 x (I2FP + FFMA)                                  256 +  77 =  333   355
//   float 1x32     4 x (32 x (FMUL + FFMA) + 8 LDS.64 + 2 LDS)             296 +  68 =  364   389
// The rest is wgmma, waits, addresses, barriers, scales of blocks.  I2FP has half the rate of FFMA,
// 64 of 128 lanes a clock: as often as two issue slots an accumulator ask for it.  A conversion is
// issued five clocks before its FFMA with two other pairs between them, so that no instruction of a
// promotion waits for another; conversions in batches gain nothing.
//
// Besides issue slots there is the latency of wgmma: 64 clocks on the tensor cores (64 x 128 x 32)
// and some 240 more until the warp that waits for it goes on.  With one wgmma group in flight that
// is as long as the promotion by both warps of a scheduler, and not hidden (on an H200 a unit of
// int8 32x32 took 450 to 520 clocks).  PARTS 2 makes a unit's product in two *pieces*, a wgmma
// group each, of half the rows or columns.  SETS x PARTS pieces fit the same registers: three are
// in flight while the fourth is promoted, 1.5 promotions ahead instead of one.  Four consumers put
// two more warps on each scheduler, with half the sums each, which is what their 112 registers
// hold.
//
// With SPREAD the compiler may schedule the promotion's instructions among the waits and wgmmas of
// the next pieces.  Some of these are issued later, but a warp by itself, its instructions' stalls
// counted and no wait for products or loads, takes 724 clocks instead of 881 for a stage of int8
// 32x32 with PARTS 2 (four consumers: 452, 625), and 764 instead of 1117 for float 1x32 (256 x 64:
// 774, 1029).
//
// The bound that follows: a stage of a tile is 2 x 128^3 operations a CTA, 512 clocks of the tensor
// cores, and twice the slots above.  On 132 multiprocessors at 1.75 GHz: int8 32x32 1200 clocks,
// 807 TFLOP/s (946 for I2FP and FFMA alone), int8 64x64 642 and 1509, MX 1308 and 741 (256 x 64
// with 4 loads of scales fewer a unit and twice the wgmmas: 736), MXINT8 1836 and 528, blocks of
// 128 512 and 1892.
//
// RUN > 1: no conversions (int8, scales of blocks).  An int32 accumulator that starts at 0x4b400000
// has the bits of the float 1.5 2^23 + sum, as long as sums stay within 2^22: for RUN units of
// QUANT_K x RUN <= 256, codes of -128 included.  A set's accumulators run on over that many of its
// units, and the sum takes differences of its neighbouring scales (summation by parts):
//
//   s_0 x_0 + s_1 x_1 + ... = (s_0 - s_1) X_0 + (s_1 - s_2) X_1 + ...,   X_j = x_0 + ... + x_j,
//
// one FFMA an accumulator and unit.  The differences add up to s_0, so the bias that they bring is
// 1.5 2^23 s_0, taken off by an FFMA at the start, one for the runs of all sets; and a start is a
// move.  A warp that otherwise copies scales makes the differences of all pairs of blocks (see
// hopper_block_factors.cuh); consumers load four at a time.  The loop's body is RUN x SETS units.
// Instructions of a warp for a stage of 128 of K, 128 x 128 a tile, two consumers, PARTS 2, of
// them 256 x (1 + 1 / RUN + 1 / (RUN x SETS)) beside the rest:
//   RUN 8, SETS 2    304 + 96 = 400        RUN 4, SETS 2    352 + 97 = 449
//   RUN 8, SETS 1    320 + 85 = 405        RUN 4, SETS 1    384 + 97 = 481
// where RUN 1 has 611; the warp that makes the differences has 105, beside one scheduler's consumers.
// In a stage, pieces go on as without runs: at its begin the wait is for all that are in flight.
//
// Errors: integer products are exact, 128 x 127^2 < 2^24 as floats too.  A unit adds two roundings
// in fp32, of the two scales' product (none for powers of two) and of the multiply-add.  With RUN
// the addends have the bias: one more error of at most 5.5 code products x scales a unit, 1.6 in the
// root mean square (tiles/kernels/accuracy_of_runs.py), where scales' products stay below 2^100.
// Blocks of zeros, whose scale is 1 by convention, count as blocks of scale 0.  A NaN scale makes
// what it touches NaN.
//
// Macros from the launcher: ELEMENT (2 e4m3fn, 3 e5m2, 4 int8), UNIT_LOG2 (what a code product of 1
// stands for: -12 for MXINT8, else 0), OUT (0 bf16, 1 fp16, 2 fp32, 3 int8, 4 e4m3fn), OUT_BLOCK
// (side of an output block, for codes), STOCHASTIC, A_ROWS and B_ROWS (under one scale: both 1, or
// both 32, 64 or 128), QUANT_K (32, 64, 128), BLOCK_M, BLOCK_N, STAGES, CLUSTER, GROUP_M,
// STORE_BUFFERS, CONSUMERS (2 or 4), SETS (1 or 2), PARTS (1 or 2), SPREAD (0 or 1), RUN (1: sums of
// integers are converted; or units that accumulators run on).

#define THREADS (128 * (CONSUMERS + 1))
#define ROW_BYTES 128  // of a stage's rows: the width of the swizzle
#define BLOCK_K ROW_BYTES

// A consumer's part of a tile: the tile is split along M down to 64 rows, then along N.
#define CONSUMERS_M (BLOCK_M / 64 < CONSUMERS ? BLOCK_M / 64 : CONSUMERS)
#define CONSUMERS_N (CONSUMERS / CONSUMERS_M)
#define ROWS (BLOCK_M / CONSUMERS_M)
#define COLUMNS (BLOCK_N / CONSUMERS_N)
#define TILES_M (ROWS / 64)  // wgmma is 64 rows high
#define SUMS (COLUMNS / 2)   // of a thread for 64 rows

// A piece of a unit's product: split along M down to 64 rows, then along N.
#define PIECE_TILES (TILES_M > PARTS ? TILES_M / PARTS : 1)
#define PIECES_N (PARTS * PIECE_TILES / TILES_M)
#define WGMMA_N (COLUMNS / PIECES_N)

#include "hopper.cuh"
#include "hopper_wgmma.cuh"

#define A_BYTES (BLOCK_M * ROW_BYTES)
#define B_BYTES (BLOCK_N * ROW_BYTES)
#define UNITS (BLOCK_K / QUANT_K)  // of a stage
#define PIECES (UNITS * PARTS)     // of a stage
#define SLOTS (SETS * PARTS)       // pieces that a consumer has accumulators for
// Pieces in flight while one is promoted: of this stage and the next.
#define IN_FLIGHT (SLOTS - 1 < PIECES ? SLOTS - 1 : PIECES)
// Pieces in flight across the loop's back edge, one fewer where there are several.  ptxas waits
// before every use of an accumulator unless the first wait of the body is for all groups; so that
// wait comes first, with one piece fewer to wait for, and the missing piece is issued behind it.
#define CARRIED (IN_FLIGHT > 1 ? IN_FLIGHT - 1 : IN_FLIGHT)
// Pieces of the loop's body: as many stages as it takes for each to come back to its slot, or all
// runs to their end.
#define BODY_PIECES \
    (RUN > 1 ? RUN * SLOTS : PIECES % SLOTS == 0 ? PIECES : 2 * PIECES)
#define BODY_STAGES (BODY_PIECES / PIECES)
#define VECTOR (A_ROWS == 1)       // scales of rows and columns, not of blocks
#define CODES (OUT >= 3)
#define OUT_BYTES (OUT == 2 ? 4 : OUT < 2 ? 2 : 1)
#define STORE_COLUMNS (ROW_BYTES / OUT_BYTES < COLUMNS ? ROW_BYTES / OUT_BYTES : COLUMNS)
#define STORE_PITCH (STORE_COLUMNS * OUT_BYTES)  // of a staging buffer's rows
#define STORE_BYTES (64 * ROW_BYTES)

// Scales of a stage.  VECTOR: UNITS rows of BLOCK_M, then UNITS of BLOCK_N.  Blocks: of every unit
// those of B, then of every block of rows of A those of the units.  RUN: what
// hopper_block_factors.cuh tells.
#define A_SCALES (VECTOR ? BLOCK_M : BLOCK_M < A_ROWS ? 1 : BLOCK_M / A_ROWS)
#define B_SCALES (VECTOR ? BLOCK_N : BLOCK_N < B_ROWS ? 1 : BLOCK_N / B_ROWS)
#define SCALES (UNITS * (A_SCALES + B_SCALES))
#define FACTORS ((UNITS + 1) * A_SCALES * B_SCALES)  // with RUN
#define SCALE_BYTES \
    (VECTOR ? SCALES * 4 : ((RUN > 1 ? FACTORS : SCALES) * 4 + 127) / 128 * 128)
#define SCALE_RING ((STAGES * SCALE_BYTES + 1023) / 1024 * 1024)
#define OWN_SCALES (COLUMNS < B_ROWS ? 1 : COLUMNS / B_ROWS)  // blocks of B, of a consumer's columns

// Registers of the producer and of a consumer thread, together what the launch took: 168 for each
// of 384 threads, 96 for each of 640.
#if CONSUMERS == 2
#define PRODUCER_REGISTERS 40
#define CONSUMER_REGISTERS 232
#else
#define PRODUCER_REGISTERS 32
#define CONSUMER_REGISTERS 112
#endif

// Scales of a piece's columns are loaded before the wait for it, where registers allow.
#define ACCUMULATORS (SLOTS * PIECE_TILES * HALF + TILES_M * SUMS)
#define EARLY (ACCUMULATORS + WGMMA_N / 4 + 20 <= CONSUMER_REGISTERS)

#define CONSUMER_BARRIER 3  // and the next: named barriers of the consumers' threads

// Where a stage is one unit, ptxas serialises wgmma groups in parts, and four consumers, who would
// gain nothing, have not the registers for codes with scales of rows.
#if UNITS == 1 && (PARTS > 1 || CONSUMERS > 2)
#error "parts and four consumers are for units shorter than a stage"
#endif

#if (A_ROWS == 1) != (B_ROWS == 1)
#error "both sides have scales of rows, or both have scales of blocks"
#endif

#if RUN > 1 && (ELEMENT != 4 || VECTOR || QUANT_K * RUN > 256 || SLOTS == 1 || \
                BODY_PIECES % PIECES || STAGES < 3)
#error "runs are for int8 with scales of blocks, 256 of K at most, several pieces and three stages"
#endif

#include "hopper_raster.cuh"
#include "hopper_ring.cuh"
#include "hopper_block_scales.cuh"
#if RUN > 1
#include "hopper_block_factors.cuh"
#endif
#include "hopper_staging.cuh"

#if CODES
#include "hopper_block_quantizer.cuh"
#define CODES_PARAMETERS , float *c_scale, const __grid_constant__ RoundKeys keys
#else
#define CODES_PARAMETERS
#endif

// Scales: 1xQUANT_K ones through map_a_scale and map_b_scale, those of blocks from a_scale,
// b_scale.
extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_SHAPE
gemm_hopper_blocks(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
                   const __grid_constant__ TensorMap map_a_scale,
                   const __grid_constant__ TensorMap map_b_scale,
                   const __grid_constant__ TensorMap map_c, const float *a_scale,
                   const float *b_scale, int m, int n, int k CODES_PARAMETERS) {
    extern __shared__ __align__(1024) u8 memory[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
#if RUN > 1
    __shared__ __align__(8) u64 ready[STAGES];
    const u32 ready_bar = shared_address(ready);  // factors of a stage
#endif
#if CODES
    // Of each consumer; of a block that both share those of this tile and of the one before, which
    // the other consumer may still look at.
    __shared__ Peaks peaks[CONSUMERS];
#endif
    const u32 a_ring = shared_address(memory), b_ring = a_ring + STAGES * A_BYTES;
    const u32 scale_ring = b_ring + STAGES * B_BYTES, store_ring = scale_ring + SCALE_RING;
    const u32 full_bar = shared_address(full), empty_bar = shared_address(empty);
    const int warp_index = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), group = warp_index / 4;
    const Raster raster(m, n);
    const int steps = (k + BLOCK_K - 1) / BLOCK_K;
    const u32 rank = CLUSTER > 1 ? cluster_rank() : 0;

    if (threadIdx.x == 0) {
        prefetch_map(&map_a);
        prefetch_map(&map_b);
        if (VECTOR) prefetch_map(&map_a_scale), prefetch_map(&map_b_scale);
        prefetch_map(&map_c);
        // A stage is filled by one thread, and 32 that copy scales of blocks.
        init_ring(full_bar, empty_bar, VECTOR || RUN > 1 ? 1 : 1 + 32, CONSUMERS * 4 * CLUSTER);
    }
#if RUN > 1
    if (threadIdx.x < STAGES) barrier_init(ready_bar + threadIdx.x * 8, 1);
    if (threadIdx.x < STAGES) barrier_fence();
#endif
    follow_launch();
    sync_cluster_or_cta();

    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        u32 phase = 1;
        int stage = 0;
        if (threadIdx.x == 0) {
            for (int index = blockIdx.x / CLUSTER; index < raster.count();
                 index += gridDim.x / CLUSTER) {
                int top, left;
                raster.place(index, rank, top, left);
                for (int step = 0; step < steps; step++) {
                    const u32 bar = full_bar + stage * 8;
                    barrier_wait(empty_bar + stage * 8, phase);
                    barrier_expect(bar, A_BYTES + B_BYTES + (VECTOR ? SCALE_BYTES : 0));
                    load_cluster_tile<BLOCK_M, SHARE_A>(a_ring + stage * A_BYTES, &map_a, bar,
                                                        step * BLOCK_K, top, rank);
                    load_cluster_tile<BLOCK_N, !SHARE_A>(b_ring + stage * B_BYTES, &map_b, bar,
                                                         step * BLOCK_K, left, rank);
                    if (VECTOR) {
                        const u32 to = scale_ring + stage * SCALE_BYTES;
                        load_tile(to, &map_a_scale, bar, top, step * UNITS);
                        load_tile(to + UNITS * BLOCK_M * 4, &map_b_scale, bar, left, step * UNITS);
                    }
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
#if RUN > 1
        if (warp_index == 1) {
            RunScales scales(a_ring, b_ring, full_bar, empty_bar);
            for (int index = blockIdx.x / CLUSTER; index < raster.count();
                 index += gridDim.x / CLUSTER) {
                int top, left;
                raster.place(index, rank, top, left);
                scales.begin_tile(a_scale, b_scale, m, n, k, top, left);
                // `stage` is the one behind that which is written.
                for (int step = -1; step < steps; step++) {
                    const bool more = step + 1 < steps;
                    scales.advance(more, stage, phase ^ 1);
                    if (step >= 0) {
                        const int last = stage_before(stage);
                        barrier_wait(empty_bar + last * 8, stage == 0 ? phase ^ 1 : phase);
                        scales.write(scale_ring + last * SCALE_BYTES, step, more);
                        __syncwarp();
                        if (threadIdx.x % 32 == 0) barrier_arrive(ready_bar + last * 8);
                    }
                    if (more && ++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
#elif !VECTOR
        if (warp_index == 1) {
            const int a_rows = (m + A_ROWS - 1) / A_ROWS, b_rows = (n + B_ROWS - 1) / B_ROWS;
            const int units = (k + QUANT_K - 1) / QUANT_K;
            for (int index = blockIdx.x / CLUSTER; index < raster.count();
                 index += gridDim.x / CLUSTER) {
                int top, left;
                raster.place(index, rank, top, left);
                for (int step = 0; step < steps; step++) {
                    const u32 to = scale_ring + stage * SCALE_BYTES;
                    barrier_wait(empty_bar + stage * 8, phase);
                    for (int i = threadIdx.x % 32; i < SCALES; i += 32) {
                        const bool of_b = i < UNITS * B_SCALES;
                        const int j = i - UNITS * B_SCALES;
                        const int unit = of_b ? i / B_SCALES : j % UNITS;
                        const int row = of_b ? left / B_ROWS + i % B_SCALES
                                             : top / A_ROWS + j / UNITS;
                        copy_scale(to + i * 4, of_b ? b_scale : a_scale, of_b ? b_rows : a_rows,
                                   units, row, step * UNITS + unit);
                    }
                    arrive_after_copies(full_bar + stage * 8);
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
#endif
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        const int consumer = group - 1, thread = threadIdx.x % 128;
        const int lane = thread % 32, warp = thread / 32;
        // This consumer's first row and column in a tile, and the first row of a thread's scales.
        const int row_offset = consumer / CONSUMERS_N * ROWS;
        const int column_offset = consumer % CONSUMERS_N * COLUMNS;
        const int first_row = row_offset + warp * 16 + (VECTOR ? lane / 4 : 0);
        const u32 a_first = (u32)descriptor(a_ring + row_offset * ROW_BYTES);
        const u32 b_first = (u32)descriptor(b_ring + column_offset * ROW_BYTES);
        int stage = 0, store_turn = 0, tile_turn = 0;
        u32 phase = 0, a_tile = 0, b_tile = 0;
        bool full_there = false, ready_there = false;
#if SLOTS > 1
        // Looks whether the next stage is full, long enough before await_stage() that the answer,
        // some 60 clocks a barrier, comes under a promotion.
        auto peek_stage = [&] {
            full_there = barrier_passed(full_bar + stage * 8, phase);
#if RUN > 1
            ready_there = barrier_passed(ready_bar + stage * 8, phase);
#endif
        };
#endif
        // Waits until the next stage is full: its pieces can be issued.
        auto await_stage = [&] {
            if (!full_there) barrier_wait(full_bar + stage * 8, phase);
#if RUN > 1
            if (!ready_there) barrier_wait(ready_bar + stage * 8, phase);
#endif
            full_there = ready_there = false;
            a_tile = a_first + stage * (A_BYTES >> 4);
            b_tile = b_first + stage * (B_BYTES >> 4);
            if (++stage == STAGES) stage = 0, phase ^= 1;
        };
        // Issues the wgmma group of a piece of the stage that await_stage() saw last; `at` is its
        // place in the loop's body.
        auto issue = [&](Accumulator(&d)[PIECE_TILES][HALF], int piece, int at) {
            const int unit = piece / PARTS, down = piece % PARTS / PIECES_N * PIECE_TILES;
            const int across = piece % PIECES_N * (WGMMA_N * ROW_BYTES >> 4);
#if RUN > 1
            if (at % BODY_PIECES < SLOTS)
#pragma unroll
                for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
                    for (int i = 0; i < HALF; i++) start_sum(d[t][i]);
#endif
#pragma unroll
            for (int t = 0; t < PIECE_TILES; t++) pin(d[t]);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
                for (int s = 0; s < QUANT_K / 32; s++) {
                    const int in_row = unit * (QUANT_K >> 4) + s * 2;
                    wgmma(d[t], descriptor_at(a_tile + (down + t) * (64 * ROW_BYTES >> 4) + in_row),
                          descriptor_at(b_tile + across + in_row), RUN > 1 || s > 0);
                }
            wgmma_commit();
        };
        for (int index = blockIdx.x / CLUSTER; index < raster.count();
             index += gridDim.x / CLUSTER) {
            int top, left;
            raster.place(index, rank, top, left);
            left += column_offset;
            Accumulator product[SLOTS][PIECE_TILES][HALF];
            float sum[TILES_M][SUMS];
#pragma unroll
            for (int t = 0; t < TILES_M; t++)
#pragma unroll
                for (int i = 0; i < SUMS; i++) sum[t][i] = 0.0f;
            Factors factors;
            int oldest = stage;  // whose pieces are promoted next
            auto begin_promotion = [&] {
                factors.begin_stage(scale_ring + oldest * SCALE_BYTES, first_row, column_offset, lane);
            };
            auto release_oldest = [&] {
                __syncwarp();  // every lane has read its scales before one arrives for the warp
                release_stage(empty_bar, oldest, lane);
                oldest = stage_after(oldest);
            };
            // Adds a piece, which is complete.
            auto promote = [&](Accumulator(&d)[PIECE_TILES][HALF], int piece, int at) {
#pragma unroll
                for (int t = 0; t < PIECE_TILES; t++) pin(d[t]);
#if RUN > 1
                if (at < PARTS) factors.start(sum, piece);
#endif
                factors.add(d, sum, piece);
            };
#if SLOTS == 1
            for (int step = 0; step < steps; step++) {
                await_stage();
                begin_promotion();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) {
                    issue(product[0], piece, piece);
                    factors.fetch(piece, piece);
                    wgmma_wait<0>();
                    promote(product[0], piece, piece);
                }
                release_oldest();
            }
#else
            int step = 0;
            // Waits for a piece, issues the one IN_FLIGHT later, promotes the first.  The last
            // pieces of a tile have none that is so much later: they issue the first ones of the
            // last stage once more, and nobody reads the result, because behind a branch the
            // compiler would move the wgmma below the promotion.
            auto promote_next = [&](int first, int piece) {
                const int at = first + piece;  // in the loop's body
                const bool more = step < steps - 1;
                if (piece == 0 && IN_FLIGHT > 1) {
                    wgmma_wait<0>();
                    issue(product[(at + CARRIED) % SLOTS], CARRIED, at + CARRIED);
                }
                if (piece + IN_FLIGHT == PIECES && more) await_stage();
                factors.fetch(piece, at);
                if (piece > 0 || IN_FLIGHT == 1) wgmma_wait<IN_FLIGHT - 1>();
                if (piece < PIECES - 1 || IN_FLIGHT == 1)
                    issue(product[(at + IN_FLIGHT) % SLOTS], (piece + IN_FLIGHT) % PIECES,
                          at + IN_FLIGHT);
                // The condition always holds, which the compiler does not know: without SPREAD it
                // may not move the promotion's instructions across the wgmmas above or the wait
                // below.
                int true_for_any_k = k;
                if (!SPREAD) asm volatile("" : "+r"(true_for_any_k));
                if (SPREAD || true_for_any_k > 0) {
                    if (piece + IN_FLIGHT + 1 == PIECES) peek_stage();
                    promote(product[at % SLOTS], piece, at);
                }
                if (piece == PIECES - 1 && more) release_oldest();
            };
            await_stage();
#pragma unroll
            for (int piece = 0; piece < CARRIED; piece++) issue(product[piece], piece, piece);
            while (true) {
                begin_promotion();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) promote_next(0, piece);
                if (++step == steps) break;
#if BODY_PIECES >= 2 * PIECES
                begin_promotion();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) promote_next(PIECES, piece);
                if (++step == steps) break;
#endif
#if BODY_PIECES >= 4 * PIECES
                begin_promotion();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) promote_next(2 * PIECES, piece);
                if (++step == steps) break;
                begin_promotion();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) promote_next(3 * PIECES, piece);
                if (++step == steps) break;
#endif
            }
            wgmma_wait<0>();
            release_oldest();
#endif
#pragma unroll
            for (int t = 0; t < TILES_M; t++) {
                const int y = top + row_offset + t * 64;
#pragma unroll
                for (int chunk = 0; chunk < COLUMNS / STORE_COLUMNS; chunk++) {
                    const u32 buffer =
                        store_ring + (consumer * STORE_BUFFERS + store_turn) * STORE_BYTES;
                    store_turn = (store_turn + 1) % STORE_BUFFERS;
                    const int x = left + chunk * STORE_COLUMNS;
                    await_buffer(consumer, thread);
#if CODES
                    stage_codes(buffer, sum[t], peaks[SHARED_BLOCK ? tile_turn : consumer], c_scale,
                                keys, consumer, warp, lane, x, y, m, n);
#else
#pragma unroll
                    for (int part = 0; part < STORE_COLUMNS / 16; part++)
                        stage_columns(buffer, warp, lane, part,
                                      &sum[t][chunk * (STORE_COLUMNS / 2) + part * 8]);
#endif
                    publish_buffer(consumer);
                    if (thread == 0) {
                        if (x < n && y < m) store_tile(&map_c, buffer, x, y);
                        commit_buffer();
                    }
                }
            }
            tile_turn ^= 1;
        }
        if (thread == 0) await_stores();
    }
    if (CLUSTER > 1) cluster_sync();  // until then a neighbour may arrive at this CTA's barriers
}
