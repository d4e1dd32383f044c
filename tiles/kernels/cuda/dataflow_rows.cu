// Operators of the INT8 dataflow that need whole rows: residual add with the row statistics of its
// sum, LayerNorm and RMSNorm forward and backward.
//
// A cluster of SPLITS CTAs owns ROWS rows (whole blocks high) at a time and reads them once: each CTA
// takes a share of the columns and keeps its codes in shared memory between the statistics and the
// output.  Row sums meet in distributed shared memory, in the order of the CTAs, so results do not
// depend on timing.  Within a CTA, LANES threads share a block as in dataflow_blocks.cu; GROUPS of
// them take DOWN blocks below one another, GROUPS / DOWN side by side, and step along the columns.
//
// Statistics are of what the codes stand for: of the stored sum, not of the one before rounding.
//
// Backward also sums over rows: each cluster walks through row groups and keeps its columns' sums in
// registers; what clusters leave is added up by dataflow_column_sums in their order.
//
// Macros beside those of dataflow_device.cuh: OP, ROWS, SPLITS, COLUMN_STEPS (words of 4 columns that
// a thread sums in a CTA's share), CTAS.
#define RESIDUAL 0
#define LAYERNORM 1
#define RMSNORM 2
#define LAYERNORM_BWD 3
#define RMSNORM_BWD 4

// Dot products, and stores that are no branches, spill in backward when NVRTC 13.0 compiles it.
#define PERMUTED (OP == LAYERNORM_BWD || OP == RMSNORM_BWD)
#include "dataflow_device.cuh"

#define GROUPS (THREADS / LANES)
#define DOWN (ROWS / BLOCK_ROWS)
#define GROUPS_ACROSS (GROUPS / DOWN)
#define BACKWARD (OP == LAYERNORM_BWD || OP == RMSNORM_BWD)
#define CENTRED (OP == LAYERNORM || OP == LAYERNORM_BWD)
#define LANES_PER_ROW (LANES < VECTORS_PER_ROW ? LANES : VECTORS_PER_ROW)
// Rows of a block that a thread has vectors of, and which of them vector i lies in.
#define SLOTS (LANES >= VECTORS_PER_ROW ? ITEMS : BLOCK_ROWS)
#define SLOT(i) (LANES >= VECTORS_PER_ROW ? (i) : (i) * LANES / VECTORS_PER_ROW)
#define OPERANDS (OP == RESIDUAL ? 0 : BACKWARD ? 2 : 1)  // kept in shared memory

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

#include "dataflow_cluster.cuh"
#include "dataflow_row_sums.cuh"

DEVICE void quantize_block(const RowOperands &p, const Exchange &shared, const Place &first,
                           bool active, float (*y)[VECTOR], float peak, bool is_nan, u32 down,
                           u32 right, u32 lane, u32 (*words)[WORDS], float &scale) {
    const OutputScale out = output_scale(block_peak(peak, shared.of_warp), 1.0f, is_nan);
    store_scale(p.out_scales + down * p.out_row_stride + right * p.out_col_stride, out.scale,
                active && lane == 0);
    scale = out.scale;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Place at = place_of(first, i, p.cols);
        encode(y[i], out.multiplier, out.is_nan, at.index, p.keys, words[i]);
        const bool inside = active && at.row < p.rows && at.col < p.cols;
#if BACKWARD
        if (!inside) continue;  // a branch: backward has no registers for all vectors side by side
#endif
        store_codes(p.out, at.index, at.col, p.cols, words[i], inside);
    }
}

DEVICE void words_of(const uint4 &four, u32 *words) {
    words[0] = four.x, words[1] = four.y, words[2] = four.z, words[3] = four.w;
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

extern "C" __global__ void CLUSTER __launch_bounds__(THREADS, CTAS)
    dataflow_rows(const RowOperands p) {
    SHARED_MEMORY(arena);
    uint4 *codes = (uint4 *)arena;
    float *floats = (float *)(codes + (u64)OPERANDS * p.steps * ITEMS * THREADS);
    Exchange shared;
    shared.of_warp = floats;
    shared.of_group = floats + THREADS / 16;  // an even number, so that what follows lies on 8 bytes
    shared.of_share = shared.of_group + 4 * GROUPS_ACROSS * ROWS;
    shared.first = shared.of_share + 4 * ROWS;
    shared.second = shared.first + ROWS;
    const u32 lane = threadIdx.x % LANES, group = threadIdx.x / LANES;
    const u32 below = group % DOWN, side = group / DOWN;
    const u32 rank = blockIdx.x % SPLITS, clusters = gridDim.x / SPLITS;
    const u32 share = (p.across + SPLITS - 1) / SPLITS;
    const u32 first_block = rank * share;
    const u32 end_block = first_block + share < p.across ? first_block + share : p.across;
#if BACKWARD
    float2 *normals = (float2 *)(shared.second + ROWS);
    float column_sums[COLUMN_STEPS][8];
#pragma unroll
    for (int j = 0; j < COLUMN_STEPS; ++j)
#pragma unroll
        for (int k = 0; k < 8; ++k) column_sums[j][k] = 0.0f;
#endif
    for (u32 row_group = blockIdx.x / SPLITS; row_group < p.row_groups; row_group += clusters) {
        const i64 top = (i64)row_group * ROWS;
        const u32 down = row_group * DOWN + below;
        const bool rows_left = top + (i64)below * BLOCK_ROWS < p.rows;
#if OPERANDS > 0
        for (u32 step = 0; step < p.steps; ++step) {
            const u32 right = first_block + step * GROUPS_ACROSS + side;
            const bool active = rows_left && right < end_block;
            const Place first = first_place(down, right, lane, p.cols);
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const Place at = place_of(first, i, p.cols);
                const bool inside = active && at.row < p.rows && at.col < p.cols;
                uint4 *slot = codes + (step * ITEMS + i) * THREADS + threadIdx.x;
                fetch(slot, p.x, at, inside, p.cols);
#if BACKWARD
                fetch(slot + (u64)p.steps * ITEMS * THREADS, p.other, at, inside, p.cols);
#endif
            }
        }
#endif
#if BACKWARD
        for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
            const bool inside = top + row < p.rows;
            const float mean = inside ? p.mean[top + row] : 0.0f;
            float spread = inside ? p.variance[top + row] : 1.0f;
            if (!CENTRED) spread = __fmaf_rn(mean, mean, spread);
            const float rstd = rsqrtf(spread + p.epsilon);
            normals[row] = make_float2(rstd, CENTRED ? -mean * rstd : 0.0f);
        }
        __syncthreads();
#endif
#if OPERANDS > 0
        copies_done();
#endif
#if BACKWARD
        float gradient[SLOTS], along[SLOTS];
#pragma unroll
        for (int s = 0; s < SLOTS; ++s) gradient[s] = along[s] = 0.0f;
#else
        Moments own[SLOTS];
#pragma unroll
        for (int s = 0; s < SLOTS; ++s) own[s].count = own[s].mean = own[s].second = 0.0f;
#endif
        // First pass: statistics, or for the residual everything but them.
        for (u32 step = 0; step < p.steps; ++step) {
            const u32 right = first_block + step * GROUPS_ACROSS + side;
            const bool active = rows_left && right < end_block;
            const Place first = first_place(down, right, lane, p.cols);
            const float x_scale =
                active ? __ldg(p.x_scales + down * p.x_row_stride + right * p.x_col_stride) : 1.0f;
#if OP == RESIDUAL || BACKWARD
            const float other_scale = active ? __ldg(p.other_scales + down * p.other_row_stride +
                                                     right * p.other_col_stride)
                                             : 1.0f;
#endif
            u32 words[ITEMS][WORDS];
#if OP == RESIDUAL
            float y[ITEMS][VECTOR], peak = 0.0f, scale;
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const Place at = place_of(first, i, p.cols);
                u32 other[WORDS];
#pragma unroll
                for (int w = 0; w < WORDS; ++w) words[i][w] = other[w] = 0;
                if (active && at.row < p.rows && at.col < p.cols) {
                    load_codes(p.x, at.index, at.col, p.cols, words[i]);
                    load_codes(p.other, at.index, at.col, p.cols, other);
                }
#pragma unroll
                for (int w = 0; w < WORDS; ++w) {
                    float values[4];
                    decode(words[i][w], y[i] + 4 * w);
                    decode(other[w], values);
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        float &sum = y[i][4 * w + k];
                        sum = __fmaf_rn(sum, x_scale, values[k] * other_scale);
                        peak = larger(peak, fabsf(sum));
                    }
                }
            }
            const bool is_nan = !(x_scale <= FLOAT_MAX) || !(other_scale <= FLOAT_MAX);
            quantize_block(p, shared, first, active, y, peak, is_nan, down, right, lane, words,
                           scale);
#else
            const float scale = x_scale;
#pragma unroll
            for (int i = 0; i < ITEMS; ++i)
                words_of(codes[(step * ITEMS + i) * THREADS + threadIdx.x], words[i]);
#endif
#if BACKWARD
            float gamma[VECTOR];
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const Place at = place_of(first, i, p.cols);
                if (i == 0 || LANES < VECTORS_PER_ROW) {
#pragma unroll
                    for (int k = 0; k < VECTOR; ++k) gamma[k] = 0.0f;
                    if (active && at.col < p.cols) load_columns(p.gamma, at.col, p.cols, gamma);
                }
                u32 dy_words[WORDS];
                words_of(codes[((p.steps + step) * ITEMS + i) * THREADS + threadIdx.x], dy_words);
                const float2 normal = normals[at.row - top];
                const float factor = scale * normal.x;
                float sum = 0.0f, product = 0.0f;
#pragma unroll
                for (int w = 0; w < WORDS; ++w) {
                    float x[4], dy[4];
                    decode(words[i][w], x);
                    decode(dy_words[w], dy);
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        const float weighted = dy[k] * gamma[4 * w + k];
                        sum += weighted;
                        product = __fmaf_rn(weighted, __fmaf_rn(x[k], factor, normal.y), product);
                    }
                }
                if (active) {
                    gradient[SLOT(i)] = __fmaf_rn(sum, other_scale, gradient[SLOT(i)]);
                    along[SLOT(i)] = __fmaf_rn(product, other_scale, along[SLOT(i)]);
                }
            }
#else
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const int count = active ? columns_inside(place_of(first, i, p.cols), p) : 0;
                if (count > 0) own[SLOT(i)] = merged(own[SLOT(i)], moments(words[i], scale, count));
            }
#endif
        }
#if BACKWARD
        reduce_sums(p, shared, gradient, along, lane, below, side);
        add_columns(p, codes, normals, top, first_block, end_block, column_sums);
#else
        reduce_moments(p, shared, own, lane, below, side, top, rank);
#endif
#if OPERANDS > 0
        // Second pass: outputs.
        for (u32 step = 0; step < p.steps; ++step) {
            const u32 right = first_block + step * GROUPS_ACROSS + side;
            const bool active = rows_left && right < end_block;
            const Place first = first_place(down, right, lane, p.cols);
            const float x_scale =
                active ? __ldg(p.x_scales + down * p.x_row_stride + right * p.x_col_stride) : 1.0f;
            bool is_nan = !(x_scale <= FLOAT_MAX);
#if BACKWARD
            const float other_scale = active ? __ldg(p.other_scales + down * p.other_row_stride +
                                                     right * p.other_col_stride)
                                             : 1.0f;
            is_nan = is_nan || !(other_scale <= FLOAT_MAX);
#endif
            float y[ITEMS][VECTOR], peak = 0.0f, scale, gamma[VECTOR], beta[VECTOR];
            u32 words[ITEMS][WORDS];
#pragma unroll
            for (int i = 0; i < ITEMS; ++i) {
                const Place at = place_of(first, i, p.cols);
                const bool inside = active && at.row < p.rows && at.col < p.cols;
                if (i == 0 || LANES < VECTORS_PER_ROW) {
#pragma unroll
                    for (int k = 0; k < VECTOR; ++k) gamma[k] = beta[k] = 0.0f;
                    if (active && at.col < p.cols) {
                        load_columns(p.gamma, at.col, p.cols, gamma);
#if OP == LAYERNORM
                        load_columns(p.beta, at.col, p.cols, beta);
#endif
                    }
#if BACKWARD
#pragma unroll
                    for (int k = 0; k < VECTOR; ++k) gamma[k] *= other_scale;
#endif
                }
                words_of(codes[(step * ITEMS + i) * THREADS + threadIdx.x], words[i]);
#pragma unroll
                for (int w = 0; w < WORDS; ++w) decode(words[i][w], y[i] + 4 * w);
                const u32 row = (u32)(at.row - top);
#if BACKWARD
                const float2 normal = normals[row];
                const float rstd = normal.x, factor = x_scale * rstd;
                const float level = CENTRED ? -shared.first[row] * rstd : 0.0f;
                const float tilt = -shared.second[row] * rstd;
                u32 dy_words[WORDS];
                words_of(codes[((p.steps + step) * ITEMS + i) * THREADS + threadIdx.x], dy_words);
#pragma unroll
                for (int w = 0; w < WORDS; ++w) {
                    float dy[4];
                    decode(dy_words[w], dy);
#pragma unroll
                    for (int k = 0; k < 4; ++k) {
                        float &value = y[i][4 * w + k];
                        const float normalised = __fmaf_rn(value, factor, normal.y);
                        const float weighted = dy[k] * gamma[4 * w + k];
                        value = __fmaf_rn(weighted, rstd, __fmaf_rn(normalised, tilt, level));
                    }
                }
#else
                const float rstd = shared.second[row], factor = x_scale * rstd;
                const float shift = -shared.first[row] * rstd;
#pragma unroll
                for (int k = 0; k < VECTOR; ++k)
                    y[i][k] = CENTRED
                                  ? __fmaf_rn(__fmaf_rn(y[i][k], factor, shift), gamma[k], beta[k])
                                  : y[i][k] * factor * gamma[k];
#endif
                // What lies outside is not stored: it only must not count.
                const int count = inside ? columns_inside(at, p) : 0;
                float highest = 0.0f;
#pragma unroll
                for (int k = 0; k < VECTOR; ++k)
                    if (ALIGNED || k < count) highest = larger(highest, fabsf(y[i][k]));
                peak = larger(peak, ALIGNED && count == 0 ? 0.0f : highest);
            }
            quantize_block(p, shared, first, active, y, peak, is_nan, down, right, lane, words,
                           scale);
        }
        __syncthreads();  // codes and row sums are overwritten next
#endif
    }
#if BACKWARD
    float *products = p.partials + (u64)(blockIdx.x / SPLITS) * 2 * p.cols;
    for (int j = 0; j < COLUMN_STEPS; ++j) {
        const u32 local = 4 * (threadIdx.x + j * THREADS);
        const i64 col = (i64)first_block * BLOCK_COLS + local;
        if (first_block + local / BLOCK_COLS >= end_block) continue;
        for (int k = 0; k < 4; ++k) {
            if (col + k >= p.cols) continue;
            products[col + k] = column_sums[j][k];
            products[p.cols + col + k] = column_sums[j][4 + k];
        }
    }
#endif
}

#if BACKWARD
#include "dataflow_column_sums.cuh"
#endif
