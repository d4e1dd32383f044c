// Sums along rows: of lanes, of the groups of a CTA, and of the CTAs of a cluster in their order.
//
// Statistics are mean and variance of what the codes stand for.  int8 sums and squares of 16 codes
// are integers and exact; means and second moments about them are merged by Chan's formula, so a
// large mean costs no digits.
//
// Backward sums over rows too, for the gradients of gamma and beta: a cluster keeps the sums of its
// columns in registers while it walks through its rows.
//
// Macros: those of dataflow_rows.cu.

struct Moments {
    float count, mean, second;  // second: sum of squares about the mean
};

// Of both sets together (Chan, Golub and LeVeque, 1983).
DEVICE Moments merged(const Moments &a, const Moments &b) {
    float count = a.count + b.count;
    float share = count > 0.0f ? b.count * reciprocal_approximate(count) : 0.0f;
    float apart = b.mean - a.mean;
    Moments both;
    both.count = count;
    both.mean = __fmaf_rn(apart, share, a.mean);
    both.second = a.second + __fmaf_rn(apart * apart, a.count * share, b.second);
    return both;
}

// Of a vector's first `count` codes under a scale; the others are zero.
DEVICE Moments moments(const u32 *words, float scale, int count) {
    Moments m;
    m.count = (float)count;
    const float share = 1.0f / (float)(count > 0 ? count : 1);
#if ELEMENT == 0
    int sum = 0, squares = 0;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        sum = __dp4a((int)words[w], 0x01010101, sum);
        squares = __dp4a((int)words[w], (int)words[w], squares);
    }
    m.mean = (float)sum * share * scale;
    m.second = (float)(count * squares - sum * sum) * share * scale * scale;
#else
    float values[VECTOR], sum = 0.0f, second = 0.0f;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) decode(words[w], values + 4 * w);
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) sum += values[k];
    const float mean = sum * share;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k)
        if (k < count) second = __fmaf_rn(values[k] - mean, values[k] - mean, second);
    m.mean = mean * scale;
    m.second = second * scale * scale;
#endif
    return m;
}

DEVICE int columns_inside(const Place &at, const RowOperands &p) {
#if ALIGNED
    return at.row < p.rows && at.col < p.cols ? VECTOR : 0;
#else
    i64 left = p.cols - at.col;
    return at.row < p.rows ? (int)(left < 0 ? 0 : left < VECTOR ? left : VECTOR) : 0;
#endif
}

// What the threads of a CTA share beside codes.
struct Exchange {
    float *of_warp;     // THREADS / 32
    float *of_group;    // (GROUPS_ACROSS, ROWS, 4)
    float *of_share;    // (ROWS, 4): what other CTAs read
    float *first;       // (ROWS) mean, or in backward the mean gradient
    float *second;      // (ROWS) 1 / standard deviation, or the mean of gradient x normalised
};

DEVICE Moments moments_at(const float *three) {
    Moments m = {three[0], three[1], three[2]};
    return m;
}

// Rows' moments over the whole cluster from threads' own; called by all, leaves mean and rstd.
DEVICE void reduce_moments(const RowOperands &p, const Exchange &shared, Moments *own, u32 lane,
                           u32 down, u32 side, i64 top, u32 rank) {
#pragma unroll
    for (int s = 0; s < SLOTS; ++s) {
#pragma unroll
        for (int distance = 1; distance < LANES_PER_ROW; distance *= 2) {
            Moments other;
            other.count = __shfl_xor_sync(0xffffffffu, own[s].count, distance);
            other.mean = __shfl_xor_sync(0xffffffffu, own[s].mean, distance);
            other.second = __shfl_xor_sync(0xffffffffu, own[s].second, distance);
            own[s] = merged(own[s], other);
        }
        const u32 row = down * BLOCK_ROWS + lane / LANES_PER_ROW + s * (LANES / LANES_PER_ROW);
        float *three = shared.of_group + 4 * (side * ROWS + row);
        if (lane % LANES_PER_ROW == 0)
            three[0] = own[s].count, three[1] = own[s].mean, three[2] = own[s].second;
    }
    __syncthreads();
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        Moments all = moments_at(shared.of_group + 4 * row);
        for (u32 g = 1; g < GROUPS_ACROSS; ++g)
            all = merged(all, moments_at(shared.of_group + 4 * (g * ROWS + row)));
        float *three = shared.of_share + 4 * row;
        three[0] = all.count, three[1] = all.mean, three[2] = all.second;
    }
    cluster_sync();
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        Moments all = {0.0f, 0.0f, 0.0f};
        for (u32 r = 0; r < SPLITS; ++r) {
            const float *three = shared.of_share + 4 * row;
            Moments other = {of_cta(three, r), of_cta(three + 1, r), of_cta(three + 2, r)};
            all = r == 0 ? other : merged(all, other);
        }
        const float variance = all.second / (float)p.cols;
        const float spread = CENTRED ? variance : __fmaf_rn(all.mean, all.mean, variance);
        shared.first[row] = all.mean;
        shared.second[row] = rsqrtf(spread + p.epsilon);
        if (rank == 0 && top + row < p.rows) {
            p.mean[top + row] = all.mean;
            p.variance[top + row] = variance;
        }
    }
    cluster_sync();  // nobody reads another's share any more; means are seen by all
}

// Adds two sums a row over lanes, groups and CTAs; leaves their means over the columns.
DEVICE void reduce_sums(const RowOperands &p, const Exchange &shared, const float *first,
                        const float *second, u32 lane, u32 down, u32 side) {
#pragma unroll
    for (int s = 0; s < SLOTS; ++s) {
        float a = first[s], b = second[s];
#pragma unroll
        for (int distance = 1; distance < LANES_PER_ROW; distance *= 2) {
            a += __shfl_xor_sync(0xffffffffu, a, distance);
            b += __shfl_xor_sync(0xffffffffu, b, distance);
        }
        const u32 row = down * BLOCK_ROWS + lane / LANES_PER_ROW + s * (LANES / LANES_PER_ROW);
        float *two = shared.of_group + 4 * (side * ROWS + row);
        if (lane % LANES_PER_ROW == 0) two[0] = a, two[1] = b;
    }
    __syncthreads();
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        float a = 0.0f, b = 0.0f;
        for (u32 g = 0; g < GROUPS_ACROSS; ++g) {
            const float *two = shared.of_group + 4 * (g * ROWS + row);
            a += two[0], b += two[1];
        }
        shared.of_share[4 * row] = a, shared.of_share[4 * row + 1] = b;
    }
    cluster_sync();
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        float a = 0.0f, b = 0.0f;
        for (u32 r = 0; r < SPLITS; ++r) {
            a += of_cta(shared.of_share + 4 * row, r);
            b += of_cta(shared.of_share + 4 * row + 1, r);
        }
        shared.first[row] = a / (float)p.cols;
        shared.second[row] = b / (float)p.cols;
    }
    cluster_sync();
}

#if BACKWARD
// Columns' sums over the ROWS rows in shared memory, added to a thread's own words of 4 columns.
DEVICE void add_columns(const RowOperands &p, const uint4 *codes, const float2 *normals, i64 top,
                        u32 first_block, u32 end_block, float (*sums)[8]) {
    const u32 *x_words = (const u32 *)codes;
    const u32 *dy_words = (const u32 *)(codes + (u64)p.steps * ITEMS * THREADS);
#pragma unroll
    for (int j = 0; j < COLUMN_STEPS; ++j) {
        const u32 col = 4 * (threadIdx.x + j * THREADS);  // within the CTA's share
        const u32 block = col / BLOCK_COLS;
        if (first_block + block >= end_block) continue;
        const u32 step = block / GROUPS_ACROSS, side = block % GROUPS_ACROSS;
        for (u32 d = 0; d < DOWN; ++d) {
            const u32 down = (u32)(top / BLOCK_ROWS) + d;
            if ((i64)down * BLOCK_ROWS >= p.rows) continue;
            const u32 right = first_block + block;
            const float x_scale = __ldg(p.x_scales + down * p.x_row_stride + right * p.x_col_stride);
            const float dy_scale =
                __ldg(p.other_scales + down * p.other_row_stride + right * p.other_col_stride);
            float products[4] = {0.0f, 0.0f, 0.0f, 0.0f}, plain[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            // In steps of 32, where every address is a constant beside the first.
            for (u32 r0 = 0; r0 < BLOCK_ROWS; r0 += 32)
#pragma unroll
            for (u32 r = r0; r < r0 + (BLOCK_ROWS < 32 ? BLOCK_ROWS : 32); ++r) {
                const u32 vector = r * VECTORS_PER_ROW + col % BLOCK_COLS / VECTOR;
                const u32 thread = (side * DOWN + d) * LANES + vector % LANES;
                const u32 place = ((step * ITEMS + vector / LANES) * THREADS + thread) * WORDS +
                                  col % VECTOR / 4;
                const float2 normal = normals[d * BLOCK_ROWS + r];
                const float factor = x_scale * normal.x;
                float x[4], dy[4];
                decode(x_words[place], x);
                decode(dy_words[place], dy);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    products[k] = __fmaf_rn(dy[k], __fmaf_rn(x[k], factor, normal.y), products[k]);
                    plain[k] += dy[k];
                }
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                sums[j][k] = __fmaf_rn(products[k], dy_scale, sums[j][k]);
                sums[j][4 + k] = __fmaf_rn(plain[k], dy_scale, sums[j][4 + k]);
            }
        }
    }
}
#endif
