// Operators of the INT8 dataflow that need whole rows: residual add with the row statistics of its
// sum, LayerNorm and RMSNorm forward and backward.
//
// A cluster of SPLITS CTAs owns ROWS rows (whole blocks high) at a time and reads them once: each CTA
// takes a share of the columns and keeps its codes in shared memory between the statistics and the
// output.  Row sums meet in distributed shared memory, in the order of the CTAs, so results do not
// depend on timing.  Within a CTA, threads share blocks as in dataflow_blocks.cu: GROUPS of them, DOWN
// below one another and GROUPS / DOWN side by side, stepping along the columns.
//
// Norms walk through row groups.  In the second pass over one group's codes each thread asks for
// another's as soon as it has taken its own up: they lie in the same place.  Where there is room for two
// (STAGES), the first pass over the next group comes before the second one over this group, during which
// its sums travel through the cluster: nobody waits for them.  The residual keeps no codes; its next
// step's are under way while one step's are rounded.
//
// Statistics are of what the codes stand for: of the stored sum, not of the one before rounding.
//
// Backward also sums over rows, for the gradients of gamma and beta: a thread keeps the sums of its
// columns in registers; what clusters leave is added up by dataflow_column_sums in their order.
//
// Macros beside those of dataflow_device.cuh (WHOLE: besides, clusters and their steps cover the matrix
// just so): OP, ROWS, SPLITS, STAGES, WALKS (some cluster has more than one row group), COLUMN_STEPS (times that backward's threads go across a CTA's share), CTAS,
// LINED (a warp has whole blocks to itself, in tiles of lines: dataflow_tiles.cuh) and, with it, LINE_BYTES.
#define RESIDUAL 0
#define LAYERNORM 1
#define RMSNORM 2
#define LAYERNORM_BWD 3
#define RMSNORM_BWD 4

#define CONVERSIONS (OP >= LAYERNORM_BWD ? 2 : 4)  // backward has four codes an element to convert
#include "dataflow_device.cuh"

#define GROUPS (THREADS / LANES)
#define DOWN (ROWS / BLOCK_ROWS)
#define GROUPS_ACROSS (GROUPS / DOWN)
#define BACKWARD (OP == LAYERNORM_BWD || OP == RMSNORM_BWD)
#define CENTRED (OP == LAYERNORM || OP == LAYERNORM_BWD)
#define TEAMS_ACROSS (GROUPS_ACROSS / BESIDE)
// Neighbouring threads that have vectors of one row.
#define LANES_PER_ROW (LANES < VECTORS_PER_ROW ? LANES : LINE)
// Rows of a block that a thread has vectors of, and which of them vector i lies in.
#define SLOTS (LANES >= VECTORS_PER_ROW ? ITEMS : BLOCK_ROWS)
#define SLOT(i) (LANES >= VECTORS_PER_ROW ? (i) : (i) * LANES / VECTORS_PER_ROW)
#define OPERANDS (OP == RESIDUAL ? 0 : BACKWARD ? 2 : 1)  // kept in shared memory
#define COLUMN_VECTORS (OP == RESIDUAL ? 0 : OP == LAYERNORM ? 2 : 1)  // gamma, and beta
#define COLUMN_SUMS (CENTRED ? 8 : 4)  // that a thread keeps of each 16 columns

struct RowOperands {
    const u8 *x, *other;  // residual: both addends; backward: other is dy
    const float *x_scales, *other_scales;
    u8 *out;
    float *out_scales;
    float *mean, *variance;  // (rows); written, but read in backward
    const float *gamma, *beta;
    float *partials;  // backward: (clusters, 2, cols), sums of dy x normalised, and of dy
    i64 rows, cols;
    i64 x_row_stride, x_col_stride, other_row_stride, other_col_stride, out_row_stride,
        out_col_stride;
    RoundKeys keys;
    u32 across, row_groups, steps;  // blocks across the matrix; steps of a CTA through its share
    float epsilon;
};

// Floats of a row that CTAs send to one another: mean and second moment, or two sums, or one.
#define SHARES (BACKWARD && !CENTRED ? 1 : 2)
#define PARITIES (WALKS ? 2 : 1)
#include "dataflow_cluster.cuh"
#if LINED
#include "dataflow_tiles.cuh"
#else
#include "dataflow_copies.cuh"
#endif

// What the threads of a CTA share beside codes.  What has two parities is written for the next row
// group while somebody may still read what is there of this one.
struct Exchange {
    float *columns;   // (COLUMN_VECTORS, columns of the share): gamma, beta
    u64 *arrivals;    // (2): barriers of what CTAs send
    float2 *normals;  // backward: (2, ROWS), 1 / standard deviation and -mean times that
    float *of_group;  // (TEAMS_ACROSS, ROWS, 4), or backward (THREADS / 32, ROWS, 2)
    float *of_share;  // (PARITIES, SPLITS, ROWS, SHARES): what CTAs send
    float *first;     // (PARITIES, ROWS) mean, or in backward the factor of x
    float *second;    // (PARITIES, ROWS) 1 / standard deviation, or what backward adds
    float *scales;    // (2, OPERANDS, steps, GROUPS)
    float *of_warp;   // (2, THREADS / 32, BESIDE): see block_peak
};

DEVICE void words_of(const uint4 &four, u32 *words) {
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
}

// Where a column's gamma and beta lie: lanes read the same four of sixteen columns each, which would lie
// in the same banks where eight lanes have as many columns.
DEVICE u32 column_place(u32 col) { return LINED ? col : col ^ col / (2 * VECTOR) % 4 * 4; }

// Those of sixteen columns.
DEVICE void columns_at(const float *from, u32 col, float *values) {
    const u32 place = column_place(col);
#pragma unroll
    for (u32 w = 0; w < WORDS; ++w) {
        const float4 four = *(const float4 *)(from + (place ^ 4 * w));
        values[4 * w] = four.x, values[4 * w + 1] = four.y;
        values[4 * w + 2] = four.z, values[4 * w + 3] = four.w;
    }
}

// A thread among its CTA's, and its CTA among its cluster's.
struct Part {
    u32 below, team, side;             // of its blocks: DOWN; its team and its block, across
    u32 rank, first_block, end_block;  // the share's blocks across
};

DEVICE Part part_of(const RowOperands &p) {
    Part part;
    part.below = threadIdx.x / TEAM % DOWN, part.team = threadIdx.x / TEAM / DOWN;
    part.side = part.team * BESIDE + block_of();
    part.rank = blockIdx.x % SPLITS;
    const u32 share = (p.across + SPLITS - 1) / SPLITS;
    part.first_block = part.rank * share;
    part.end_block = part.first_block + share < p.across ? part.first_block + share : p.across;
    return part;
}

// Where a block's scales lie among those of a step.
DEVICE u32 group_of(const Part &part) { return part.side * DOWN + part.below; }

#include "dataflow_row_sums.cuh"

// Where a step of a row group lies for a thread.
struct Step {
    u32 down, right;
    bool active;  // there is such a block
    Place first;
};

DEVICE Step step_of(const RowOperands &p, const Part &part, u32 row_group, u32 step) {
    Step at;
    at.down = row_group * DOWN + part.below;
#if LINED
    at.right = part.first_block + (step / SIDE * GROUPS_ACROSS + part.side) * SIDE + step % SIDE;
#else
    at.right = part.first_block + step * GROUPS_ACROSS + part.side;
#endif
    at.active = WHOLE || ((i64)at.down * BLOCK_ROWS < p.rows && at.right < part.end_block);
    at.first = first_place(at.down, at.right - block_of(), p.cols);
    return at;
}

DEVICE bool inside(const RowOperands &p, const Step &at, int i) {
    if (WHOLE) return true;
    const Place place = place_of(at.first, i, p.cols);
    return at.active && place.row < p.rows && place.col < p.cols;
}

DEVICE const float *x_scale_at(const RowOperands &p, const Step &at) {
    return p.x_scales + at.down * p.x_row_stride + at.right * p.x_col_stride;
}

DEVICE const float *other_scale_at(const RowOperands &p, const Step &at) {
    return p.other_scales + at.down * p.other_row_stride + at.right * p.other_col_stride;
}

#if LINED
// Stores a tile's codes, and the scales of its blocks, of which each lane has one; `last`: its last step.
DEVICE void store_tile(const RowOperands &p, const Step &last, const u8 *tile, float scale) {
    const i64 corner = last.first.index - lane_index(p.cols, VECTORS_PER_ROW) - (SIDE - 1) * BLOCK_COLS;
    const u32 lane = threadIdx.x % 32, right = last.right - (SIDE - 1) + lane;
    store_lines(p.cols, tile, p.out + corner + lane_index(p.cols, CHUNKS));
    store_scale(p.out_scales + last.down * p.out_row_stride + right * p.out_col_stride, scale,
                lane < SIDE);
}
#endif

// From the block's largest magnitude; stores codes and scale, but where tiles of lines take them.
DEVICE void quantize_block(const RowOperands &p, const Step &at, float (*y)[VECTOR], float peak,
                           bool is_nan, u32 (*words)[WORDS], float &scale) {
    const OutputScale out = output_scale(peak, 1.0f, is_nan);
#if !LINED
    store_scale(p.out_scales + at.down * p.out_row_stride + at.right * p.out_col_stride, out.scale,
                at.active && is_first());
#endif
    scale = out.scale;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Place place = place_of(at.first, i, p.cols);
        encode(y[i], out.multiplier, out.is_nan, place.index, p.keys, words[i]);
        if (!LINED)
            store_codes(p.out, place.index, place.col, p.cols, words[i], inside(p, at, i));
    }
}

#if OPERANDS > 0
// Where a thread's vector of a step lies; those of the other operand lie as far behind as all of these.
DEVICE u32 own_slot(u32 step, int i) {
#if LINED
    const u32 lane = threadIdx.x % 32, tile = step / SIDE * GROUPS + threadIdx.x / 32;
    const u32 place = chunk_place(lane / VECTORS_PER_ROW, lane % VECTORS_PER_ROW);
    return (tile * TILE_BYTES + (place ^ step % SIDE * BLOCK_COLS) + i * ROWS_A_VECTOR * LINE_BYTES) /
           VECTOR;
#else
    return (step * ITEMS + i) * THREADS + threadIdx.x;
#endif
}

// Brings a vector to shared memory, where only this thread reads it before a barrier.
DEVICE void fetch(uint4 *slot, const u8 *codes, const Place &at, bool inside, i64 cols) {
#if ALIGNED
    if (inside) {
        copy_async(slot, codes + at.index);
        return;
    }
#endif
    u32 words[WORDS] = {0, 0, 0, 0};
    if (inside) load_codes(codes, at.index, at.col, cols, words);
    *slot = make_uint4(words[0], words[1], words[2], words[3]);
}

// A row group's codes: of even and odd ones in turn where there is room for two.
DEVICE uint4 *stage_of(const RowOperands &p, uint4 *codes, u32 parity) {
    return STAGES == 1 ? codes : codes + (u64)parity * OPERANDS * p.steps * ITEMS * THREADS;
}

// Asks for a thread's vectors of a step, and its group's scales; nobody waits here.
DEVICE void fetch_step(const RowOperands &p, const Exchange &shared, const Part &part, uint4 *codes,
                       u32 row_group, u32 step, u32 parity) {
    codes = stage_of(p, codes, parity);
#if LINED
    // A warp's tile, with its last step.
    if (step % SIDE < SIDE - 1) return;
    Step at = step_of(p, part, row_group, step - step % SIDE);
    const i64 index = (i64)at.down * BLOCK_ROWS * p.cols + (i64)at.right * BLOCK_COLS +
                      lane_index(p.cols, CHUNKS);
    u8 *tile = (u8 *)codes + (step / SIDE * GROUPS + threadIdx.x / 32) * TILE_BYTES;
    copy_lines(p.cols, p.x + index, tile);
#if BACKWARD
    copy_lines(p.cols, p.other + index, tile + (u64)p.steps * ITEMS * THREADS * VECTOR);
#endif
    const u32 block = threadIdx.x % 32;
    if (block >= SIDE) return;
    at.right += block;
    float *scale = shared.scales +
                   (parity * OPERANDS * p.steps + step / SIDE * SIDE + block) * GROUPS + part.side;
    copy_float_async(scale, x_scale_at(p, at));
#if BACKWARD
    copy_float_async(scale + p.steps * GROUPS, other_scale_at(p, at));
#endif
#else
    const Step at = step_of(p, part, row_group, step);
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Place place = place_of(at.first, i, p.cols);
        uint4 *slot = codes + (step * ITEMS + i) * THREADS + threadIdx.x;
        fetch(slot, p.x, place, inside(p, at, i), p.cols);
#if BACKWARD
        fetch(slot + (u64)p.steps * ITEMS * THREADS, p.other, place, inside(p, at, i), p.cols);
#endif
    }
    if (is_first()) {
        float *scale = shared.scales + (parity * OPERANDS * p.steps + step) * GROUPS + group_of(part);
        if (at.active)
            copy_float_async(scale, x_scale_at(p, at));
        else
            *scale = 1.0f;
#if BACKWARD
        if (at.active)
            copy_float_async(scale + p.steps * GROUPS, other_scale_at(p, at));
        else
            scale[p.steps * GROUPS] = 1.0f;
#endif
    }
#endif
}

// What the second pass takes of a vector's row: backward the factors of x and of dy, else the factor of x;
// and what is added.
struct RowTerms {
    float x, dy, level;
};

DEVICE RowTerms row_terms(const Exchange &shared, u32 at) {
    const float first = shared.first[at], second = shared.second[at];
#if BACKWARD
    RowTerms row = {first, shared.normals[at].x, second};
#else
    RowTerms row = {second, 0.0f, -first * second};
#endif
    return row;
}

#define STEPS_A_TILE (LINED ? LINE_BYTES / BLOCK_COLS : 1)

// Outputs of a row group, from its codes in shared memory; asks for those of `next`.
DEVICE void write_group(const RowOperands &p, const Exchange &shared, const Part &part, uint4 *all,
                        u32 row_group, u32 next, u32 parity) {
    uint4 *codes = stage_of(p, all, parity);
    const u32 next_parity = STAGES == 1 ? parity ^ 1 : parity;
#if LINED
    // A tile's places are worked out once, and what belongs to rows once a row group.
    const u32 lane = threadIdx.x % 32, place_in_tile = chunk_place(lane / VECTORS_PER_ROW, lane % VECTORS_PER_ROW);
    float of_lane = 1.0f;  // its block's scale
    RowTerms rows[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
        rows[i] = row_terms(shared, parity * ROWS + part.below * BLOCK_ROWS + lane / VECTORS_PER_ROW + down_of(i));
#endif
#pragma unroll 1
    for (u32 step = 0; step < p.steps;) {
        Step at = step_of(p, part, row_group, step);
        const float *scales =
            shared.scales + (parity * OPERANDS * p.steps + step) * GROUPS + group_of(part);
#if LINED
        const Step first = at;
        u8 *const tile = (u8 *)codes + (step / SIDE * GROUPS + threadIdx.x / 32) * TILE_BYTES;
#endif
#pragma unroll 1
        for (u32 b = 0; b < STEPS_A_TILE; ++b, ++step, scales += GROUPS) {
#if LINED
            uint4 *const slots = (uint4 *)(tile + (place_in_tile ^ b * BLOCK_COLS));
            at.right = first.right + b;
            at.first.col = first.first.col + b * BLOCK_COLS, at.first.index = first.first.index + b * BLOCK_COLS;
#endif
            const float x_scale = scales[0];
#if BACKWARD
            const float dy_scale = scales[p.steps * GROUPS];
            const bool is_nan = !(x_scale <= FLOAT_MAX) || !(dy_scale <= FLOAT_MAX);
#else
            const bool is_nan = false;  // no value is finite under a scale that is not
#endif
            float y[ITEMS][VECTOR], peak = 0.0f, scale, gamma[VECTOR];
#if !BACKWARD
            float beta[VECTOR] = {};
#endif
            u32 words[ITEMS][WORDS];
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const Place place = place_of(at.first, i, p.cols);
                if (i == 0 || LANES < VECTORS_PER_ROW) {
                    const u32 col = (u32)(place.col - (i64)part.first_block * BLOCK_COLS);
                    columns_at(shared.columns, col, gamma);
#if OP == LAYERNORM
                    columns_at(shared.columns + p.steps * GROUPS_ACROSS * BLOCK_COLS, col, beta);
#endif
                }
#if LINED
                const uint4 *slot = slots + i * (ROWS_A_VECTOR * LINE_BYTES / VECTOR);
                const RowTerms row = rows[i];
#else
                const uint4 *slot = codes + own_slot(step, i);
                const RowTerms row = row_terms(shared, parity * ROWS + (u32)(place.row - (i64)row_group * ROWS));
#endif
                words_of(*slot, words[i]);
#pragma unroll
                for (int w = 0; w < WORDS; ++w) decode(words[i][w], y[i] + 4 * w);
#if BACKWARD
                // x's part has the mean gradients in it: see reduce_sums.
                const float slope = row.x * x_scale, factor = row.dy * dy_scale;
                u32 dy_words[WORDS];
                words_of(slot[(u64)p.steps * ITEMS * THREADS], dy_words);
#pragma unroll
                for (int w = 0; w < WORDS; ++w) {
                    float dy[4];
                    decode(dy_words[w], dy);
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        float &value = y[i][4 * w + k];
                        value = __fmaf_rn(dy[k] * gamma[4 * w + k], factor,
                                          __fmaf_rn(value, slope, row.level));
                    }
                }
#else
                const float factor = x_scale * row.x;
#pragma unroll
                for (int k = 0; k < VECTOR; ++k)
                    y[i][k] = CENTRED ? __fmaf_rn(__fmaf_rn(y[i][k], factor, row.level), gamma[k], beta[k])
                                      : y[i][k] * factor * gamma[k];
#endif
                // What lies outside is not stored: it only must not count.
                const int count = inside(p, at, i) ? columns_inside(place, p) : 0;
                float highest = 0.0f;
#pragma unroll
                for (int k = 0; k < VECTOR; ++k)
                    if (ALIGNED || k < count) highest = larger(highest, fabsf(y[i][k]));
                peak = larger(peak, ALIGNED && count == 0 ? 0.0f : highest);
            }
            peak = block_peak(peak, shared.of_warp, step % 2);
            // Behind that, all threads of the block have its codes' scales, and have taken them up: what lanes
            // exchange orders no memory.
            if (TEAM <= 32) __syncwarp();
#if LINED
            quantize_block(p, at, y, peak, is_nan, words, scale);
#pragma unroll
            for (int i = 0; i < ITEMS; ++i)
                slots[i * (ROWS_A_VECTOR * LINE_BYTES / VECTOR)] =
                    make_uint4(words[i][0], words[i][1], words[i][2], words[i][3]);
            of_lane = lane == b ? scale : of_lane;
        }
        __syncwarp();
        store_tile(p, at, tile, of_lane);
        __syncwarp();
        if (next < p.row_groups) fetch_step(p, shared, part, all, next, step - 1, next_parity);
#else
            if (next < p.row_groups) fetch_step(p, shared, part, all, next, step, next_parity);
            quantize_block(p, at, y, peak, is_nan, words, scale);
        }
#endif
    }
}
#else
// Both addends of a step, on their way to registers.
struct Loaded {
    Step at;
    float x_scale, other_scale;
    u32 x[ITEMS][WORDS], other[ITEMS][WORDS];
};

// Their sum; returns its largest magnitude.
DEVICE float added(const Loaded &from, float (*y)[VECTOR]) {
    float peak = 0.0f;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i)
#pragma unroll
        for (int w = 0; w < WORDS; ++w) {
            float *four = y[i] + 4 * w, values[4];
            decode(from.x[i][w], four);
            decode(from.other[i][w], values);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                four[k] = __fmaf_rn(four[k], from.x_scale, values[k] * from.other_scale);
                peak = larger(peak, fabsf(four[k]));
            }
        }
    return peak;
}

#if LINED
#define STAGE_BYTES (2 * TILE_BYTES)  // both addends

// Asks for a warp's tile from `step` on, and the scales of its blocks, of which each lane has one.
DEVICE void ask_for_addends(const RowOperands &p, const Part &part, u32 row_group, u32 step, u8 *stage,
                            float &x_scale, float &other_scale) {
    Step at = step_of(p, part, row_group, step);
    const i64 lines =
        at.first.index - lane_index(p.cols, VECTORS_PER_ROW) + lane_index(p.cols, CHUNKS);
    copy_lines(p.cols, p.x + lines, stage);
    copy_lines(p.cols, p.other + lines, stage + TILE_BYTES);
    at.right += threadIdx.x % SIDE;
    x_scale = __ldg(x_scale_at(p, at));
    other_scale = __ldg(other_scale_at(p, at));
}

// Adds, rounds and stores a row group's codes, of which a warp has tiles one after the other, the next one
// under way; takes what is stored into the rows' moments.
DEVICE void add_group(const RowOperands &p, const Exchange &shared, const Part &part, uint4 *codes,
                      u32 row_group, Moments *own) {
    const u32 lane = threadIdx.x % 32;
    u8 *const stages = (u8 *)codes + threadIdx.x / 32 * (2 * STAGE_BYTES);
    const u32 place = chunk_place(lane / VECTORS_PER_ROW, lane % VECTORS_PER_ROW);
#pragma unroll
    for (int s = 0; s < SLOTS; ++s) own[s].count = own[s].mean = own[s].second = 0.0f;
    float next_x, next_other, of_lane = 1.0f;
    ask_for_addends(p, part, row_group, 0, stages, next_x, next_other);
#pragma unroll 1
    for (u32 step = 0, stage = 0; step < p.steps; stage ^= STAGE_BYTES) {
        Loaded from;
        u8 *tile = stages + stage;
        const float x_scales = next_x, other_scales = next_other;
        copies_begun();
        if (step + SIDE < p.steps)
            ask_for_addends(p, part, row_group, step + SIDE, stages + (stage ^ STAGE_BYTES), next_x,
                            next_other);
        copies_begun();
        copies_left<1>();
        __syncwarp();
#pragma unroll 1
        for (u32 b = 0; b < SIDE; ++b, ++step) {
            from.at = step_of(p, part, row_group, step);
            from.x_scale = __shfl_sync(0xffffffffu, x_scales, b);
            from.other_scale = __shfl_sync(0xffffffffu, other_scales, b);
            uint4 *slot = (uint4 *)(tile + (place ^ b * BLOCK_COLS));
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const uint4 *at = slot + i * (ROWS_A_VECTOR * LINE_BYTES / VECTOR);
                words_of(at[0], from.x[i]);
                words_of(at[TILE_BYTES / VECTOR], from.other[i]);
            }
            float y[ITEMS][VECTOR], scale;
            const float peak = block_peak(added(from, y), shared.of_warp, 0);
            u32 words[ITEMS][WORDS];
            quantize_block(p, from.at, y, peak, false, words, scale);
#pragma unroll
            for (int i = 0; i < ITEMS; ++i)
                slot[i * (ROWS_A_VECTOR * LINE_BYTES / VECTOR)] =
                    make_uint4(words[i][0], words[i][1], words[i][2], words[i][3]);
            add_moments(p, from.at.first, true, step, words, scale, own);
            of_lane = lane == b ? scale : of_lane;
        }
        __syncwarp();
        store_tile(p, from.at, tile, of_lane);
        __syncwarp();
    }
}
#else
DEVICE void load_step(const RowOperands &p, const Part &part, u32 row_group, u32 step, Loaded &from) {
    from.at = step_of(p, part, row_group, step);
    from.x_scale = from.at.active ? __ldg(x_scale_at(p, from.at)) : 1.0f;
    from.other_scale = from.at.active ? __ldg(other_scale_at(p, from.at)) : 1.0f;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Place place = place_of(from.at.first, i, p.cols);
#pragma unroll
        for (int w = 0; w < WORDS; ++w) from.x[i][w] = from.other[i][w] = 0;
        if (inside(p, from.at, i)) {
            load_codes(p.x, place.index, place.col, p.cols, from.x[i]);
            load_codes(p.other, place.index, place.col, p.cols, from.other[i]);
        }
    }
}

// Adds, rounds and stores a row group's codes; takes what is stored into the rows' moments.
DEVICE void add_group(const RowOperands &p, const Exchange &shared, const Part &part, uint4 *,
                      u32 row_group, Moments *own) {
#pragma unroll
    for (int s = 0; s < SLOTS; ++s) own[s].count = own[s].mean = own[s].second = 0.0f;
    Loaded from;
    load_step(p, part, row_group, 0, from);
#pragma unroll 1
    for (u32 step = 0; step < p.steps; ++step) {
        float y[ITEMS][VECTOR], peak = added(from, y), scale;
        const Step at = from.at;
        if (step + 1 < p.steps) load_step(p, part, row_group, step + 1, from);
        u32 words[ITEMS][WORDS];
        peak = block_peak(peak, shared.of_warp, step % 2);
        quantize_block(p, at, y, peak, false, words, scale);
        add_moments(p, at.first, at.active, step, words, scale, own);
    }
}
#endif
#endif

#if OPERANDS > 0
#define NORMALS ((ROWS + THREADS - 1) / THREADS)  // rows of a group that a thread looks after

// Mean and variance of rows, on their way to registers; backward alone has them.
DEVICE void load_normals(const RowOperands &p, u32 row_group, float2 *normals) {
#if BACKWARD
#pragma unroll
    for (int n = 0; n < NORMALS; ++n) {
        const u32 row = threadIdx.x + n * THREADS;
        const i64 at = (i64)row_group * ROWS + row;
        const bool there = row < ROWS && at < p.rows;
        normals[n] = there ? make_float2(p.mean[at], p.variance[at]) : make_float2(0.0f, 1.0f);
    }
#endif
}

DEVICE void store_normals(const RowOperands &p, const Exchange &shared, const float2 *normals,
                          u32 parity) {
#if BACKWARD
#pragma unroll
    for (int n = 0; n < NORMALS; ++n) {
        const u32 row = threadIdx.x + n * THREADS;
        const float mean = normals[n].x;
        const float spread = CENTRED ? normals[n].y : __fmaf_rn(mean, mean, normals[n].y);
        const float rstd = rsqrtf(spread + p.epsilon);
        if (row < ROWS)
            shared.normals[parity * ROWS + row] =
                make_float2(rstd, CENTRED ? -mean * rstd : 0.0f);
    }
#endif
}
#endif

#if OPERANDS == 1
// Moments of a thread's rows, from a group's codes in shared memory.
DEVICE void take_moments(const RowOperands &p, const Exchange &shared, const Part &part,
                         const uint4 *codes, u32 row_group, u32 parity, Moments *own) {
#pragma unroll
    for (int s = 0; s < SLOTS; ++s) own[s].count = own[s].mean = own[s].second = 0.0f;
#pragma unroll 2
    for (u32 step = 0; step < p.steps; ++step) {
        const Step at = step_of(p, part, row_group, step);
        const float scale = shared.scales[(parity * p.steps + step) * GROUPS + group_of(part)];
        u32 words[ITEMS][WORDS];
#pragma unroll
        for (int i = 0; i < ITEMS; ++i)
            words_of(codes[own_slot(step, i)], words[i]);
        add_moments(p, at.first, at.active, step, words, scale, own);
    }
}
#endif

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, CTAS)
    dataflow_rows(const RowOperands given) {
    SHARED_MEMORY(arena);
    // As it was timed: of the parameter itself NVRTC 13.5 makes another schedule of some norms.
    const RowOperands &p = given;
    uint4 *codes = (uint4 *)arena;
    const u32 share_cols = p.steps * GROUPS_ACROSS * BLOCK_COLS;
    Exchange shared;
#if LINED && OP == RESIDUAL
    shared.columns = (float *)(codes + GROUPS * 2 * STAGE_BYTES / VECTOR);
#else
    shared.columns = (float *)(codes + (u64)STAGES * OPERANDS * p.steps * ITEMS * THREADS);
#endif
    shared.arrivals = (u64 *)(shared.columns + COLUMN_VECTORS * share_cols);
    shared.normals = (float2 *)(shared.arrivals + 2);
    shared.of_group = (float *)(shared.normals + (BACKWARD ? 2 * ROWS : 0));
    shared.of_share = shared.of_group + (BACKWARD ? THREADS / 16 : 4 * TEAMS_ACROSS) * ROWS;
    shared.first = shared.of_share + PARITIES * SPLITS * SHARES * ROWS;
    shared.second = shared.first + PARITIES * ROWS;
    shared.scales = shared.second + PARITIES * ROWS;
    shared.of_warp = shared.scales + 2 * OPERANDS * p.steps * GROUPS;
    const Part part = part_of(p);
    const u32 clusters = gridDim.x / SPLITS;
    u32 row_group = blockIdx.x / SPLITS, parity = 0, phase = 0;  // of the barriers in turn
    bool met = false;
    shares_begin(shared.arrivals);
    follow_launch();
#if OPERANDS > 0
    if (row_group < p.row_groups)
        for (u32 step = 0; step < p.steps; ++step)
            fetch_step(p, shared, part, codes, row_group, step, 0);
    for (u32 k = threadIdx.x; k < share_cols; k += THREADS) {
        const i64 col = (i64)part.first_block * BLOCK_COLS + k;
        shared.columns[column_place(k)] = col < p.cols ? p.gamma[col] : 0.0f;
#if OP == LAYERNORM
        shared.columns[share_cols + column_place(k)] = col < p.cols ? p.beta[col] : 0.0f;
#endif
    }
#endif
#if BACKWARD
    float column_sums[COLUMN_STEPS][COLUMN_SUMS];
#pragma unroll
    for (int c = 0; c < COLUMN_STEPS; ++c)
#pragma unroll
        for (int k = 0; k < COLUMN_SUMS; ++k) column_sums[c][k] = 0.0f;
#endif
#if OP == RESIDUAL
    for (; row_group < p.row_groups; row_group += clusters, phase ^= parity, parity ^= 1) {
        Moments own[SLOTS];
        add_group(p, shared, part, codes, row_group, own);
        if (!met) shares_met(), met = true;
        publish_moments(shared, own, part, parity);
        shares_sent();
        await_shares(shared.arrivals + parity, phase);
        finish_moments(p, shared, part, (i64)row_group * ROWS, parity);
        // A CTA alone has no cluster's barrier: some may still add up what others write for the next rows.
        if (SPLITS == 1 && row_group + clusters < p.row_groups) __syncthreads();
    }
#else
    // `row_group` is at its first pass; where there are two stages, `behind` is at its second one.
    float2 normals[NORMALS];
    load_normals(p, row_group, normals);
    for (u32 behind = p.row_groups;;
         behind = row_group, row_group += clusters, phase ^= parity, parity ^= 1) {
        const bool more = row_group < p.row_groups, late = STAGES == 2 && behind < p.row_groups;
        const u32 next = row_group + clusters;
        if (!more && !late) break;
        if (more) {
            store_normals(p, shared, normals, parity);
            copies_done();
            __syncthreads();
            if (STAGES == 2 && !late && next < p.row_groups)
                for (u32 step = 0; step < p.steps; ++step)
                    fetch_step(p, shared, part, codes, next, step, parity ^ 1);
#if BACKWARD
            sum_products(p, shared, stage_of(p, codes, parity), parity, part, column_sums);
            if (!met) shares_met(), met = true;
            publish_sums(shared, part, parity);
#else
            Moments own[SLOTS];
            take_moments(p, shared, part, stage_of(p, codes, parity), row_group, parity, own);
            if (!met) shares_met(), met = true;
            publish_moments(shared, own, part, parity);
#endif
            shares_sent();
            load_normals(p, next, normals);
        }
        if (late) write_group(p, shared, part, codes, behind, next, parity ^ 1);
        if (more) {
            await_shares(shared.arrivals + parity, phase);
#if BACKWARD
            finish_sums(p, shared, parity);
#else
            finish_moments(p, shared, part, (i64)row_group * ROWS, parity);
#endif
        }
        __syncthreads();
        if (STAGES == 1) write_group(p, shared, part, codes, row_group, next, parity);
    }
#endif
#if BACKWARD
    float *products = p.partials + (u64)(blockIdx.x / SPLITS) * 2 * p.cols;
    const u32 wide = (part.end_block - part.first_block) * BLOCK_COLS;
    for (int c = 0; c < COLUMN_STEPS; ++c) {
        bool of_products;
        const u32 local = column_of(c, of_products);
        const i64 col = (i64)part.first_block * BLOCK_COLS + local;
        if (part.first_block >= part.end_block || local >= wide) continue;
        for (int k = 0; k < COLUMN_SUMS; ++k)
            if (col + k < p.cols) products[(of_products ? 0 : p.cols) + col + k] = column_sums[c][k];
    }
#endif
}

#if BACKWARD
#include "dataflow_column_sums.cuh"
#endif
