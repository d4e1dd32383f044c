// MX scales of both operands of gemm_hopper_skinny.cu: a byte (E8M0) for every 32 elements of a row.
//
// In memory they lie row-major, ceil(K / 32) bytes a row: a row's scales of a step are one word.
// The warp that loads fetches the words of GROUP steps while it writes those of the last GROUP, as
// powers of two in fp32, to the steps' stages: 16 bytes at once where they lie so and neighbouring
// steps are this CTA's, a word otherwise (little of the L1 is left: a sector may come again for every
// read).  Those of the first two GROUPs are asked for ahead of all tiles: words that come behind a
// ring's tiles keep the warp from asking for the next ones.  Where words do not lie at multiples of
// four bytes it fetches bytes, one step before.  Blocks beyond K, whose codes are read as zeros,
// count as 1; rows beyond a matrix, which nobody stores, as its last.
//
// A stage holds UNITS times those of BLOCK_M rows of A, and BLOCK_N rows of B with UNITS each: a lane
// that multiplies reads four numbers at once.  Those of A are four rows of one unit, row % 8 / 2 of
// two neighbouring groups of 8 (of one where there is one), those of B all units of a row.
//
// A power of two's bits are a shift and a mask of the word; 2^-127, which fp32 holds as a subnormal,
// and NaN are rare, and are looked for in four bytes at once.
//
// Macros: BLOCK_M, BLOCK_N, INTERLEAVED.

#define UNITS 4  // of 32 elements, in a stage
#define WORDS_A ((BLOCK_M + 31) / 32)  // of a lane
#define WORDS_B (BLOCK_N / 32)
#define WORDS (WORDS_A + WORDS_B)  // those of A first
#define QUAD 4  // steps whose words are 16 bytes
// Steps whose words are fetched together, half a sector of a row or a whole one: as many as a thread
// has registers for.
#define GROUP (BLOCK_N > 64 || BLOCK_M > 64 ? QUAD : 2 * QUAD)
#define ROW_SCALES (UNITS * BLOCK_M * 4)  // bytes of a stage before those of B

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

__device__ __forceinline__ void store_shared4(u32 address, const u32 (&x)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x[0]), "r"(x[1]),
                 "r"(x[2]), "r"(x[3])
                 : "memory");
}

// As in hopper_mma.cuh: behind it the compiler asks once for a copy, behind `lane == 0` it loops.
__device__ __forceinline__ bool elected() {
    u32 chosen;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(chosen));
    return chosen != 0;
}

// Among the highest bits of the bytes one is set where a byte is 0 or 255.
__device__ __forceinline__ u32 rare_bytes(u32 x) {
    return (x - 0x01010101u & ~x) | (~x - 0x01010101u & x);
}

// The bits of the power of two that byte `unit` of a word stands for; NaN and 2^-127 where `any`.
__device__ __forceinline__ u32 power_bits(u32 word, int unit, bool any) {
    const u32 plain = (unit == 3 ? word >> 1 : word << (23 - 8 * unit)) & 0x7f800000u;
    if (!any) return plain;
    return plain == 0 ? 0x00400000u : plain == 0x7f800000u ? 0x7fffffffu : plain;
}

// Where the scale of a row of A lies among those of a unit.
__device__ __forceinline__ int column_place(int row) {
    if (BLOCK_M == 8) return row;
    return (row & ~15) | (row & 6) << 1 | (row & 8) >> 2 | (row & 1);
}

// What a lane of the warp that loads has of the scales.
struct ScaleWords {
    const u8 *rows[WORDS];
    u32 held[GROUP][WORDS];   // words of a step each, or one step's bytes
    u32 ahead[GROUP][WORDS];  // those of the next steps
    int blocks;               // bytes of a row
    bool whole, wide;         // words lie at multiples of four bytes, those of a QUAD at 16

    __device__ __forceinline__ void begin(const u8 *a, const u8 *b, int m, int n, int k, int top,
                                          int left, int lane) {
        blocks = (k + 31) / 32;
        const int low = (int)(u64)a | (int)(u64)b | blocks;
        whole = (low & 3) == 0;
        wide = !INTERLEAVED && (low & 15) == 0;
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            const bool of_a = w < WORDS_A;
            const int row = lane + (of_a ? w : w - WORDS_A) * 32;
            const int at = of_a ? min(top + row, m - 1) : min(left + row, n - 1);
            rows[w] = (of_a ? a : b) + (i64)at * blocks;
        }
    }

    // Steps before the first of this CTA in the QUAD that is fetched first.
    __device__ __forceinline__ int early(int first) const { return wide ? first % QUAD : 0; }

    // Of GROUP steps from `step` on or, where they are not fetched together, `count` of them at most.
    __device__ __forceinline__ void fetch_words(u32 (&to)[GROUP][WORDS], int step, int apart,
                                                int count) const {
        if (wide) {
#pragma unroll
            for (int q = 0; q < GROUP; q += QUAD) {
                if (q > 0 && (step + q) * UNITS >= blocks) break;  // behind the row
#pragma unroll
                for (int w = 0; w < WORDS; w++) {
                    const uint4 words = __ldg((const uint4 *)(rows[w] + (i64)(step + q) * UNITS));
                    to[q][w] = words.x, to[q + 1][w] = words.y;
                    to[q + 2][w] = words.z, to[q + 3][w] = words.w;
                }
            }
            return;
        }
#pragma unroll
        for (int turn = 0; turn < GROUP; turn++)
            if (turn < count)
#pragma unroll
                for (int w = 0; w < WORDS; w++)
                    to[turn][w] = __ldg((const u32 *)rows[w] + step + turn * apart);
    }

    // Goes on to the next QUAD; where that is the first of the words ahead, there is room again.
    __device__ __forceinline__ void turn_over(bool taken) {
        if (GROUP > QUAD && !taken) {
#pragma unroll
            for (int turn = 0; turn < GROUP - QUAD; turn++)
#pragma unroll
                for (int w = 0; w < WORDS; w++) held[turn][w] = held[turn + QUAD][w];
            return;
        }
#pragma unroll
        for (int turn = 0; turn < GROUP; turn++)
#pragma unroll
            for (int w = 0; w < WORDS; w++) held[turn][w] = ahead[turn][w];
    }

    __device__ __forceinline__ void fetch_bytes(int step) {
#pragma unroll
        for (int unit = 0; unit < UNITS; unit++) {
            const int block = step * UNITS + unit;
#pragma unroll
            for (int w = 0; w < WORDS; w++)
                held[unit][w] = block < blocks ? (u32)__ldg(rows[w] + block) : 0x7fu;
        }
    }

    __device__ __forceinline__ void write_words(u32 stage_scales, int turn, int lane) const {
        write(stage_scales, held[turn], lane);
    }

    __device__ __forceinline__ void write_bytes(u32 stage_scales, int lane) const {
        u32 words[WORDS];
#pragma unroll
        for (int w = 0; w < WORDS; w++)
            words[w] = held[0][w] | held[1][w] << 8 | held[2][w] << 16 | held[3][w] << 24;
        write(stage_scales, words, lane);
    }

    __device__ __forceinline__ void write(u32 stage_scales, const u32 (&words)[WORDS],
                                          int lane) const {
        u32 rare = 0;
#pragma unroll
        for (int w = 0; w < WORDS; w++) rare |= rare_bytes(words[w]);
        if (rare & 0x80808080u)
            write_as(stage_scales, words, lane, true);
        else
            write_as(stage_scales, words, lane, false);
    }

    __device__ __forceinline__ void write_as(u32 stage_scales, const u32 (&words)[WORDS], int lane,
                                             bool any) const {
#pragma unroll
        for (int w = 0; w < WORDS; w++) {
            u32 bits[UNITS];
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++) bits[unit] = power_bits(words[w], unit, any);
            if (w >= WORDS_A) {
                const int row = lane + (w - WORDS_A) * 32;
                store_shared4(stage_scales + ROW_SCALES + row * (UNITS * 4), bits);
                continue;
            }
            if (BLOCK_M % 32 && lane + w * 32 >= BLOCK_M) continue;
            const u32 to = stage_scales + (column_place(lane) + w * 32) * 4;
#pragma unroll
            for (int unit = 0; unit < UNITS; unit++)
                store_shared(to + unit * (BLOCK_M * 4), bits[unit]);
        }
    }
};
