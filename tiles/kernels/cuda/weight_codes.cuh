// Packed weight codes decoded to pairs of 16-bit floats, in registers, and their scales to fp32.
//
// A word holds four bytes of a row, in the order of the packed layout: 4-bit codes two a byte, 8-bit
// codes one.  Byte permutes set codes below the exponent of a magic number, 128 in bf16 and 1024 in
// fp16, which is subtracted again; codes of floats are shifted into place, and a power of two
// corrects the exponent's bias, subnormals included.
//
// ELEMENT: 0 bf16, 1 fp16.  WEIGHT: 0 int4, 1 uint4, 2 e2m1fn, 3 int8, 4 e4m3fn.
// SCALE: 0 none, 1 fp32, 2 fp16, 3 bf16, 4 e8m0fnu, 5 e4m3fn.

#if ELEMENT == 0
#define MAGIC_BYTES 0x43434343u
#define LESS_MAGIC 0xc300c300u
#define ONE_PAIR 0x3f803f80u
#define MINUS_ONE_PAIR 0xbf80bf80u
#define MANTISSA_BITS 7
#define E2M1_FACTOR 0x7e807e80u  // 2^126
#define E4M3_FACTOR 0x7b807b80u  // 2^120
#else
#define MAGIC_BYTES 0x64646464u
#define LESS_MAGIC 0xe400e400u
#define ONE_PAIR 0x3c003c00u
#define MINUS_ONE_PAIR 0xbc00bc00u
#define MANTISSA_BITS 10
#define E2M1_FACTOR 0x74007400u  // 2^14
#define E4M3_FACTOR 0x5c005c00u  // 2^8
#endif
#define SIGN_BITS 0x80008000u

#if SCALE == 0
#define SCALE_ITEM 0
#elif SCALE == 1
#define SCALE_ITEM 4
#elif SCALE <= 3
#define SCALE_ITEM 2
#else
#define SCALE_ITEM 1
#endif

// A float code whose sign is the highest bit of each half of p, its other bits as m has them.
__device__ __forceinline__ u32 placed(u32 p, u32 m, u32 factor) {
    return fma_pair(p & SIGN_BITS | m, factor, SIGN_BITS);  // - 0 keeps the sign of zero
}

// The numbers of bytes 0 and 1, and of bytes 2 and 3: of their low halves (`high` 0), or of their
// high ones (1).
// `less`: of uint4, the pair that takes the magic number and the zero point away.
__device__ __forceinline__ void decode_word(u32 w, int high, u32 less, u32 &first, u32 &second) {
#if WEIGHT <= 1
    const u32 codes = w >> 4 * high & 0x0f0f0f0fu;
    const u32 taken = WEIGHT == 0 ? LESS_MAGIC | 0x00080008u : less;
    first = fma_pair(permute(codes, MAGIC_BYTES, 0x4140), ONE_PAIR, taken);
    second = fma_pair(permute(codes, MAGIC_BYTES, 0x4342), ONE_PAIR, taken);
#elif WEIGHT == 2
    const u32 field = (7u << (MANTISSA_BITS - 1)) * 0x10001u;
    const u32 codes = w << (4 - 4 * high);
    const u32 p = permute(codes, 0, 0x1404), q = permute(codes, 0, 0x3424);
    first = placed(p, p >> (13 - MANTISSA_BITS) & field, E2M1_FACTOR);
    second = placed(q, q >> (13 - MANTISSA_BITS) & field, E2M1_FACTOR);
#elif WEIGHT == 3
    const u32 p = permute(w, MAGIC_BYTES, 0x4140), q = permute(w, MAGIC_BYTES, 0x4342);
    first = fma_pair(p & 0xff80ff80u, MINUS_ONE_PAIR, p & 0xff7fff7fu);
    second = fma_pair(q & 0xff80ff80u, MINUS_ONE_PAIR, q & 0xff7fff7fu);
#else
    const u32 p = permute(w, 0, 0x1404), q = permute(w, 0, 0x3424);
    first = placed(p, (p & ~SIGN_BITS) >> (11 - MANTISSA_BITS), E4M3_FACTOR);
    second = placed(q, (q & ~SIGN_BITS) >> (11 - MANTISSA_BITS), E4M3_FACTOR);
#endif
}

// A stored scale from shared memory.
__device__ __forceinline__ float load_scale(u32 address) {
#if SCALE == 1
    return load_shared(address);
#elif SCALE == 2
    return widen_fp16(load_shared_u16(address));
#elif SCALE == 3
    return __uint_as_float(load_shared_u16(address) << 16);
#elif SCALE == 4
    // 2^(code - 127) is an fp32 with the code as exponent; code 0 is subnormal, 255 is NaN.
    const u32 code = load_shared_u8(address);
    return __uint_as_float(code == 0 ? 0x400000 : code == 255 ? 0x7fc00000 : code << 23);
#elif SCALE == 5
    const u32 code = load_shared_u8(address), fraction = code & 7, exponent = code >> 3 & 15;
    const float size = exponent ? __uint_as_float((exponent + 120) << 23 | fraction << 20)
                                : (float)fraction * 0.001953125f;
    const float value = (code & 127) == 127 ? __uint_as_float(0x7fc00000) : size;
    return code & 128 ? -value : value;
#else
    return 1.0f;
#endif
}
