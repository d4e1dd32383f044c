// Operators of the INT8 dataflow that look at one block at a time: activations forward and backward,
// dropout, and normalisations whose row statistics are there already.
//
// LANES threads share one block of BLOCK_ROWS x BLOCK_COLS codes, ITEMS vectors of 16 each, from
// load to store in registers; TEAM threads share a tile of BESIDE blocks side by side.  A CTA has
// THREADS / TEAM teams and steps through the tiles with the grid.  Ragged last blocks hold zeros beyond the matrix, which no operator here
// turns into anything else.
//
// Operators that multiply codes by one number, or by zero, stay in integers (LINEAR); activations of
// large blocks are looked up, under each block's scale, in a table that its threads fill with the
// operator's values at all 256 codes (TABLED).
//
// Where a warp has narrow blocks to itself (LINED), it moves them through shared memory: dataflow_lines.cuh.
//
// Macros beside those of dataflow_device.cuh: OP, CTAS (that an SM should hold), LINED and, with it, STAGES
// and LINE_BYTES.  Dynamic shared memory: the tables, and a float a warp.
#define GELU 0
#define GELU_BWD 1
#define SILU 2
#define SILU_BWD 3
#define RELU 4
#define RELU_BWD 5
#define DROPOUT 6
#define LAYERNORM_APPLY 7
#define RMSNORM_APPLY 8

#define CONVERSIONS 4
#define PERMUTED (OP == DROPOUT)  // which multiplies most: its two sets of random words
#define NONNEGATIVE (OP == RELU)  // asked before RELU had its number, it would be true of GELU
#include "dataflow_device.cuh"

#define GROUPS (THREADS / LANES)
#define BINARY (OP == GELU_BWD || OP == SILU_BWD || OP == RELU_BWD)
#define NORM (OP == LAYERNORM_APPLY || OP == RMSNORM_APPLY)
#define LINEAR (ELEMENT == 0 && (OP == RELU || OP == RELU_BWD || OP == DROPOUT))
#define TABLED (OP <= SILU_BWD && BLOCK_ROWS * BLOCK_COLS >= 1024)
// Of int8 activations the table has magnitudes: the sign is the code's.
#define MAGNITUDES (TABLED && !BINARY && ELEMENT == 0)
#define TABLE 256
// Of each block; two, by turns, where its threads are in several warps.
#define TABLES (TABLED ? (TEAM > 32 ? 2 : 1) * GROUPS : 0)
#define LOG2_E 1.4426950408889634f

// Pointers and strides of a launch; what an operator does not use is null.
struct Operands {
    const u8 *x, *dy;
    const float *x_scales, *dy_scales;
    u8 *out;
    float *out_scales;
    const float *mean, *variance, *gamma, *beta;  // normalisations: of rows and of columns
    i64 rows, cols;
    i64 x_row_stride, x_col_stride, dy_row_stride, dy_col_stride, out_row_stride, out_col_stride;
    RoundKeys keys, mask_keys;  // of stochastic rounding and of dropout
    u32 across;  // blocks
    u32 tiles, tiles_across, magic, shift;  // n / tiles_across == (high32(n magic) + n) >> shift
    u32 drop_below;                    // dropout: halves below this are dropped, 0 to 65535
    float keep_scale;                  // 1 / (share of elements kept)
    float epsilon;                     // added to the variance
};

// 1 / (1 + 2^-logit), for any logit without NaN.
DEVICE float sigmoid2(float negated_logit) {
    return reciprocal_approximate(1.0f + exp2_approximate(negated_logit));
}

// Constants of an activation under one input scale: it is evaluated on codes, whose unit is the
// scale, so that no element is multiplied by it.
struct Activation {
    float a0, a1, a2, a3;  // of the logit's polynomial, odd in the code
    float unit;            // the scale
    float gauss, density;  // backward GELU: exponent of 2 a squared code, and 1 / sqrt(2 pi) x scale
};

DEVICE Activation activation(float scale) {
    Activation f;
    // Beyond 2^15 every code but zero lies where the function is x or 0; the powers below stay finite.
    float s = fminf(scale, 32768.0f);
#if OP == GELU || OP == GELU_BWD
    float square = s * s;
    // -log2(Phi(x) / Phi(-x)) = -x (a0 + a1 x^2 + a2 x^4 + a3 x^6): minimax on [0, 5], fitted so that
    // Phi is off by at most 1.13e-3 of the smaller of Phi(x) and Phi(-x); monotone beyond 5.
    f.a0 = -2.297166019995329f * s;
    f.a1 = -0.10953640921870887f * square * s;
    f.a2 = 0.0014344086866090809f * square * square * s;
    f.a3 = -1.327645792939949e-5f * square * square * square * s;
    f.gauss = -0.5f * LOG2_E * square;
    f.density = 0.3989422804014327f * s;
#else
    f.a0 = -LOG2_E * s;
#endif
    f.unit = TABLED ? s : scale;
    return f;
}

// The share of x that passes: Phi(x) for GELU, the logistic function for SiLU.
DEVICE float gate(const Activation &f, float code) {
#if OP == GELU || OP == GELU_BWD
    float square = code * code;
    float slope = __fmaf_rn(__fmaf_rn(__fmaf_rn(f.a3, square, f.a2), square, f.a1), square, f.a0);
    return sigmoid2(code * slope);
#else
    return sigmoid2(code * f.a0);
#endif
}

// Derivative of x gate(x).
DEVICE float slope(const Activation &f, float code) {
    float passed = gate(f, code);
#if OP == GELU_BWD
    return __fmaf_rn(code * f.density, exp2_approximate(code * code * f.gauss), passed);
#else
    float x = code * f.unit;
    return __fmaf_rn(__fmaf_rn(-x, passed, x), passed, passed);
#endif
}

#if TABLED
// The function itself, or what a gradient is multiplied by, at a code and at its negative: both gates
// come from one exponential, the smaller one without cancellation.
DEVICE void at_both_signs(const Activation &f, float code, float &at_code, float &at_negative) {
#if OP == GELU || OP == GELU_BWD
    float square = code * code;
    float logit = __fmaf_rn(__fmaf_rn(__fmaf_rn(f.a3, square, f.a2), square, f.a1), square, f.a0);
    float rest = exp2_approximate(code * logit);
#else
    float rest = exp2_approximate(code * f.a0);
#endif
    const float passed = reciprocal_approximate(1.0f + rest);
#if OP == GELU || OP == SILU
    at_code = code * passed;
    at_negative = (MAGNITUDES ? at_code : -at_code) * rest;
#elif OP == GELU_BWD
    const float bell = code * f.density * exp2_approximate(square * f.gauss);
    at_code = passed + bell;
    at_negative = rest * passed - bell;
#else
    const float blocked = rest * passed, bell = code * f.unit * (passed * blocked);
    at_code = passed + bell;
    at_negative = blocked - bell;
#endif
}

// Fills a block's table with what stands for each code, called by its LANES threads.
DEVICE void fill_table(const Activation &f, float *table) {
    const u32 rank = member_of() / LINE * VECTORS_PER_ROW + member_of() % VECTORS_PER_ROW;
#pragma unroll
    for (int j = 0; j < (TABLE / 2 + LANES - 1) / LANES; ++j) {
        if (LANES > TABLE / 2 && rank >= TABLE / 2) break;
#if ELEMENT == 0
        const u32 at = rank + 1 + j * LANES;  // 128 stands for -128
        const float code = (float)(rank + 1) + (float)(j * LANES);
        const u32 negative = TABLE - at;
#else
        const u32 at = rank + j * LANES, negative = at + TABLE / 2;
        float code, other;
        decode_pair((u16)at, code, other);
#endif
        float at_code, at_negative;
        at_both_signs(f, code, at_code, at_negative);
        table[at] = at_code;
        table[negative] = at_negative;
    }
    if (ELEMENT == 0 && rank == 0) table[0] = BINARY ? 0.5f : 0.0f;
}
#endif

// Bytes 0xff where the byte of a word is negative, else 0.
DEVICE u32 sign_bytes(u32 word) { return permute(word, 0, 0xba98); }

// Bytes 0xff where the byte, a code, stands for more than zero.
DEVICE u32 positive_bytes(u32 word) {
    return sign_bytes(((word & 0x7f7f7f7fu) + 0x7f7f7f7fu) & ~word & 0x80808080u);
}

// Bytes 0xff where dropout keeps the element, from four random halves: its bound is what is missing from
// 2^23, so that the sums' bit 23 tells.
DEVICE u32 kept_bytes(const u32 *pairs, u32 drop_below) {
    const u32 missing = 0x800000u - drop_below;
    u32 sums[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] = __dp2a_lo(pairs[k / 2], k % 2 ? 0x0100u : 0x0001u, missing);
    return permute(permute(sums[0], sums[1], 0x00ea), permute(sums[2], sums[3], 0x00ea), 0x5410);
}

#if LINEAR
// What the operator leaves of sixteen codes.
DEVICE void pass_codes(const Operands &p, const u32 *x, const u32 *dy, i64 index, u32 *y) {
#if OP == DROPOUT
    Random halves[2];
    random_sixteen(index, p.mask_keys, halves);
#endif
#pragma unroll
    for (int w = 0; w < WORDS; ++w)
#if OP == RELU
        y[w] = x[w] & ~sign_bytes(x[w]);
#elif OP == RELU_BWD
        y[w] = dy[w] & positive_bytes(x[w]);
#else
        y[w] = x[w] & kept_bytes(halves[w / 2].words + w % 2 * 2, p.drop_below);
#endif
}
#endif

#if !NORM && !LINEAR
// Sixteen outputs in units that output_scale() is told, from a vector of x and one of dy.
DEVICE void apply(const Operands &p, const Activation &f, const float *table, const u32 *x,
                  const u32 *dy, i64 index, float *y) {
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        float *four = y + 4 * w;
#if OP == RELU
        decode(x[w] & ~sign_bytes(x[w]), four);
#elif OP == RELU_BWD
        decode(dy[w] & positive_bytes(x[w]), four);
#elif TABLED && BINARY
        decode(dy[w], four);
        for (int k = 0; k < 4; ++k) four[k] *= entry(table, x[w], k);
#elif TABLED
        for (int k = 0; k < 4; ++k) four[k] = entry(table, x[w], k);
#elif OP == GELU || OP == SILU
        decode(x[w], four);
        for (int k = 0; k < 4; ++k) four[k] *= gate(f, four[k]);
#elif OP == GELU_BWD || OP == SILU_BWD
        float codes[4];
        decode(x[w], codes);
        decode(dy[w], four);
        for (int k = 0; k < 4; ++k) four[k] *= slope(f, codes[k]);
#else
        decode(x[w], four);
#endif
    }
#if OP == DROPOUT
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        Random halves = random_halves(index + 8 * h, p.mask_keys);
        u32 bound = p.drop_below << 16;  // against the upper half, whatever lies below it
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            if ((halves.words[w] << 16) < bound) y[8 * h + 2 * w] = 0.0f;
            if (halves.words[w] < bound) y[8 * h + 2 * w + 1] = 0.0f;
        }
    }
#endif
}
#endif

#if NORM
// What normalises a row.
struct RowStatistics {
    float mean, rstd;
};

DEVICE RowStatistics row_statistics(const Operands &p, float mean, float spread) {
#if OP == RMSNORM_APPLY
    spread = __fmaf_rn(mean, mean, spread);  // of the second moment about zero
#endif
    RowStatistics row = {mean, rsqrtf(spread + p.epsilon)};
    return row;
}

// y = (x - mean) rstd gamma + beta of a vector in one row; anything finite outside the matrix.
DEVICE void normalise(float scale, const u32 *x, const RowStatistics &row, const float *gamma,
                      const float *beta, float *y) {
    const float factor = scale * row.rstd;
#pragma unroll
    for (int w = 0; w < WORDS; ++w) decode(x[w], y + 4 * w);
#if OP == RMSNORM_APPLY
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) y[k] = y[k] * factor * gamma[k];
#else
    const float shift = -row.mean * row.rstd;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k)
        y[k] = __fmaf_rn(__fmaf_rn(y[k], factor, shift), gamma[k], beta[k]);
#endif
}
#endif

// A block's codes and scales in registers, and where they lie.
struct Loaded {
    u32 down, right;
    i64 index;                 // of the thread's vector 0
    int rows_left, cols_left;  // of the matrix from that one's first code on, up to the block's
    float scale, dy_scale;
    u32 x[ITEMS][WORDS];
#if BINARY
    u32 dy[ITEMS][WORDS];
#endif
#if NORM && LINED
    RowStatistics rows[ITEMS];  // of each vector
#endif
};

DEVICE bool inside(const Loaded &from, int i) {
    if (WHOLE) return from.rows_left > 0;
    return down_of(i) < from.rows_left && right_of(i) < from.cols_left;
}

// Starts to load a thread's part of a tile; nothing waits for it here.  Beyond the last tile, and the
// last block of a row of blocks, there are no rows.
DEVICE void load_block(const Operands &p, u32 tile, Loaded &from) {
    const u32 last_down = (u32)((p.rows - 1) / BLOCK_ROWS), high = (u32)(p.rows - 1) % BLOCK_ROWS + 1;
    const u32 last_right = p.across - 1, wide = (u32)(p.cols - 1) % BLOCK_COLS + 1;
    bool active = tile < p.tiles;
    tile = active ? tile : 0;  // whose scales can be read
    from.down = (__umulhi(tile, p.magic) + tile) >> p.shift;
    const u32 right = (tile - from.down * p.tiles_across) * BESIDE;
    from.index = first_place(from.down, right, p.cols).index;
    from.right = right + block_of();
    if (!WHOLE && from.right > last_right) active = false, from.right = last_right;
    const u32 rows = from.down < last_down ? BLOCK_ROWS : high;
    const u32 cols = from.right < last_right ? BLOCK_COLS : wide;
    from.rows_left = !active ? 0 : WHOLE ? 1 : (int)rows - (int)(member_of() / LINE);
    from.cols_left = WHOLE ? VECTOR : (int)cols - (int)(member_of() % VECTORS_PER_ROW * VECTOR);
    from.scale = __ldg(p.x_scales + from.down * p.x_row_stride + from.right * p.x_col_stride);
    from.dy_scale = 1.0f;
#if BINARY
    from.dy_scale =
        __ldg(p.dy_scales + from.down * p.dy_row_stride + from.right * p.dy_col_stride);
#endif
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const i64 index = from.index + down_of(i) * p.cols + right_of(i);
        const int left = WHOLE ? VECTOR : from.cols_left - right_of(i);
        const bool there = WHOLE || inside(from, i);  // of whole blocks, block 0 stands in
#pragma unroll
        for (int w = 0; w < WORDS; ++w) from.x[i][w] = 0;
        if (there) load_codes(p.x, index, 0, left, from.x[i]);
#if BINARY
#pragma unroll
        for (int w = 0; w < WORDS; ++w) from.dy[i][w] = 0;
        if (there) load_codes(p.dy, index, 0, left, from.dy[i]);
#endif
    }
}

#if LINEAR
// What is left of the codes; returns the largest magnitude, whose unit is `unit`.
DEVICE float evaluate(const Operands &p, const Loaded &from, u32 (*y)[WORDS], float &unit) {
    u32 largest[2] = {0, 0};
    unit = BINARY ? from.dy_scale : OP == DROPOUT ? from.scale * p.keep_scale : from.scale;
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        const i64 index = from.index + down_of(i) * p.cols + right_of(i);
#if BINARY
        pass_codes(p, from.x[i], from.dy[i], index, y[i]);
#else
        pass_codes(p, from.x[i], from.x[i], index, y[i]);
#endif
#pragma unroll
        for (int w = 0; w < WORDS; w += 2) {
#if NONNEGATIVE
            largest_bytes(y[i][w], y[i][w + 1], largest);
#else
            largest_bytes(__vabs4(y[i][w]), __vabs4(y[i][w + 1]), largest);
#endif
        }
    }
    return (float)largest_byte(largest);
}
#else
// Evaluates the operator; returns the largest magnitude in registers, whose unit is `unit`.
DEVICE float evaluate(const Operands &p, const Loaded &from, float *tables, u32 odd,
                      float (*y)[VECTOR], float &unit) {
    float peak = 0.0f;
#if NORM
    unit = 1.0f;
    const Place first = first_place(from.down, from.right - block_of(), p.cols);
    float gamma[VECTOR], beta[VECTOR];
#else
    unit = BINARY ? from.dy_scale : OP == DROPOUT ? from.scale * p.keep_scale : from.scale;
    // Of a scale that is not finite the output's scale tells, and values in registers are finite.
    const Activation f = activation(from.scale <= FLOAT_MAX ? from.scale : 0.0f);
    float *table = tables;
#if TABLED
    table += (threadIdx.x / TEAM * BESIDE + block_of()) * TABLE;
#if TEAM > 32
    table += odd * GROUPS * TABLE;
    fill_table(f, table);
    __syncthreads();
#else
    __syncwarp();  // whoever still reads the block before
    fill_table(f, table);
    __syncwarp();
#endif
#endif
#endif
#pragma unroll
    for (int i = 0; i < ITEMS; ++i) {
        float highest = 0.0f;
#if NORM
        const Place at = place_of(first, i, p.cols);
        if (i == 0 || LANES < VECTORS_PER_ROW) {  // else every item has the same columns
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) gamma[k] = beta[k] = 0.0f;
            // Of whole blocks, block 0 stands in for one that is not there.
            if (WHOLE || at.col < p.cols) {
                load_columns(p.gamma, at.col, p.cols, gamma);
#if OP == LAYERNORM_APPLY
                load_columns(p.beta, at.col, p.cols, beta);
#endif
            }
        }
#if LINED
        const RowStatistics row = from.rows[i];
#else
        const bool there = WHOLE || inside(from, i);
        const RowStatistics row = row_statistics(p, there ? __ldg(p.mean + at.row) : 0.0f,
                                                 there ? __ldg(p.variance + at.row) : 1.0f);
#endif
        normalise(from.scale, from.x[i], row, gamma, beta, y[i]);
#else
        const i64 index = from.index + down_of(i) * p.cols + right_of(i);
#if BINARY
        apply(p, f, table, from.x[i], from.dy[i], index, y[i]);
#else
        apply(p, f, table, from.x[i], from.x[i], index, y[i]);
#endif
#endif
#if MAGNITUDES
        // Floats that are not negative keep their order as integers.
        u32 bits = 0;
#pragma unroll
        for (int k = 0; k < VECTOR; k += 2)
            bits = __vimax3_u32(bits, as_bits(y[i][k]), as_bits(y[i][k + 1]));
        highest = as_float(bits);
#else
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) highest = larger(highest, fabsf(y[i][k]));
#endif
#if NORM
        if (!WHOLE && !inside(from, i)) highest = 0.0f;
#endif
        peak = larger(peak, highest);
    }
    return peak;
}
#endif

#if MAGNITUDES
// Four codes of magnitudes under the signs of other codes: what is rounded down lies under the exponent of
// 128, where the integer fills byte 2.
DEVICE u32 encode_magnitudes(const float *values, float multiplier, u32 signs, const u32 *pairs) {
    u32 bits[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#if STOCHASTIC
        const float below = as_float(__dp2a_lo(pairs[k / 2], k % 2 ? 0x0100u : 0x0001u, 0x43000000u));
#else
        const float below = 128.5f;
#endif
        bits[k] = as_bits(__fmaf_rn(values[k], multiplier, below));
    }
    const u32 sizes =
        permute(permute(bits[0], bits[1], 0x0062), permute(bits[2], bits[3], 0x0062), 0x5410);
    // 128 - size never borrows from the next byte; with its upper bit turned it is -size.
    const u32 negative = sign_bytes(signs), turned = 0x80808080u - sizes;
    return ((negative & turned) | (~negative & sizes)) ^ (negative & 0x80808080u);
}
#endif

// Codes of a vector: what evaluate() left of it, times the multiplier.
#if LINEAR
typedef u32 Value;
#define VALUES WORDS
DEVICE void round_vector(const u32 *y, const OutputScale &out, i64 index, const RoundKeys &keys,
                         u32 *words) {
    const int multiplier = (int)((out.is_nan ? 0.0f : out.multiplier) * 0x1p24f);
#if STOCHASTIC
    Random halves[2];
    random_sixteen(index, keys, halves);
#endif
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
#if STOCHASTIC
        words[w] = multiply_codes(y[w], multiplier, halves[w / 2].words + w % 2 * 2);
#else
        words[w] = multiply_codes(y[w], multiplier, nullptr);
#endif
    }
}
#else
typedef float Value;
#define VALUES VECTOR
DEVICE void round_vector(const float *y, const OutputScale &out, i64 index, const RoundKeys &keys,
                         u32 *words) {
#if MAGNITUDES
    const float multiplier = out.is_nan ? 0.0f : out.multiplier;
#if STOCHASTIC
    Random halves[2];
    random_sixteen(index, keys, halves);
#endif
#pragma unroll
    for (int w = 0; w < WORDS; ++w) {
        // words[w] comes with the signs.
#if STOCHASTIC
        words[w] = encode_magnitudes(y + 4 * w, multiplier, words[w], halves[w / 2].words + w % 2 * 2);
#else
        words[w] = encode_magnitudes(y + 4 * w, multiplier, words[w], nullptr);
#endif
    }
    return;
#endif
#if ELEMENT == 0 && !NORM
    // Values in registers are finite, and zeros become the code zero.
    encode(y, out.is_nan ? 0.0f : out.multiplier, false, index, keys, words);
#else
    encode(y, out.multiplier, out.is_nan, index, keys, words);
#endif
}
#endif

// Whether an input scale that is not finite does not show in the largest value times its unit.
DEVICE bool hidden_nan(const Loaded &from) {
    return !NORM && BINARY && !(from.scale <= FLOAT_MAX);
}

#if LINED
#include "dataflow_lines.cuh"
#else
// The codes of a block are taken up by evaluate(), and the next one's are under way from then on:
// while its largest value is found, random bits are drawn, and codes are rounded and stored.  They
// take over the registers that are free by then.
extern "C" __global__ void __launch_bounds__(THREADS, CTAS) dataflow_blocks(const Operands p) {
    SHARED_MEMORY(arena);
    float *tables = (float *)arena, *of_warp = tables + TABLES * TABLE;
    const u32 team = threadIdx.x / TEAM, stride = gridDim.x * (THREADS / TEAM);
    u32 base = blockIdx.x * (THREADS / TEAM), odd = 0;
    Loaded from;
    follow_launch();
    load_block(p, base + team, from);
    for (; base < p.tiles; odd ^= 1) {
        Value y[ITEMS][VALUES];
        float unit;
#if LINEAR
        float peak = evaluate(p, from, y, unit);
#else
        float peak = evaluate(p, from, tables, odd, y, unit);
#endif
        Loaded done = from;  // but for its codes, whose signs alone may be needed
        base += stride;
        load_block(p, base + team, from);
        peak = block_peak(peak, of_warp, odd);
        const OutputScale out = output_scale(peak, unit, hidden_nan(done));
#pragma unroll
        for (int i = 0; i < ITEMS; ++i) {
            const i64 index = done.index + down_of(i) * p.cols + right_of(i);
            u32 words[WORDS];
#if MAGNITUDES
#pragma unroll
            for (int w = 0; w < WORDS; ++w) words[w] = done.x[i][w];
#endif
            round_vector(y[i], out, index, p.keys, words);
            store_codes(p.out, index, 0, done.cols_left - right_of(i), words, inside(done, i));
        }
        store_scale(p.out_scales + done.down * p.out_row_stride + done.right * p.out_col_stride,
                    out.scale, is_first() && done.rows_left > 0);
    }
}
#endif
