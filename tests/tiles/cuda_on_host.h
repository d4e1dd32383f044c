// Enough of CUDA C++ to run the dataflow, quantisation and transposition kernels on a CPU: see
// threads_on_host.h.  Rounded operations round as the GPU's do; the approximate reciprocal errs by its
// whole ulp, upwards, and is never subnormal.
#pragma once
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "threads_on_host.h"

#define ON_HOST 1
#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define CLUSTER
#define DEVICE static inline

struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(8) uint2 { uint32_t x, y; };
template <class T> static T min(T x, T y) { return x < y ? x : y; }
template <class T> static T max(T x, T y) { return x > y ? x : y; }
static inline int64_t min(int64_t x, long long y) { return x < y ? x : y; }
static inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
static inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
static inline float2 make_float2(float x, float y) { return {x, y}; }

static inline uint32_t __float_as_uint(float f);
static inline float __uint_as_float(uint32_t bits);
static inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value) {
    for (int distance = 1; distance < 32; distance *= 2) {
        uint32_t other = __float_as_uint(__shfl_xor_sync(mask, __uint_as_float(value), distance));
        if (other > value) value = other;
    }
    return value;
}
static inline uint32_t __vimax3_u16x2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t high = a >> 16, low = a & 0xffff;
    for (uint32_t other : {b, c}) {
        high = other >> 16 > high ? other >> 16 : high;
        low = (other & 0xffff) > low ? other & 0xffff : low;
    }
    return high << 16 | low;
}
static inline uint32_t __vimax3_u32(uint32_t a, uint32_t b, uint32_t c) {
    return a > b ? a > c ? a : c : b > c ? b : c;
}
static inline uint32_t __vmaxu2(uint32_t a, uint32_t b) { return __vimax3_u16x2(a, b, b); }
static inline uint32_t __vabs4(uint32_t word) {
    uint32_t result = 0;
    for (int k = 0; k < 4; ++k) result |= (uint32_t)(uint8_t)abs((int8_t)(word >> 8 * k)) << 8 * k;
    return result;
}
static inline float entry(const float *table, uint32_t word, int k) {
    return table[word >> 8 * k & 255];
}
static inline void copy_async(uint4 *to, const unsigned char *from) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) complain("a copy of 16 bytes that is not aligned to them");
    copy_later(to, from, 16);
}
static inline void copy_float_async(float *to, const float *from) { copy_later(to, from, 4); }

namespace host {
template <class F> static float rounded(int mode, F f) {
    int before = fegetround();
    fesetround(mode);
    volatile float result = f();
    fesetround(before);
    return result;
}
}  // namespace host

static inline float __uint_as_float(uint32_t bits) { float f; memcpy(&f, &bits, 4); return f; }
static inline uint32_t __float_as_uint(float f) { uint32_t bits; memcpy(&bits, &f, 4); return bits; }
static inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float __fmaf_rd(float x, float y, float z) {
    volatile float a = x, b = y, c = z;
    return host::rounded(FE_DOWNWARD, [&] { return fmaf(a, b, c); });
}
static inline float __fadd_rd(float x, float y) {
    volatile float a = x, b = y;
    return host::rounded(FE_DOWNWARD, [&] { return a + b; });
}
static inline float __fadd_rz(float x, float y) {
    volatile float a = x, b = y;
    return host::rounded(FE_TOWARDZERO, [&] { return a + b; });
}
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float divide_rn(float x, float y) { return x / y; }
static inline float reciprocal_rn(float x) { return 1.0f / x; }
static inline float multiply_rn(float x, float y) { return x * y; }
static inline float fused_rn(float x, float y, float z) { return fmaf(x, y, z); }
static inline float minus(float x) { return -x; }
static inline float add_magnitude_rd(float x, float y) { return __fadd_rd(fabsf(x), y); }
static inline uint32_t larger_halves(uint32_t peaks, uint32_t word) {  // of magnitudes, as integers
    uint32_t low = max(peaks & 0xffff, word & 0x7fff), high = max(peaks >> 16, word >> 16 & 0x7fff);
    return high << 16 | low;
}
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline uint32_t __umulhi(uint32_t x, uint32_t y) { return (uint64_t)x * y >> 32; }
static inline int __dp4a(int x, int y, int sum) {
    for (int k = 0; k < 4; ++k) sum += (int)(int8_t)(x >> 8 * k) * (int)(int8_t)(y >> 8 * k);
    return sum;
}
static inline uint32_t __dp2a_lo(uint32_t x, uint32_t y, uint32_t sum) {
    return sum + (x & 0xffff) * (y & 0xff) + (x >> 16) * (y >> 8 & 0xff);
}
template <class T> static T __ldg(const T *p) { return *p; }
template <class T> static T __ldcs(const T *p) { return *p; }
static inline void store_vector(uint8_t *to, const uint32_t *words, bool wanted) {
    if (wanted) *(uint4 *)to = make_uint4(words[0], words[1], words[2], words[3]);
}
static inline void store_scale(float *to, float scale, bool wanted) {
    if (wanted) *to = scale;
}

static inline uint32_t permute(uint32_t low, uint32_t high, uint32_t selector) {
    uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t result = 0;
    for (int k = 0; k < 4; ++k) {
        uint32_t s = selector >> 4 * k & 15, byte = bytes >> 8 * (s & 7) & 255;
        result |= (s & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * k;
    }
    return result;
}
static inline float converted_byte(uint32_t word, int k) { return (float)(int8_t)(word >> 8 * k); }
static inline float exp2_approximate(float x) { return exp2f(x); }
static inline float reciprocal_approximate(float x) {
    float result = 1.0f / x * (1.0f + 0x1p-23f);
    return std::fpclassify(result) == FP_SUBNORMAL ? 0.0f : result;  // .ftz
}
static inline float larger(float x, float y) {
    return x != x || y != y ? NAN : x > y ? x : y;
}

// e4m3fn by its definition: 8 exponents of bias 7, 3 bits of mantissa, 0x7f is NaN.
static inline float e4m3_value(uint32_t code) {
    uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
    float size = (code & 127) == 127 ? NAN
                 : exponent          ? ldexpf(8 + mantissa, (int)exponent - 10)
                                     : ldexpf(mantissa, -9);
    return code & 128 ? -size : size;
}
static inline void decode_pair(uint16_t codes, float &low, float &high) {
    low = e4m3_value(codes & 255), high = e4m3_value(codes >> 8);
}
static inline uint32_t e4m3_code(float value) {
    if (value != value) return 127;
    uint32_t best = 0, sign = std::signbit(value) ? 128 : 0;
    float size = fminf(fabsf(value), 448.0f);
    for (uint32_t code = 0; code < 127; ++code) {
        float error = fabsf(e4m3_value(code) - size), least = fabsf(e4m3_value(best) - size);
        if (error < least || (error == least && code % 2 == 0)) best = code;
    }
    return best | sign;
}
static inline uint32_t encode_pair(float low, float high) {
    return e4m3_code(low) | e4m3_code(high) << 8;
}
