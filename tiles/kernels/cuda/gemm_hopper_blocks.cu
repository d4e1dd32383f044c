// C[M, N] = A[M, K] . B[N, K]^T of 8-bit elements whose scales change along K, on Hopper (sm_90a).
//
// Structure as in gemm_hopper.cu: one warp keeps a ring of STAGES tiles of A and B filled (128
// bytes of K, 128-byte swizzle), two or four more warpgroups ("consumers") multiply, the launch is
// persistent, clusters share B.  New here: scales on both sides in blocks down to 32 of K, and codes
// with scales as output.
//
// A *unit* is QUANT_K of K: its product is made from zero by wgmma, scaled and added to an fp32 sum
// on the CUDA cores ("promoted").  With SETS 2 a consumer has two sets of accumulators: while one is
// promoted, the tensor cores fill the other.  So the promotion, not the product, is what a step of K
// takes, and it is paid in issue slots: each of the four schedulers issues one warp's instruction a
// clock, and holds one warp of each consumer.
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
// The rest is products, waits, addresses, barriers, scales of blocks.  I2FP has half the rate of
// FFMA: 64 of the 128 lanes a clock, which two slots an accumulator just leave it.  A conversion
// stands five clocks before its FFMA with two other pairs between them, and no instruction of a
// promotion stalls on another: there is nothing to win by batches of conversions.
//
// What is not instructions is the latency of a product: with one in flight, from the start of a
// promotion to its end, the tensor cores' 64 clocks (64 x 128 x 32) and some 240 from their last
// result to the warp that waits for it are as long as the promotion of both warps of a scheduler,
// and neither hides the other's wait (on an H200 a unit of int8 32x32 took 450 to 520 clocks).  PARTS
// 2 makes a unit's product in two pieces, half the rows or columns each, and a ring of SETS x PARTS
// of them, with the same registers: three pieces are in flight while the fourth is promoted, one and
// a half promotions ahead instead of one.  Four consumers have two more warps on each scheduler to
// fill waits, and half the sums each, which is what their 112 registers hold.
//
// With SPREAD the compiler may put sums among the waits and products of the pieces behind them.  Some
// products start later, but what a warp alone needs for a stage of int8 32x32, stalls of its
// instructions included and no wait for products or loads, falls from 881 clocks to 724 with PARTS 2
// (four consumers: 625, 452), of float 1x32 from 1117 to 764 (256 x 64: 1029, 774).
//
// A stage of such a tile is 2 x 128^3 operations a CTA; its products take 512 clocks, its promotion
// twice the above.  On 132 multiprocessors at 1.75 GHz: int8 32x32 1200 clocks, 807 TFLOP/s (946
// for I2FP and FFMA alone), int8 64x64 642 and 1509, MX 1308 and 741 (a tile of 256 x 64 loads 4
// scales fewer a unit, and has twice the products: 736), MXINT8 1836 and 528, blocks of 128 512 and
// 1892.
//
// Why not start the int32 accumulators at 0x4b400000, so that a sum's bits are those of the float
// 1.5 2^23 + sum?  A product from zero costs nothing, a product from a constant costs a move: three
// instructions where FADD follows, and where FFMA takes the biased float as it is, two with an
// error of half an ulp of 1.5 2^23 x scale, half a code product.  That is lost in the noise among
// scales of one size, but beside a block of zeros, whose scale is 1 by convention, it is all there
// is.  Accumulators that run on along K, multiplied by differences of scales, take one instruction
// and err likewise.
//
// Errors: integer products are exact, 128 x 127^2 < 2^24 as floats too.  A unit adds two roundings
// in fp32, of the two scales' product (none for powers of two) and of the multiply-add.  A NaN
// scale makes what it touches NaN.
//
// Macros from the launcher: ELEMENT (2 e4m3fn, 3 e5m2, 4 int8), UNIT_LOG2 (what a code product of 1
// stands for: -12 for MXINT8, else 0), OUT (0 bf16, 1 fp16, 2 fp32, 3 int8, 4 e4m3fn), OUT_BLOCK
// (side of an output block, for codes), STOCHASTIC, A_ROWS and B_ROWS (under one scale: both 1, or
// both 32, 64 or 128), QUANT_K (32, 64, 128), BLOCK_M, BLOCK_N, STAGES, CLUSTER, GROUP_M,
// STORE_BUFFERS, CONSUMERS (2 or 4), SETS (1 or 2), PARTS (1 or 2), SPREAD (0 or 1).

#define THREADS (128 * (CONSUMERS + 1))
#define ROW_BYTES 128  // of a stage's rows: the width of the swizzle
#define BLOCK_K ROW_BYTES

// A consumer's part of a tile: consumers stand below each other as far as 64 rows reach.
#define CONSUMERS_M (BLOCK_M / 64 < CONSUMERS ? BLOCK_M / 64 : CONSUMERS)
#define CONSUMERS_N (CONSUMERS / CONSUMERS_M)
#define ROWS (BLOCK_M / CONSUMERS_M)
#define COLUMNS (BLOCK_N / CONSUMERS_N)
#define TILES_M (ROWS / 64)  // wgmma is 64 rows high
#define SUMS (COLUMNS / 2)   // of a thread for 64 rows

// A unit's product comes in PARTS pieces: 64 rows each where there are more, then fewer columns.
#define PIECE_TILES (TILES_M > PARTS ? TILES_M / PARTS : 1)
#define PIECES_N (PARTS * PIECE_TILES / TILES_M)
#define WGMMA_N (COLUMNS / PIECES_N)

#include "hopper.cuh"
#include "hopper_wgmma.cuh"

#define A_BYTES (BLOCK_M * ROW_BYTES)
#define B_BYTES (BLOCK_N * ROW_BYTES)
#define UNITS (BLOCK_K / QUANT_K)  // of a stage
#define PIECES (UNITS * PARTS)     // of a stage
#define RING (SETS * PARTS)        // pieces that a consumer has accumulators for
// Pieces in flight while one is promoted.  They may reach into the next stage, not beyond.
#define AHEAD (RING - 1 < PIECES ? RING - 1 : PIECES)
// Pieces in flight when a loop's body ends.  ptxas puts a wait before the first use of an accumulator
// unless the first wait behind a jump back is for all of them, so the last of them starts early.
#define CARRIED (AHEAD > 1 ? AHEAD - 1 : AHEAD)
// Of the loop's body: a whole number of rings.
#define BODY_PIECES (PIECES % RING == 0 ? PIECES : 2 * PIECES)
#define VECTOR (A_ROWS == 1)       // scales of rows and columns, not of blocks
#define CODES (OUT >= 3)
#define OUT_BYTES (OUT == 2 ? 4 : OUT < 2 ? 2 : 1)
#define STORE_COLUMNS (ROW_BYTES / OUT_BYTES < COLUMNS ? ROW_BYTES / OUT_BYTES : COLUMNS)
#define STORE_PITCH (STORE_COLUMNS * OUT_BYTES)  // of a staging buffer's rows
#define STORE_BYTES (64 * ROW_BYTES)

// Scales of a stage.  VECTOR: UNITS rows of BLOCK_M, then UNITS of BLOCK_N.  Blocks: of every unit
// those of B, then of every block of rows of A those of the units.
#define A_SCALES (VECTOR ? BLOCK_M : BLOCK_M < A_ROWS ? 1 : BLOCK_M / A_ROWS)
#define B_SCALES (VECTOR ? BLOCK_N : BLOCK_N < B_ROWS ? 1 : BLOCK_N / B_ROWS)
#define SCALES (UNITS * (A_SCALES + B_SCALES))
#define SCALE_BYTES (VECTOR ? SCALES * 4 : (SCALES * 4 + 127) / 128 * 128)
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
#define ACCUMULATORS (RING * PIECE_TILES * HALF + TILES_M * SUMS)
#define EARLY (ACCUMULATORS + WGMMA_N / 4 + 20 <= CONSUMER_REGISTERS)

// Named barriers from this one on join the threads of a consumer.
#define GROUP 3

// ptxas lets products wait for each other where a stage is one unit in parts, and codes with scales
// of rows do not fit the registers of four consumers there, who would gain nothing.
#if UNITS == 1 && (PARTS > 1 || CONSUMERS > 2)
#error "parts and four consumers are for units shorter than a stage"
#endif

#if (A_ROWS == 1) != (B_ROWS == 1)
#error "both sides have scales of rows, or both have scales of blocks"
#endif

// A wgmma operand from the low word of its descriptor, which alone tells tiles apart.
__device__ __forceinline__ u64 descriptor_at(u32 low) {
    u64 whole;
    asm("mov.b64 %0, {%1, %2};" : "=l"(whole) : "r"(low), "n"((u32)(1024 >> 4 | 1 << 30)));
    return whole;
}

__device__ __forceinline__ void group_sync(int who) {
    asm volatile("bar.sync %0, 128;" ::"r"(GROUP + who) : "memory");
}

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

#if CODES
#include "hopper_block_quantizer.cuh"
#define CODES_PARAMETERS , float *c_scale, const __grid_constant__ RoundKeys keys
#else
#define CODES_PARAMETERS
#endif

// The output's tiles in rasters of GROUP_M cluster rows.
struct Raster {
    int cols, cluster_rows;

    __device__ Raster(int m, int n) : cols((n + BLOCK_N - 1) / BLOCK_N) {
        cluster_rows = ((m + BLOCK_M - 1) / BLOCK_M + CLUSTER - 1) / CLUSTER;
    }

    __device__ int count() const { return cluster_rows * cols; }

    // First row and column of a tile.
    __device__ void place(int index, u32 rank, int &top, int &left) const {
        const int raster = index / (GROUP_M * cols), inside = index % (GROUP_M * cols);
        const int height = min(cluster_rows - raster * GROUP_M, GROUP_M);
        top = ((raster * GROUP_M + inside % height) * CLUSTER + rank) * BLOCK_M;
        left = inside / height * BLOCK_N;
    }
};

// ---- Scales.

#if !VECTOR
// Copies the scales of a stage, a lane of a warp each; those beyond the grid become 0.
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

// What a thread multiplies its products of a stage by.  fetch() before a piece, add() after it.
struct Factors {
#if VECTOR
    u32 rows, columns;               // where the scales of its first row and first columns lie
    float left[PIECE_TILES][2];      // of its rows of a piece
    float right[WGMMA_N / 8][2];     // of its columns of a piece

    __device__ __forceinline__ void enter(u32 scales, int first_row, int first_column, int lane) {
        rows = scales + first_row * 4;
        columns = scales + (UNITS * BLOCK_M + first_column + lane % 4 * 2) * 4;
    }

    __device__ __forceinline__ void fetch(int piece) {
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

    __device__ __forceinline__ void enter(u32 scales, int first_row, int first_column, int lane) {
        columns = scales + first_column / B_ROWS * 4;
#pragma unroll
        for (int t = 0; t < TILES_M; t++)
            load_floats(scales + (B_SCALES + (first_row + t * 64) / A_ROWS) * UNITS * 4, left[t]);
    }

    __device__ __forceinline__ void fetch(int piece) {
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

// ---- Output.

#if !CODES
__device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
#if OUT == 1
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
#endif
    return packed;
}

// Writes 16 columns of a warp's 16 rows, laid out as wgmma leaves them, into a staging buffer.
// v: columns 2l, 2l+1 of row r, the same of row r + 8, then 8 columns further on.
__device__ __forceinline__ void stage_columns(u32 buffer, int warp, int lane, int part,
                                              const float *v) {
#if OUT == 2
#pragma unroll
    for (int g = 0; g < 2; g++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = warp * 16 + h * 8 + lane / 4;
            const int byte = (part * 16 + g * 8 + lane % 4 * 2) * 4;
            const u32 to = buffer + r * ROW_BYTES + ((byte / 16 ^ r % 8) * 16 + byte % 16);
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(v[g * 4 + h * 2]),
                         "f"(v[g * 4 + h * 2 + 1])
                         : "memory");
        }
#else
    const int r = warp * 16 + lane % 16, piece = part * 2 + lane / 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     buffer + r * ROW_BYTES + ((piece ^ r % 8) * 16)),
                 "r"(pack(v[0], v[1])), "r"(pack(v[2], v[3])), "r"(pack(v[4], v[5])),
                 "r"(pack(v[6], v[7]))
                 : "memory");
#endif
}
#else

#define OUT_BLOCKS (COLUMNS / OUT_BLOCK)   // along a consumer's columns
#define BLOCK_WARPS (OUT_BLOCK / 16)       // whose rows share a block
#define BLOCK_SUMS (OUT_BLOCK / 2)         // of a thread's sums of 64 rows, in one block

// Where a warpgroup leaves the largest magnitudes of its warps' parts of blocks.
typedef u32 Peaks[4][OUT_BLOCKS];

// Quantises a warpgroup's 64 rows from (x, y) on: codes into a staging buffer, scales to memory.
__device__ __forceinline__ void stage_codes(u32 buffer, const float *sum, Peaks &peaks,
                                            float *c_scale, const RoundKeys &keys, int consumer,
                                            int warp, int lane, int x, int y, int m, int n) {
#pragma unroll
    for (int j = 0; j < OUT_BLOCKS; j++) {
        float peak = 0.0f;
#pragma unroll
        for (int i = 0; i < BLOCK_SUMS; i++) peak = larger(peak, sum[j * BLOCK_SUMS + i]);
        const u32 bits = warp_peak(peak);
        if (lane == j) peaks[warp][j] = bits;
    }
    group_sync(consumer);
    // Lane j has block j's divisor, the others repeat it.
    const int first = warp / BLOCK_WARPS * BLOCK_WARPS, mine = lane % OUT_BLOCKS;
    u32 amax = 0;
#pragma unroll
    for (int w = 0; w < BLOCK_WARPS; w++) amax = max(amax, peaks[first + w][mine]);
    const Divisor own = divisor_of(amax);
    const int down = (y + warp * 16) / OUT_BLOCK, right = x / OUT_BLOCK + lane;
    const int grid_cols = (n + OUT_BLOCK - 1) / OUT_BLOCK;
    if (warp == first && lane < OUT_BLOCKS && y + warp * 16 < m && right < grid_cols)
        c_scale[(i64)down * grid_cols + right] = own.scale;
#pragma unroll
    for (int j = 0; j < OUT_BLOCKS; j++) {
        const Divisor d = divisor_from(own, j);
#pragma unroll
        for (int g = 0; g < OUT_BLOCK / 8; g++) {
            const float *v = sum + j * BLOCK_SUMS + g * 4;
            const int column = j * OUT_BLOCK + g * 8;
            Random random[2] = {};  // of the thread's pairs in its two rows: words 0 and 1
#if STOCHASTIC
            // Two lanes share the four words of four neighbours: the even one draws those of row r,
            // the odd one those of row r + 8, and each hands over the other's half.
            const int row = y + warp * 16 + lane / 4, odd = lane & 1;
            const u64 index = (u64)(row + 8 * odd) * n + (x + column + lane % 4 / 2 * 4);
            const Random four = philox(index >> 2, keys);
            const u32 other0 =
                __shfl_xor_sync(0xffffffffu, odd ? four.words[0] : four.words[2], 1);
            const u32 other1 =
                __shfl_xor_sync(0xffffffffu, odd ? four.words[1] : four.words[3], 1);
            random[0].words[0] = odd ? other0 : four.words[0];
            random[0].words[1] = odd ? other1 : four.words[1];
            random[1].words[0] = odd ? four.words[2] : other0;
            random[1].words[1] = odd ? four.words[3] : other1;
#endif
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const u16 codes = encode_pair(v[h * 2], v[h * 2 + 1], d, random[h].words[0],
                                              random[h].words[1]);
                const int r = warp * 16 + h * 8 + lane / 4, byte = column + lane % 4 * 2;
                const int piece = STORE_PITCH == ROW_BYTES ? byte / 16 ^ r % 8 : byte / 16;
                asm volatile("st.shared.u16 [%0], %1;" ::"r"(buffer + r * STORE_PITCH +
                                                             piece * 16 + byte % 16),
                             "h"(codes)
                             : "memory");
            }
        }
    }
}
#endif

#if CLUSTER > 1
#define CLUSTER_SHAPE __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_SHAPE
#endif

// Scales: 1xQUANT_K ones through map_a_scale and map_b_scale, those of blocks from a_scale, b_scale.
extern "C" __global__ void __launch_bounds__(THREADS, 1) CLUSTER_SHAPE
gemm_hopper_blocks(const __grid_constant__ TensorMap map_a, const __grid_constant__ TensorMap map_b,
                   const __grid_constant__ TensorMap map_a_scale,
                   const __grid_constant__ TensorMap map_b_scale,
                   const __grid_constant__ TensorMap map_c, const float *a_scale,
                   const float *b_scale, int m, int n, int k CODES_PARAMETERS) {
    extern __shared__ __align__(1024) u8 memory[];
    __shared__ __align__(8) u64 full[STAGES], empty[STAGES];
#if CODES
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
        for (int s = 0; s < STAGES; s++) {
            // The copy engine's thread, and the lanes that copy scales of blocks.
            barrier_init(full_bar + s * 8, VECTOR ? 1 : 1 + 32);
            barrier_init(empty_bar + s * 8, CONSUMERS * 4 * CLUSTER);  // warps
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();

    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        int stage = 0;
        u32 phase = 1;  // the ring is empty: the first wait on every stage passes
        if (threadIdx.x == 0) {
            for (int index = blockIdx.x / CLUSTER; index < raster.count();
                 index += gridDim.x / CLUSTER) {
                int top, left;
                raster.place(index, rank, top, left);
                for (int step = 0; step < steps; step++) {
                    const u32 bar = full_bar + stage * 8;
                    barrier_wait(empty_bar + stage * 8, phase);
                    barrier_expect(bar, A_BYTES + B_BYTES + (VECTOR ? SCALE_BYTES : 0));
                    load_tile(a_ring + stage * A_BYTES, &map_a, bar, step * BLOCK_K, top);
                    if (CLUSTER > 1) {
                        const int part = rank * (BLOCK_N / CLUSTER);
                        load_tile_everywhere(b_ring + stage * B_BYTES + part * ROW_BYTES, &map_b,
                                             bar, step * BLOCK_K, left + part);
                    } else {
                        load_tile(b_ring + stage * B_BYTES, &map_b, bar, step * BLOCK_K, left);
                    }
                    if (VECTOR) {
                        const u32 to = scale_ring + stage * SCALE_BYTES;
                        load_tile(to, &map_a_scale, bar, top, step * UNITS);
                        load_tile(to + UNITS * BLOCK_M * 4, &map_b_scale, bar, left, step * UNITS);
                    }
                    if (++stage == STAGES) stage = 0, phase ^= 1;
                }
            }
        }
#if !VECTOR
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
        // Of this warpgroup's rows and columns in a tile.
        const int offset = consumer / CONSUMERS_N * ROWS;
        const int aside = consumer % CONSUMERS_N * COLUMNS;
        const int first_row = offset + warp * 16 + (VECTOR ? lane / 4 : 0);
        const u32 a_first = (u32)descriptor(a_ring + offset * ROW_BYTES);
        const u32 b_first = (u32)descriptor(b_ring + aside * ROW_BYTES);
        int stage = 0, store_turn = 0;
        u32 phase = 0, a_tile = 0, b_tile = 0;
        auto release = [&](int s) {
            if (CLUSTER > 1) {
                if (lane < CLUSTER) barrier_arrive_at(empty_bar + s * 8, lane);
            } else if (lane == 0) {
                barrier_arrive(empty_bar + s * 8);
            }
        };
        // Waits for the next stage and leaves it to start().
        auto arrive = [&] {
            barrier_wait(full_bar + stage * 8, phase);
            a_tile = a_first + stage * (A_BYTES >> 4), b_tile = b_first + stage * (B_BYTES >> 4);
            if (++stage == STAGES) stage = 0, phase ^= 1;
        };
        // Starts a piece of the stage that arrived last.
        auto start = [&](Accumulator(&d)[PIECE_TILES][HALF], int piece) {
            const int unit = piece / PARTS, down = piece % PARTS / PIECES_N * PIECE_TILES;
            const int across = piece % PIECES_N * (WGMMA_N * ROW_BYTES >> 4);
#pragma unroll
            for (int t = 0; t < PIECE_TILES; t++) pin(d[t]);
            wgmma_fence();
#pragma unroll
            for (int t = 0; t < PIECE_TILES; t++)
#pragma unroll
                for (int s = 0; s < QUANT_K / 32; s++) {
                    const int at = unit * (QUANT_K >> 4) + s * 2;
                    wgmma(d[t], descriptor_at(a_tile + (down + t) * (64 * ROW_BYTES >> 4) + at),
                          descriptor_at(b_tile + across + at), s > 0);
                }
            wgmma_commit();
        };
        for (int index = blockIdx.x / CLUSTER; index < raster.count();
             index += gridDim.x / CLUSTER) {
            int top, left;
            raster.place(index, rank, top, left);
            left += aside;
            Accumulator product[RING][PIECE_TILES][HALF];
            float sum[TILES_M][SUMS];
#pragma unroll
            for (int t = 0; t < TILES_M; t++)
#pragma unroll
                for (int i = 0; i < SUMS; i++) sum[t][i] = 0.0f;
            Factors factors;
            int oldest = stage;  // what is promoted next
            auto enter = [&] {
                factors.enter(scale_ring + oldest * SCALE_BYTES, first_row, aside, lane);
            };
            auto leave = [&] {  // the producer may fill the stage again
                __syncwarp();  // every lane has read its scales before one arrives for the warp
                release(oldest);
                if (++oldest == STAGES) oldest = 0;
            };
            // Adds a piece, which is complete.
            auto promote = [&](Accumulator(&d)[PIECE_TILES][HALF], int piece) {
#pragma unroll
                for (int t = 0; t < PIECE_TILES; t++) pin(d[t]);
                factors.add(d, sum, piece);
            };
#if RING == 1
            for (int step = 0; step < steps; step++) {
                arrive();
                enter();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) {
                    start(product[0], piece);
                    factors.fetch(piece);
                    wgmma_wait<0>();
                    promote(product[0], piece);
                }
                leave();
            }
#else
            int step = 0;
            // A piece: it is complete, the one AHEAD of it starts, this one is added.  The last ones
            // of a tile start their stage's first once more, for nobody: with a branch around the
            // product the compiler would put it behind the sums.
            auto work = [&](int first, int piece) {
                const int at = first + piece;  // in the loop's body
                const bool more = step < steps - 1;
                if (at == 0 && AHEAD > 1) {
                    wgmma_wait<0>();
                    start(product[CARRIED], CARRIED);
                }
                if (piece + AHEAD == PIECES && more) arrive();
                factors.fetch(piece);
                if (at > 0 || AHEAD == 1) wgmma_wait<AHEAD - 1>();
                if (at < BODY_PIECES - 1 || AHEAD == 1)
                    start(product[(at + AHEAD) % RING], (piece + AHEAD) % PIECES);
                // Always true, which the compiler does not know: else it would spread sums among the
                // products above, and over the next wait below.
                int true_for_any_k = k;
                if (!SPREAD) asm volatile("" : "+r"(true_for_any_k));
                if (SPREAD || true_for_any_k > 0) promote(product[at % RING], piece);
                if (piece == PIECES - 1 && more) leave();
            };
            arrive();
#pragma unroll
            for (int piece = 0; piece < CARRIED; piece++) start(product[piece], piece);
            while (true) {
                enter();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) work(0, piece);
                if (++step == steps) break;
#if BODY_PIECES > PIECES
                enter();
#pragma unroll
                for (int piece = 0; piece < PIECES; piece++) work(PIECES, piece);
                if (++step == steps) break;
#endif
            }
            wgmma_wait<0>();
            leave();
#endif
#pragma unroll
            for (int t = 0; t < TILES_M; t++) {
                const int y = top + offset + t * 64;
#pragma unroll
                for (int chunk = 0; chunk < COLUMNS / STORE_COLUMNS; chunk++) {
                    // Buffers alternate across tiles too: the one taken now was stored from
                    // STORE_BUFFERS groups ago, and has been read when fewer are pending.
                    const u32 buffer =
                        store_ring + (consumer * STORE_BUFFERS + store_turn) * STORE_BYTES;
                    store_turn = (store_turn + 1) % STORE_BUFFERS;
                    const int x = left + chunk * STORE_COLUMNS;
                    if (thread == 0)
                        asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(STORE_BUFFERS - 1)
                                     : "memory");
                    group_sync(consumer);
#if CODES
                    stage_codes(buffer, sum[t], peaks[consumer], c_scale, keys, consumer, warp,
                                lane, x, y, m, n);
#else
#pragma unroll
                    for (int part = 0; part < STORE_COLUMNS / 16; part++)
                        stage_columns(buffer, warp, lane, part,
                                      &sum[t][chunk * (STORE_COLUMNS / 2) + part * 8]);
#endif
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                    group_sync(consumer);
                    if (thread == 0) {
                        if (x < n && y < m) store_tile(&map_c, buffer, x, y);
                        // A group for every buffer, also an empty one: the wait above counts them.
                        asm volatile("cp.async.bulk.commit_group;" ::: "memory");
                    }
                }
            }
        }
        if (thread == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
    }
    if (CLUSTER > 1) cluster_sync();  // until then a neighbour may arrive at this CTA's barriers
}
