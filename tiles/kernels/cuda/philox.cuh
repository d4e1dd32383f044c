// Philox4x32-10 (Salmon et al., SC 2011), counter of 64 bits, the upper 64 zero; 16 bits an element.
//
// Element i of a flat matrix takes half i % 8 of counter i / 8, the lower half of a word first: the
// bits depend on neither tiles nor threads.
//
// Macros: NARROW (all counters have 32 bits, and the keys are narrow_keys'), ALIGNED (the index of eight
// elements is a multiple of eight), DEVICE, given by the file that includes this one, as are the short
// names of integers.

#ifndef NARROW
#define NARROW 0
#endif

// A key and its nine successors.  They travel among a kernel's parameters, where an instruction takes
// them from constant memory: made of the seed in the kernel, they cost five instructions an element.
struct RoundKeys {
    u32 words[20];
};

struct Random {
    u32 words[4];
};

// Both halves of a product.  As PTX: of a shifted 64-bit product the compiler adds zeros to one half, but
// kernels at the end of their registers do with fewer of them.
DEVICE void wide_product(u32 x, u32 y, u32 &low, u32 &high) {
#if NARROW && !defined(ON_HOST)
    asm("{.reg .b64 p; mul.wide.u32 p, %2, %3; mov.b64 {%0, %1}, p;}"
        : "=r"(low), "=r"(high) : "r"(x), "r"(y));
#else
    const u64 product = (u64)x * y;
    low = (u32)product, high = (u32)(product >> 32);
#endif
}

// Rounds from `first_round` on.
DEVICE Random philox_rounds(u32 a, u32 b, u32 c, u32 d, int first_round, const RoundKeys &keys) {
#pragma unroll
    for (int round = first_round; round < 10; ++round) {
        u32 first_low, first_high, second_low, second_high;
        wide_product(a, 0xd2511f53u, first_low, first_high);
        wide_product(c, 0xcd9e8d57u, second_low, second_high);
        a = second_high ^ b ^ keys.words[2 * round];
        b = second_low;
        c = first_high ^ d ^ keys.words[2 * round + 1];
        d = first_low;
    }
    Random random = {{a, b, c, d}};
    return random;
}

DEVICE Random philox(u64 counter, const RoundKeys &keys) {
    return philox_rounds((u32)counter, (u32)(counter >> 32), 0, 0, 0, keys);
}

// The same for a counter of 32 bits, with `narrow_keys` of the host: zeros leave out a product of the
// first round, and the second one's is the same for all counters and lies in words 3 and 5.
DEVICE Random philox_narrow(u32 counter, const RoundKeys &keys) {
    u32 a, b, c, d, low, high;
    wide_product(counter, 0xd2511f53u, low, high);
    wide_product(high ^ keys.words[1], 0xcd9e8d57u, b, a);
    a ^= keys.words[2];
    wide_product(low ^ keys.words[3], 0xcd9e8d57u, low, high);
    high ^= b ^ keys.words[4];
    wide_product(a, 0xd2511f53u, d, c);
    return philox_rounds(high, low, c ^ keys.words[5], d, 3, keys);
}

// Whichever of both the kernel was compiled for.
DEVICE Random philox_of(u64 counter, const RoundKeys &keys) {
#if NARROW
    return philox_narrow((u32)counter, keys);
#else
    return philox(counter, keys);
#endif
}

// The random half of one element, in the lower 16 bits.
DEVICE u32 random_half(u64 element, const RoundKeys &keys) {
    Random four = philox_of(element >> 3, keys);
    u32 low = element & 2 ? four.words[1] : four.words[0];
    u32 high = element & 2 ? four.words[3] : four.words[2];
    u32 word = element & 4 ? high : low;
    return element & 1 ? word >> 16 : word & 0xffffu;
}

// The random 16-bit halves of elements index to index + 7, two a word: half i % 8 of counter i / 8,
// the lower half of a word first.
DEVICE Random random_halves(i64 index, const RoundKeys &keys) {
#if ALIGNED
    return philox_of((u64)index >> 3, keys);
#else
    Random random;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        u32 half = random_half((u64)index + k, keys);
        random.words[k / 2] = k & 1 ? random.words[k / 2] | half << 16 : half;
    }
    return random;
#endif
}

// Those of elements index to index + 15, of which ALIGNED promises a multiple of sixteen.
DEVICE void random_sixteen(i64 index, const RoundKeys &keys, Random (&halves)[2]) {
#if ALIGNED
    const u64 counter = (u64)index >> 3;
    halves[0] = philox_of(counter, keys);
    halves[1] = philox_of(counter | 1, keys);
#else
    halves[0] = random_halves(index, keys);
    halves[1] = random_halves(index + 8, keys);
#endif
}
