// Philox4x32-10 (Salmon et al., SC 2011), counter of 64 bits, the upper 64 zero; 16 bits an element.
//
// Element i of a flat matrix takes half i % 8 of counter i / 8, the lower half of a word first: the
// bits depend on neither tiles nor threads.
//
// Macros: ALIGNED (the index of eight elements is a multiple of eight), DEVICE, given by the file that
// includes this one, as are the short names of integers.

// A key and its nine successors.  They travel among a kernel's parameters, where an instruction takes
// them from constant memory: made of the seed in the kernel, they cost five instructions an element.
struct RoundKeys {
    u32 words[20];
};

struct Random {
    u32 words[4];
};

DEVICE Random philox(u64 counter, const RoundKeys &keys) {
    u32 a = (u32)counter, b = (u32)(counter >> 32), c = 0, d = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        u64 first = (u64)a * 0xd2511f53u, second = (u64)c * 0xcd9e8d57u;
        a = (u32)(second >> 32) ^ b ^ keys.words[2 * round];
        b = (u32)second;
        c = (u32)(first >> 32) ^ d ^ keys.words[2 * round + 1];
        d = (u32)first;
    }
    Random random = {{a, b, c, d}};
    return random;
}

// The random half of one element, in the lower 16 bits.
DEVICE u32 random_half(u64 element, const RoundKeys &keys) {
    Random four = philox(element >> 3, keys);
    u32 low = element & 2 ? four.words[1] : four.words[0];
    u32 high = element & 2 ? four.words[3] : four.words[2];
    u32 word = element & 4 ? high : low;
    return element & 1 ? word >> 16 : word & 0xffffu;
}

// The random 16-bit halves of elements index to index + 7, two a word: half i % 8 of counter i / 8,
// the lower half of a word first.
DEVICE Random random_halves(i64 index, const RoundKeys &keys) {
#if ALIGNED
    return philox((u64)index >> 3, keys);
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
