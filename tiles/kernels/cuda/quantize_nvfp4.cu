// Quantise a bf16 matrix to NVFP4: blocks of 16 in a row, scales in e4m3fn, one fp32 scale for the tensor.
//
// That scale takes all of the matrix, which is too large to be kept, so it is read twice, and what the
// second time costs is what this kernel is about.  Every warp walks through its share in steps of 64
// blocks, two a lane, by way of a ring of STAGES steps in shared memory, which only its own lanes fill
// and read.  The first walk finds the largest magnitude.  When it ends, the ring still holds the walk's end,
// and the L2 what lay before that: the second walk goes backwards, takes the ring's steps first, and asks
// for earlier ones where each of them was.  With both walks in one launch (FIND and CODE) all CTAs meet
// between them, so all have to be resident: a cooperative launch of one CTA an SM.
//
// With both walks in one launch, HELD steps of the first walk's end stay in registers, and the ring has asked
// for others in their place by the time the CTAs meet.
//
// KEPT_MIB (0: nothing is said) of the matrix are loaded as what the L2 is to keep, what the ring keeps and
// what comes before as what it is to drop first.
//
// `workspace` are three words of zeros, and zeros again afterwards: the largest magnitude, arrivals, departures.
//
// Macros from the launcher: THREADS, STAGES, HELD (at most STAGES; 0 unless FIND and CODE), FIND, CODE, KEPT_MIB, EVEN (whole steps alone).

#include "words.cuh"
#include "follow_launch.cuh"

#ifndef ON_HOST
#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]

DEVICE void copy_async(uint4 *to, const u8 *from) {
    const u32 place = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
}

// The same, with what a line of the L2 is worth.
DEVICE void copy_async(uint4 *to, const u8 *from, u64 policy) {
    const u32 place = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(place), "l"(from),
                 "l"(policy)
                 : "memory");
}

DEVICE u64 dropped_first() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

DEVICE u64 dropped_last() {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

DEVICE void copies_begun() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// All groups of copies have come but the latest ones.
template <int Left> DEVICE void copies_left() { asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory"); }

// The larger of two magnitudes in each half of a word, of which `peaks` are none below zero; NaN wins.
DEVICE u32 larger_sizes(u32 peaks, u32 word) {
    u32 result;
    asm("{.reg .b32 m; abs.bf16x2 m, %2; max.NaN.bf16x2 %0, %1, m;}"
        : "=r"(result)
        : "r"(peaks), "r"(word));
    return result;
}

DEVICE void add_released(u32 *to, u32 value) {
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

DEVICE u32 load_acquired(const u32 *from) {
    u32 value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
#endif

#include "e2m1_steps.cuh"

#define EACH 2  // blocks of a lane in a step
#define PART_BYTES 1024  // of which a warp has one each
#define PART_CHUNKS (PART_BYTES / 16)
#define STEP_BYTES (EACH * PART_BYTES)
#define STEP_BLOCKS (32 * EACH)
#define WARPS (THREADS / 32)
// Shared memory: steps of codes, a table of scales, largest magnitudes, then the rings.
#define CODES_PLACE (SCALES * 16)
#define PEAKS_PLACE (CODES_PLACE + 256)
#define TABLE_BYTES 2304  // a multiple of 128
#define HINTED (KEPT_MIB > 0)

struct Operands {
    const u8 *x;
    u8 *codes, *scales;
    float *tensor_scale;
    u32 *workspace;
    u32 blocks;
};

// A warp's share: every so many steps one.
struct Walk {
    const u8 *x;      // the lane's 16 bytes of the first step
    uint4 *ring;      // the lane's place in the first stage
    const uint4 *own; // where the lane's own block lies there
    u32 swap;         // which half of it comes first, so that lanes meet in no bank
    u32 first, stride, steps;
    u32 kept_from, kept_to;  // steps that the L2 is to keep
    u32 blocks;
    i64 pace;         // bytes from step to step
    u64 drop, keep;
};

DEVICE Walk walk_of(const Operands &p, u8 *arena) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Walk walk;
    const u32 all = (p.blocks + STEP_BLOCKS - 1) / STEP_BLOCKS;
    walk.stride = gridDim.x * WARPS, walk.first = blockIdx.x * WARPS + warp;
    walk.steps = all > walk.first ? (all - walk.first - 1) / walk.stride + 1 : 0;
    walk.x = p.x + (i64)walk.first * STEP_BYTES + lane * 16;
    uint4 *ring = (uint4 *)(arena + TABLE_BYTES) + warp * STAGES * EACH * PART_CHUNKS;
    // Chunk c of 16 bytes lies at c ^ (c / 8 % 2): eight lanes that read every second one meet all banks.
    walk.ring = ring + (lane ^ (lane >> 3 & 1));
    walk.swap = lane >> 2 & 1;
    walk.own = ring + 2 * lane;
    walk.blocks = p.blocks, walk.pace = (i64)walk.stride * STEP_BYTES;
    const u32 kept = (u32)(((u64)KEPT_MIB << 20) / STEP_BYTES / walk.stride), in_ring = FIND && CODE ? STAGES : 0;
    walk.kept_to = walk.steps > in_ring ? walk.steps - in_ring : 0;
    walk.kept_from = walk.kept_to > kept ? walk.kept_to - kept : 0;
#if HINTED && !defined(ON_HOST)
    walk.drop = dropped_first(), walk.keep = dropped_last();
#else
    walk.drop = walk.keep = 0;
#endif
    return walk;
}

DEVICE u32 first_block(const Walk &walk, u32 step) { return (walk.first + step * walk.stride) * STEP_BLOCKS; }

// Ask for a step, whose bytes of this lane lie at `from`; `again`: for the last time.
DEVICE void ask(const Walk &walk, const u8 *from, u32 slot, u32 step, bool again) {
    uint4 *to = walk.ring + slot * (EACH * PART_CHUNKS);
#pragma unroll
    for (u32 k = 0; k < 2 * EACH; ++k) {
        if (!EVEN && first_block(walk, step) + k * 16 + threadIdx.x % 32 / 2 >= walk.blocks) continue;
#if HINTED && !defined(ON_HOST)
        const bool kept = !again && step >= walk.kept_from && step < walk.kept_to;
        copy_async(to + k * 32, from + k * 512, kept ? walk.keep : walk.drop);
#else
        copy_async(to + k * 32, from + k * 512);
#endif
    }
}

// The lane's block of a part of a step; nothing where there is none.
DEVICE void take(const Walk &walk, u32 slot, u32 part, bool there, u32 *words) {
    const uint4 *from = walk.own + (slot * EACH + part) * PART_CHUNKS;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint4 four = make_uint4(0, 0, 0, 0);
        if (there) four = from[half ^ walk.swap];
        words[4 * half] = four.x, words[4 * half + 1] = four.y;
        words[4 * half + 2] = four.z, words[4 * half + 3] = four.w;
    }
}

// Whether there is a block; a constant where all are.
DEVICE bool there_is(const Walk &walk, u32 block) { return EVEN || block < walk.blocks; }

// A step's words, of which HELD stay in registers from the end of the first walk on.
struct Words {
    u32 of[EACH][8];
};

// All of them or, of a shorter walk, none.
DEVICE u32 held_steps(const Walk &walk) {
    const u32 held = min(walk.steps, (u32)HELD);
    return held == HELD ? held : 0;
}

#if FIND

// A step out of the ring, and the largest magnitude of its blocks that are all finite.
DEVICE u32 look_at(const Walk &walk, u32 slot, u32 step, Words *words) {
    u32 largest = 0;
    copies_left<STAGES - 1>();
    __syncwarp();
#pragma unroll
    for (u32 part = 0; part < EACH; ++part) {
        const u32 block = first_block(walk, step) + part * 32 + threadIdx.x % 32;
        take(walk, slot, part, there_is(walk, block), words->of[part]);
        u32 peaks = 0;
#pragma unroll
        for (int k = 0; k < 8; ++k) peaks = larger_sizes(peaks, words->of[part][k]);
        const u32 peak = max(peaks >> 16, peaks & 0xffffu);
        largest = max(largest, peak < INFINITY_HALF ? peak : 0);
    }
    __syncwarp();
    return largest;
}

// Largest magnitude of a warp's blocks; the last steps stay in registers and in the ring.
DEVICE u32 find(const Walk &walk, Words *held) {
    const u8 *from = walk.x;
    for (u32 k = 0; k < STAGES; ++k) {
        if (k < walk.steps) ask(walk, from, k, k, false);
        copies_begun();
        from += walk.pace;
    }
    const u32 last = walk.steps - held_steps(walk);
    u32 largest = 0, slot = 0;
    for (u32 step = 0; step < last; ++step) {
        Words words;
        largest = max(largest, look_at(walk, slot, step, &words));
        if (step + STAGES < walk.steps) ask(walk, from, slot, step + STAGES, false);
        copies_begun();
        from += walk.pace;
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
#if HELD > 0
    if (held_steps(walk) == 0) return largest;
#pragma unroll
    for (u32 r = 0; r < HELD; ++r) {  // there are no further steps to ask for
        largest = max(largest, look_at(walk, slot, last + r, held + r));
        copies_begun();
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    // What the second walk takes next travels while the CTAs meet.
    from = walk.x + (walk.steps - STAGES - 1LL) * walk.pace;
    for (u32 step = walk.steps; step-- > last;) {
        slot = slot == 0 ? STAGES - 1 : slot - 1;
        if (step >= STAGES) ask(walk, from, slot, step - STAGES, true);
        copies_begun();
        from -= walk.pace;
    }
#endif
    return largest;
}

#endif

#if CODE

DEVICE void write(const Operands &p, u32 block, u32 low, u32 high, u32 scale) {
    // They may stay in the L2, where numbers that were asked for the last time make room.
    *(uint2 *)(p.codes + (i64)block * 8) = make_uint2(low, high);
    p.scales[block] = (u8)scale;
}

// Scale and codes of a block; `plain` is a constant: whether the tables hold.
DEVICE void encode_block(const u32 *words, const u8 *arena, float outer, bool plain, u32 *scale, u32 *codes) {
    u32 sizes[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) sizes[k] = words[k] & 0x7fff7fffu;
    u32 peaks = __vimax3_u16x2(sizes[0], sizes[1], sizes[2]);
    peaks = __vimax3_u16x2(peaks, sizes[3], sizes[4]);
    peaks = __vimax3_u16x2(peaks, sizes[5], sizes[6]);
    peaks = __vimax3_u16x2(peaks, sizes[7], sizes[7]);
    const u32 peak = max(peaks >> 16, peaks & 0xffffu);
    if (plain) {
        *scale = tabled_scale_code(peak, (const i16 *)(arena + CODES_PLACE));
        const Steps steps = ((const Steps *)arena)[*scale - LEAST_CODE];
        codes[0] = eight_codes(words, sizes, steps);
        codes[1] = eight_codes(words + 4, sizes + 4, steps);
    } else if (peak >= INFINITY_HALF) {
        *scale = NAN_SCALE, codes[0] = codes[1] = 0;
    } else {
        *scale = divided_scale_code(peak, outer);
        const float divisor = multiply_rn(scale_value(*scale), outer);
        codes[0] = eight_divided_codes(words, divisor);
        codes[1] = eight_divided_codes(words + 4, divisor);
    }
}

// What a warp's second walk needs beside its steps.
struct Coder {
    const Walk &walk;
    const Operands &p;
    const u8 *arena;
    float outer;
};

DEVICE void encode_step(const Coder &by, u32 step, const Words &words, bool plain) {
    const u32 block = first_block(by.walk, step) + threadIdx.x % 32;
#pragma unroll
    for (u32 part = 0; part < EACH; ++part) {
        u32 scale, codes[2];
        encode_block(words.of[part], by.arena, by.outer, plain, &scale, codes);
        if (there_is(by.walk, block + part * 32)) write(by.p, block + part * 32, codes[0], codes[1], scale);
    }
}

// A step from memory: what is held stands in registers, which loops cannot choose from.
DEVICE void load_step(const Coder &by, u32 step, Words *words) {
#pragma unroll
    for (u32 part = 0; part < EACH; ++part) {
        const u32 block = first_block(by.walk, step) + part * 32 + threadIdx.x % 32;
        if (!there_is(by.walk, block)) continue;
        const u32 *from = (const u32 *)(by.p.x + (i64)block * 32);
        for (int k = 0; k < 8; ++k) words->of[part][k] = from[k];
    }
}

// Codes of a warp's blocks, the last step first.
DEVICE void encode(const Coder &by, const Words *held, bool plain) {
    const Walk &walk = by.walk;
    const u32 last = walk.steps - held_steps(walk);
    u32 slot = walk.steps % STAGES;
    const u8 *from = walk.x + (walk.steps - (FIND ? STAGES : 0) - 1LL) * walk.pace;
#if !FIND
    for (u32 k = 0; k < STAGES; ++k) {
        slot = slot == 0 ? STAGES - 1 : slot - 1;
        if (k < walk.steps) ask(walk, from, slot, walk.steps - 1 - k, true);
        copies_begun();
        from -= walk.pace;
    }
    slot = walk.steps % STAGES;
#endif
#if HELD > 0
    if (held_steps(walk) > 0) {
        slot = last % STAGES;
        from -= HELD * walk.pace;
        if (plain) {
#pragma unroll
            for (u32 r = HELD; r-- > 0;) encode_step(by, last + r, held[r], plain);
        } else {
            for (u32 step = walk.steps; step-- > last;) {
                Words words = {};
                load_step(by, step, &words);
                encode_step(by, step, words, plain);
            }
        }
    }
#endif
    for (u32 step = last; step-- > 0;) {
        Words words;
        slot = slot == 0 ? STAGES - 1 : slot - 1;
        copies_left<STAGES - 1>();
        __syncwarp();
        const u32 block = first_block(walk, step) + threadIdx.x % 32;
#pragma unroll
        for (u32 part = 0; part < EACH; ++part)
            take(walk, slot, part, there_is(walk, block + part * 32), words.of[part]);
        __syncwarp();
        if (step >= STAGES) ask(walk, from, slot, step - STAGES, true);
        copies_begun();
        from -= walk.pace;
        encode_step(by, step, words, plain);
    }
}

#endif

extern "C" __global__ void __launch_bounds__(THREADS, 1) quantize_nvfp4(const Operands p) {
    SHARED_MEMORY(arena);
    const Walk walk = walk_of(p, arena);
    u32 *peaks = (u32 *)(arena + PEAKS_PLACE);
    Words held[HELD + 1];
    follow_launch();
#if FIND
    const u32 largest = __reduce_max_sync(0xffffffffu, find(walk, held));
    if (threadIdx.x % 32 == 0) peaks[threadIdx.x / 32] = largest;
    __syncthreads();
    if (threadIdx.x == 0) {
        u32 most = 0;
        for (int warp = 0; warp < WARPS; ++warp) most = max(most, peaks[warp]);
        atomicMax(p.workspace, most);
        // An arrival is seen after the magnitude it stands for.
        if (CODE) add_released(p.workspace + 1, 1);
    }
#endif
#if CODE
    if (threadIdx.x == 0) {
#if FIND
        while (load_acquired(p.workspace + 1) < gridDim.x) continue;
#endif
        const u32 most = load_acquired(p.workspace);
        peaks[0] = most;
        // Who leaves last clears up, when all have read.
        if (atomicAdd(p.workspace + 2, 1) + 1 == gridDim.x)
            p.workspace[0] = p.workspace[1] = p.workspace[2] = 0;
    }
    __syncthreads();
    // Six times 448.
    float outer = divide_rn(as_float(peaks[0] << 16), 2688.0f);
    if (as_bits(outer) == 0) outer = 1.0f;
    if (blockIdx.x == 0 && threadIdx.x == 0) *p.tensor_scale = outer;
    if (ordinary(outer)) {
        for (u32 k = threadIdx.x; k < SCALES; k += THREADS)
            ((Steps *)arena)[k] = steps_of(LEAST_CODE + k, outer);
        for (u32 k = threadIdx.x; k < 128; k += THREADS)
            ((i16 *)(arena + CODES_PLACE))[k] = tabled_scale(k, outer);
        __syncthreads();
        encode(Coder{walk, p, arena, outer}, held, true);
    } else {
        encode(Coder{walk, p, arena, outer}, held, false);
    }
#endif
}
