// MX operands (1x32 E8M0 scales) brought to one scale for every 128 along K: codes and fp32 scales.
//
// The largest of a row's four scales in 128 of K becomes the scale of all 128; codes of the other
// blocks are shifted to it (mx_alignment.cuh).  A block whose codes leave room above them counts with
// the smaller scale that it could have, a block of zeros not at all; where all are zeros the scale is
// 2^-127.  A scale of NaN (0xFF) makes that of the 128 NaN.
//
// A CTA has 32 rows by CHUNKS times 128 of K, eight lanes a row of 128 with 16 codes each, and all of a
// thread's codes are on their way before the first is looked at.  Both operands go in one launch, A's
// CTAs first.  Scales leave with rows side by side, through shared memory.  Codes that came are not
// needed again, those that leave are: the first are read so that the L2 lets go of them first.
//
// Macros from the launcher: ELEMENT (2 e4m3fn, 3 e5m2), CHUNKS.

#include "words.cuh"
#include "follow_launch.cuh"
#include "mx_alignment.cuh"

#define THREADS 256
#define ROWS 32
#define WARPS 8
#define QUANT 128
#define CODES 16  // of a lane
#define LANES (QUANT / CODES)
#define MX_QUANT 32
#define NAN_SCALE 255u
#define RAISED 16u  // added to exponents: with room above the codes they may lie below zero

#if CHUNKS * ROWS > THREADS
#error "a thread has at most one of the scales that leave"
#endif

// Rows of codes are `pitch` and `out_pitch` bytes apart, columns of scales `apart` floats.
struct Side {
    const u8 *codes, *scales;
    u8 *out;
    float *out_scales;
    i64 pitch, out_pitch, apart;
    i64 rows;
};

struct Operands {
    Side a, b;
    i64 k;
    i64 a_ctas;  // the others are B's
};

// The largest exponent of eight lanes.
DEVICE u32 largest(u32 exponent) {
#pragma unroll
    for (int distance = 1; distance < LANES; distance *= 2) {
        const u32 other = __shfl_xor_sync(0xffffffffu, exponent, distance);
        exponent = other > exponent ? other : exponent;
    }
    return exponent;
}

// 2^(raised - RAISED - 127), subnormal from 2^-127 on; 0, of zeros alone, is 2^-127.
DEVICE float power_of_two(u32 raised) {
    if (raised == RAISED + NAN_SCALE) return __uint_as_float(0x7fffffffu);
    if (raised > RAISED) return __uint_as_float((raised - RAISED) << 23);
    return __uint_as_float(raised == 0 ? 0x00400000u : 0x00400000u >> (RAISED - raised));
}

extern "C" __global__ void __launch_bounds__(THREADS) align_mx_scales(const Operands p) {
    SHARED_BYTES(memory, CHUNKS * ROWS * 4);
    float *kept = (float *)memory;
    const u32 a_ctas = (u32)p.a_ctas;
    const bool of_a = blockIdx.x < a_ctas;
    const u32 index = of_a ? blockIdx.x : blockIdx.x - a_ctas;
    const u32 chunks = (u32)((p.k + QUANT - 1) / QUANT), across = (chunks + CHUNKS - 1) / CHUNKS;
    const u32 down = index / across, first_chunk = (index - down * across) * CHUNKS;
    const u32 lane = threadIdx.x % LANES, local = threadIdx.x / LANES;
    const i64 rows = of_a ? p.a.rows : p.b.rows, top = (i64)down * ROWS, row = top + local;
    const i64 first = (i64)first_chunk * QUANT + lane * CODES;
    // Codes from here on to the end of the row; none of a row that there is not.
    const int left = row < rows ? (int)(p.k - first < CHUNKS * QUANT ? p.k - first : CHUNKS * QUANT) : 0;
    const u8 *from = (of_a ? p.a.codes : p.b.codes) + row * (of_a ? p.a.pitch : p.b.pitch) + first;
    const u8 *scales =
        (of_a ? p.a.scales : p.b.scales) + row * ((p.k + MX_QUANT - 1) / MX_QUANT) + first / MX_QUANT;
    u8 *to = (of_a ? p.a.out : p.b.out) + row * (of_a ? p.a.out_pitch : p.b.out_pitch) + first;

    uint4 codes[CHUNKS];
    u32 exponent[CHUNKS];
    follow_launch();
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        codes[c] = make_uint4(0, 0, 0, 0);
        exponent[c] = 0;
        if (c * QUANT < left) {
            codes[c] = __ldcs((const uint4 *)(from + c * QUANT));
            exponent[c] = __ldg(scales + c * (QUANT / MX_QUANT));
        }
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) {
        const bool any = magnitudes_of(codes[c]) != 0;
        u32 counts = any ? exponent[c] + RAISED - room_of(codes[c]) : 0;
        if (exponent[c] == NAN_SCALE) counts = NAN_SCALE + RAISED;
        const u32 most = largest(counts);
        if (lane == 0) kept[c * ROWS + local] = power_of_two(most);
        const int shift = (int)(most - RAISED - exponent[c]);
        if (any && shift != 0) codes[c] = align_codes(codes[c], shift);
        if (c * QUANT < left) *(uint4 *)(to + c * QUANT) = codes[c];
    }
    __syncthreads();
    const i64 apart = of_a ? p.a.apart : p.b.apart;
    float *out_scales = (of_a ? p.a.out_scales : p.b.out_scales) + first_chunk * apart + top;
    const u32 chunk = threadIdx.x / ROWS, down_row = threadIdx.x % ROWS;
    if (chunk < CHUNKS && first_chunk + chunk < chunks && top + down_row < rows)
        out_scales[chunk * apart + down_row] = kept[threadIdx.x];
}
