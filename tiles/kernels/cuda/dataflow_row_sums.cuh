// Sums along rows: of lanes, of the groups of a CTA, and of the CTAs of a cluster in their order.
//
// Statistics are mean and variance of what the codes stand for.  int8 sums and squares of 16 codes
// are integers and exact; means and second moments about them are merged by Chan's formula, so a
// large mean costs no digits.
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
#if WHOLE
    return VECTOR;
#elif ALIGNED
    return at.row < p.rows && at.col < p.cols ? VECTOR : 0;
#else
    i64 left = p.cols - at.col;
    return at.row < p.rows ? (int)(left < 0 ? 0 : left < VECTOR ? left : VECTOR) : 0;
#endif
}

// Takes a step's vectors into the moments of the rows that a thread has.
DEVICE void add_moments(const RowOperands &p, const Place &first, bool active, u32 step,
                        u32 (*words)[WORDS], float scale, Moments *own) {
#if WHOLE && LANES >= VECTORS_PER_ROW
    // A row has one vector a step, of 16 codes: all merges of a step have the same weights.
    const float share = reciprocal_approximate((float)(step + 1));
    const float weight = (float)(VECTOR * step) * share;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const Moments m = moments(words[i], scale, VECTOR);
        const float apart = m.mean - own[i].mean;
        own[i].count = (float)(VECTOR * (step + 1));
        own[i].mean = __fmaf_rn(apart, share, own[i].mean);
        own[i].second += __fmaf_rn(apart * apart, weight, m.second);
    }
#else
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const int count = active ? columns_inside(place_of(first, i, p.cols), p) : 0;
        if (count > 0) own[SLOT(i)] = merged(own[SLOT(i)], moments(words[i], scale, count));
    }
#endif
}

DEVICE Moments moments_at(const float *three) {
    Moments m = {three[0], three[1], three[2]};
    return m;
}

// Where a CTA's parts of rows lie among those of a row group.
DEVICE float *share_of(const Exchange &shared, u32 parity, u32 rank, u32 row) {
    return shared.of_share + ((parity * SPLITS + rank) * ROWS + row) * SHARES;
}

#define SHARE_BYTES (SPLITS * ROWS * SHARES * 4)  // of a row group

// Rows' moments over the CTA from threads' own, sent to the cluster; called by all.
DEVICE void publish_moments(const Exchange &shared, Moments *own, const Part &part, u32 parity) {
    expect_shares(shared.arrivals + parity, SHARE_BYTES);
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
        const u32 row =
            part.below * BLOCK_ROWS + member_of() / LANES_PER_ROW + s * (TEAM / LANES_PER_ROW);
        float *three = shared.of_group + 4 * (part.team * ROWS + row);
        if (member_of() % LANES_PER_ROW == 0)
            three[0] = own[s].count, three[1] = own[s].mean, three[2] = own[s].second;
    }
    __syncthreads();
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        Moments all = moments_at(shared.of_group + 4 * row);
#pragma unroll 4
        for (u32 g = 1; g < TEAMS_ACROSS; ++g)
            all = merged(all, moments_at(shared.of_group + 4 * (g * ROWS + row)));
        send_share(share_of(shared, parity, part.rank, row), shared.arrivals + parity, all.mean, all.second);
    }
}

// Those over the whole cluster; leaves mean and rstd.  The threads that published them.
DEVICE void finish_moments(const RowOperands &p, const Exchange &shared, const Part &part, i64 top,
                           u32 parity) {
    const i64 wide = (i64)((p.across + SPLITS - 1) / SPLITS) * BLOCK_COLS;  // columns of a CTA's share
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        Moments of_rank[SPLITS], all;
#pragma unroll
        for (u32 r = 0; r < SPLITS; ++r) {
            const float *two = share_of(shared, parity, r, row);
            const i64 left = p.cols - r * wide;
            of_rank[r].count = (float)(left < 0 ? 0 : left < wide ? left : wide);
            of_rank[r].mean = two[0], of_rank[r].second = two[1];
        }
        all = of_rank[0];
#pragma unroll
        for (u32 r = 1; r < SPLITS; ++r) all = merged(all, of_rank[r]);
        const float variance = all.second * reciprocal_approximate((float)p.cols);
        const float spread = CENTRED ? variance : __fmaf_rn(all.mean, all.mean, variance);
        shared.first[parity * ROWS + row] = all.mean;
        shared.second[parity * ROWS + row] = rsqrtf(spread + p.epsilon);
        if (part.rank == 0 && top + row < p.rows) {
            p.mean[top + row] = all.mean;
            p.variance[top + row] = variance;
        }
    }
}

#if BACKWARD
// Backward's first pass over the codes in shared memory: sums along rows and sums over rows.  Threads
// take 16 columns each, four of them one vector: one row in four.  Lanes of a warp that have the same
// rows lie MIXED(1), MIXED(2) and MIXED(4) apart, those with the same columns LINE and twice that.
#define MIXED(b) ((b) < LINE ? (b) : 4 * (b))

// The slot of a vector among those of a step: of a row of blocks, and of the vectors across it.
DEVICE u32 slot_of(u32 line, u32 side, u32 across) {
    const u32 down = line / BLOCK_ROWS, row = line % BLOCK_ROWS;
    const u32 team = side / BESIDE * DOWN + down;
#if LANES >= VECTORS_PER_ROW
    const u32 high = LANES / VECTORS_PER_ROW;  // rows of an item
    const u32 item = row / high;
    const u32 member = row % high * LINE + side % BESIDE * VECTORS_PER_ROW + across;
#else
    const u32 vector = row * VECTORS_PER_ROW + across;
    const u32 item = vector / LANES, member = vector % LANES;
#endif
    return item * THREADS + team * TEAM + member;
}

DEVICE float from_lane(float value, int distance) {
    return __shfl_xor_sync(0xffffffffu, value, distance);
}

// Halves two lists over two lanes: the lane without `bit` has the sums of the first, the other one
// those of the second.
template <int COUNT> DEVICE void share_out(float *first, const float *second, u32 bit) {
    const bool upper = threadIdx.x & bit;
#pragma unroll
    for (int k = 0; k < COUNT; ++k) {
        const float keep = upper ? second[k] : first[k], give = upper ? first[k] : second[k];
        first[k] = keep + from_lane(give, (int)bit);
    }
}

DEVICE void sum_products(const RowOperands &p, const Exchange &shared, const uint4 *codes,
                         u32 parity, const Part &part, float (*sums)[COLUMN_SUMS]) {
    const u32 blocks = part.end_block > part.first_block ? part.end_block - part.first_block : 0;
    const u32 side_lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u64 gradients = (u64)p.steps * ITEMS * THREADS;
#pragma unroll
    for (int c = 0; c < COLUMN_STEPS; ++c) {
        const u32 at = threadIdx.x + c * THREADS;
        const u32 across = at % VECTORS_PER_ROW, quarter = at / LINE % 4;
        const u32 block = at / (4 * LINE) * BESIDE + at % LINE / VECTORS_PER_ROW;
        const bool valid = block < blocks;
        const u32 near = valid ? block : 0;
#if LINED
        const u32 tile = near / SIDE, side = tile % GROUPS_ACROSS;
        const u32 step = tile / GROUPS_ACROSS * SIDE + near % SIDE;
        const u32 chunk = near % SIDE * VECTORS_PER_ROW + across;
#else
        const u32 step = near / GROUPS_ACROSS, side = near % GROUPS_ACROSS;
#endif
        float gamma[VECTOR], products[VECTOR], plain[VECTOR];
        float dy_scale = 0.0f;
        columns_at(shared.columns, near * BLOCK_COLS + across * VECTOR, gamma);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) products[k] = plain[k] = 0.0f;
#if LINED
        // Of one block, whose scales serve all rows; from a row to the next but three places lie evenly.
        const float *const scale = shared.scales + (parity * 2 * p.steps + step) * GROUPS + side;
        const float x_scale = scale[0];
        dy_scale = valid ? scale[p.steps * GROUPS] : 0.0f;
        const uint4 *slot = codes + (tile * TILE_BYTES + chunk_place(quarter, chunk)) / VECTOR;
        const float2 *normals = shared.normals + parity * ROWS + quarter;
#endif
#pragma unroll 2
        for (u32 j = 0; j < (ROWS + 3) / 4; ++j) {
            const u32 row = 4 * j + quarter;
            const u32 line = ROWS % 4 == 0 || row < ROWS ? row : 0;
            u32 x_words[WORDS], dy_words[WORDS];
#if LINED
            const float2 normal = *normals;
            const float factor = x_scale * normal.x;
            // Eight blocks side by side are turned by eight rows, so that the next one lies elsewhere.
            const uint4 *here = VECTORS_PER_ROW > 1
                                    ? slot
                                    : codes + (tile * TILE_BYTES + chunk_place(line, chunk)) / VECTOR;
            words_of(here[0], x_words);
            words_of(here[gradients], dy_words);
            slot += 4 * LINE_BYTES / VECTOR, normals += 4;
#else
            const bool counts = valid && (ROWS % 4 == 0 || row < ROWS);
            const u32 group = side * DOWN + line / BLOCK_ROWS;
            const uint4 *slot = codes + step * ITEMS * THREADS + slot_of(line, side, across);
            const float *scale = shared.scales + (parity * 2 * p.steps + step) * GROUPS + group;
            const float2 normal = shared.normals[parity * ROWS + line];
            const float factor = scale[0] * normal.x;
            dy_scale = counts ? scale[p.steps * GROUPS] : 0.0f;
            words_of(slot[0], x_words);
            words_of(slot[gradients], dy_words);
#endif
            float along = 0.0f, tilted = 0.0f;
#pragma unroll
            for (int w = 0; w < WORDS; ++w) {
                float x[4], dy[4];
                decode(x_words[w], x);
                decode(dy_words[w], dy);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    const int n = 4 * w + k;
                    if (DOWN > 1) dy[k] *= dy_scale;
                    if (CENTRED) {
                        const float normalised = __fmaf_rn(x[k], factor, normal.y);
                        const float weighted = dy[k] * gamma[n];
                        tilted = __fmaf_rn(weighted, normalised, tilted);
                        products[n] = __fmaf_rn(dy[k], normalised, products[n]);
                        along += weighted, plain[n] += dy[k];
                    } else {
                        const float product = dy[k] * x[k];  // of codes, exact
                        tilted = __fmaf_rn(product, gamma[n], tilted);
                        products[n] = __fmaf_rn(product, factor, products[n]);
                    }
                }
            }
            if (!CENTRED) tilted *= factor;
            if (DOWN == 1) along *= dy_scale, tilted *= dy_scale;
            const bool odd = side_lane & MIXED(1);
            float sum = CENTRED ? (odd ? tilted : along) + from_lane(odd ? along : tilted, MIXED(1))
                                : tilted + from_lane(tilted, MIXED(1));
            sum += from_lane(sum, MIXED(2));
            sum += from_lane(sum, MIXED(4));
            float *place = shared.of_group + 2 * (warp * ROWS + line) + (CENTRED && !odd ? 0 : 1);
            if ((side_lane & (MIXED(2) | MIXED(4))) == 0 && (CENTRED || !odd) &&
                (ROWS % 4 == 0 || row < ROWS))
                *place = c == 0 ? sum : *place + sum;
        }
#if CENTRED
        share_out<VECTOR>(products, plain, LINE);
        share_out<VECTOR / 2>(products, products + VECTOR / 2, 2 * LINE);
#else
        share_out<VECTOR / 2>(products, products + VECTOR / 2, LINE);
        share_out<VECTOR / 4>(products, products + VECTOR / 4, 2 * LINE);
#endif
#pragma unroll
        for (int k = 0; k < COLUMN_SUMS; ++k)
            sums[c][k] = DOWN > 1 ? sums[c][k] + products[k]
                                  : __fmaf_rn(products[k], dy_scale, sums[c][k]);
    }
}

// Where a thread's column sums go: the first column within the CTA's share, and whether they are of
// products or plain.
DEVICE u32 column_of(int c, bool &products) {
    const u32 at = threadIdx.x + c * THREADS;
    const u32 quarter = at / LINE % 4;
    const u32 first = at / (4 * LINE) * BESIDE * BLOCK_COLS + at % LINE * VECTOR;
    products = !CENTRED || quarter % 2 == 0;
    return first + (CENTRED ? quarter / 2 * 8 : quarter % 2 * 8 + quarter / 2 * 4);
}

// Adds two sums a row over warps, and sends them to the cluster.
DEVICE void publish_sums(const Exchange &shared, const Part &part, u32 parity) {
    expect_shares(shared.arrivals + parity, SHARE_BYTES);
    __syncthreads();
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        float a = 0.0f, b = 0.0f;
#pragma unroll
        for (u32 w = 0; w < THREADS / 32; ++w) {
            const float *two = shared.of_group + 2 * (w * ROWS + row);
            if (CENTRED) a += two[0];
            b += two[1];
        }
        send_share(share_of(shared, parity, part.rank, row), shared.arrivals + parity, b, a);
    }
}

// Adds them over CTAs; leaves what the second pass takes of each row: the factor of x and what is added.
DEVICE void finish_sums(const RowOperands &p, const Exchange &shared, u32 parity) {
    for (u32 row = threadIdx.x; row < ROWS; row += THREADS) {
        float a = 0.0f, b = 0.0f;
#pragma unroll
        for (u32 r = 0; r < SPLITS; ++r) {
            const float *two = share_of(shared, parity, r, row);
            b += two[0];
            if (CENTRED) a += two[1];
        }
        const float share = reciprocal_approximate((float)p.cols);
        a *= share, b *= share;
        const float2 normal = shared.normals[parity * ROWS + row];
        shared.first[parity * ROWS + row] = -normal.x * normal.x * b;
        shared.second[parity * ROWS + row] = CENTRED ? -normal.x * __fmaf_rn(b, normal.y, a) : 0.0f;
    }
}
#endif
