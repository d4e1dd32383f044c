// Differences of scales along K, for accumulators that run on over several units (RUN).
//
// A stage holds, of every pair of a block of rows of A and one of B, what a unit's sums are
// multiplied by: s(unit) - s(unit + SETS), the scale of the set's next unit, or 0 where its run
// ends; s is the product of both scales.  They lie as [block of A][unit][block of B]; behind them, as
// [block of A][block of B], the sums over the sets of the runs' first scales, which the first stage
// of a body needs.
//
// One warp makes them, one stage ahead of what it writes: lane i has one scale of a stage, lanes
// hold pairs' products in the order of the stage.  A scale of 1 may be that of a block of zeros: the
// warp then looks at the codes, and takes 0 where there are none.  The bias that scales multiply
// would else drown its neighbours.
//
// Macros: RUN, SETS, UNITS, A_ROWS, B_ROWS, A_SCALES, B_SCALES, QUANT_K, BODY_STAGES, A_BYTES,
// B_BYTES, ROW_BYTES.

#define GROUP (UNITS * B_SCALES)  // pairs of a block of A
#define PAIRS (A_SCALES * GROUP)
#define OWN_PAIRS ((PAIRS + 31) / 32)
#if UNITS * (A_SCALES + B_SCALES) > 32
#error "a stage has a scale a lane"
#endif

// Whether `rows` rows of QUANT_K codes of a swizzled tile are all zero; the same in every lane.
__device__ __forceinline__ bool all_zero(u32 tile, int first_row, int rows, int unit) {
    u32 any = 0;
    for (int row = first_row + threadIdx.x % 32; row < first_row + rows; row += 32)
#pragma unroll 1  // rare; a producer has few registers
        for (int chunk = 0; chunk < QUANT_K / 16; chunk++) {
            const int place = (unit * (QUANT_K / 16) + chunk) ^ row % 8;
            const uint4 codes = load_shared4(tile + row * ROW_BYTES + place * 16);
            any |= codes.x | codes.y | codes.z | codes.w;
        }
    return !__any_sync(0xffffffffu, any != 0);
}

// Keeps what follows from the lane from being kept in registers: a producer has few.
__device__ __forceinline__ int own_lane() {
    int lane = threadIdx.x % 32;
    asm volatile("" : "+r"(lane));
    return lane;
}

struct RunScales {
    const u32 a_ring, b_ring, full_bar, empty_bar;
    const float *from;  // this lane's scale of the stage that is loaded next
    int left;           // units from there on, none for a lane without a scale
    float next_scale;   // of the stage behind `ahead`
    float now[OWN_PAIRS], ahead[OWN_PAIRS];  // products: of the stage to write, of the next

    __device__ __forceinline__ RunScales(u32 a_ring, u32 b_ring, u32 full_bar, u32 empty_bar)
        : a_ring(a_ring), b_ring(b_ring), full_bar(full_bar), empty_bar(empty_bar) {}

    __device__ __forceinline__ float load() {
        const float scale = left > 0 ? __ldg(from) : 0.0f;
        from += UNITS, left -= UNITS;
        return scale;
    }

    // Products of the pairs of a stage, whose codes `full` tells to be there.
    __device__ __forceinline__ void pair(float scale, int stage, u32 phase,
                                         float (&products)[OWN_PAIRS]) {
        u32 suspects = __ballot_sync(0xffffffffu, scale == 1.0f);
        if (suspects) {
            // Until the stage was given back: this warp may be so far ahead that the codes before
            // these are still on their way, and `full` would be two phases behind.
            barrier_wait(empty_bar + stage * 8, phase ^ 1);
            barrier_wait(full_bar + stage * 8, phase);
            for (; suspects; suspects &= suspects - 1) {
                const int i = __ffs(suspects) - 1;
                const bool b = i < GROUP;
                const int u = b ? i / B_SCALES : (i - GROUP) % UNITS;
                const int first = b ? i % B_SCALES * B_ROWS : (i - GROUP) / UNITS * A_ROWS;
                const u32 tile = b ? b_ring + stage * B_BYTES : a_ring + stage * A_BYTES;
                if (all_zero(tile, first, b ? B_ROWS : A_ROWS, u) && threadIdx.x % 32 == i)
                    scale = 0.0f;
            }
        }
        // Pair e x 32 + lane is of the unit and the block of B that the lane has alone to tell.
        const int lane = own_lane(), of_a = GROUP + lane / GROUP * UNITS + lane % GROUP / B_SCALES;
        const float b = __shfl_sync(0xffffffffu, scale, lane % GROUP);
#pragma unroll
        for (int e = 0; e < OWN_PAIRS; e++)
            products[e] = multiply_rn(__shfl_sync(0xffffffffu, scale, of_a + e * (32 / GROUP) * UNITS), b);
    }

    // Loads a tile's first scale.
    __device__ __forceinline__ void begin_tile(const float *a_scale, const float *b_scale, int m, int n,
                                               int k, int top, int left_column) {
        asm volatile("" : "+r"(k));  // as own_lane()
        const int lane = own_lane(), of_a = lane - GROUP, units = (k + QUANT_K - 1) / QUANT_K;
        const bool of_b = lane < GROUP;
        const int rows = of_b ? (n + B_ROWS - 1) / B_ROWS : (m + A_ROWS - 1) / A_ROWS;
        const int row = of_b ? left_column / B_ROWS + lane % B_SCALES : top / A_ROWS + of_a / UNITS;
        const int unit = of_b ? lane / B_SCALES : of_a % UNITS;
        left = row < rows && of_a < A_SCALES * UNITS ? units - unit : 0;
        from = (of_b ? b_scale : a_scale) + ((i64)row * units + unit);
        next_scale = load();
    }

    // Takes the next stage's scales, whose codes are there in this phase of `full`, or none.
    __device__ __forceinline__ void advance(bool more, int stage, u32 phase) {
#pragma unroll
        for (int e = 0; e < OWN_PAIRS; e++) now[e] = ahead[e];
        if (!more) return;
        const float scale = next_scale;
        next_scale = load();
        pair(scale, stage, phase, ahead);
    }

    // Writes the stage before: step of steps.
    __device__ __forceinline__ void write(u32 to, int step, bool more) const {
        const bool ends = !more || (step + 1) % BODY_STAGES == 0;
        const int lane = own_lane(), place = lane % GROUP + SETS * B_SCALES;
        const int other = lane / GROUP * GROUP + place % GROUP;  // the set's next unit, or its next stage's
        const bool first_unit = lane % GROUP < B_SCALES;
        to += lane * 4;
        const u32 starts = to + (PAIRS + lane / GROUP * B_SCALES + lane % GROUP - lane) * 4;
#pragma unroll
        for (int e = 0; e < OWN_PAIRS; e++) {
            const float same = __shfl_sync(0xffffffffu, now[e], other);
            const float later = __shfl_sync(0xffffffffu, ahead[e], other);
            const float next = place < GROUP ? same : ends ? 0.0f : later;
            float first = now[e];
            if (SETS == 2)
                first = add_rn(first, __shfl_sync(0xffffffffu, now[e], (lane + B_SCALES) % 32));
            if (PAIRS < 32 && lane >= PAIRS) continue;
            store_shared(to + e * 128, __float_as_uint(subtract_rn(now[e], next)));
            if (step % BODY_STAGES == 0 && first_unit)
                store_shared(starts + e * (32 / GROUP) * B_SCALES * 4, __float_as_uint(first));
        }
    }
};
