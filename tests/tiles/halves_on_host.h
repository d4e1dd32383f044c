// fp16 numbers in pairs and codes of e4m3fn and e5m2 on a CPU, for mx_alignment.cuh: by the formats'
// definitions, each result the nearest of all there are, ties to even.
#pragma once
#include "cuda_on_host.h"

namespace host {
// Of a sign, `exponents` bits and `fraction` bits; the highest exponents are numbers like the others.
static double float_value(uint32_t bits, int exponents, int fraction) {
    const int bias = (1 << (exponents - 1)) - 1;
    const int exponent = bits >> fraction & ((1 << exponents) - 1);
    const int digits = bits & ((1 << fraction) - 1);
    const double size = exponent ? ldexp((1 << fraction) + digits, exponent - bias - fraction)
                                 : ldexp(digits, 1 - bias - fraction);
    return bits >> (exponents + fraction) & 1 ? -size : size;
}
static uint32_t nearest(double x, int exponents, int fraction, uint32_t largest) {
    const double size = fabs(x);
    uint32_t low = 0, high = largest;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (float_value(middle, exponents, fraction) <= size) low = middle;
        else high = middle;
    }
    const double below = size - float_value(low, exponents, fraction);
    const double above = float_value(high, exponents, fraction) - size;
    const uint32_t code = above < below || (above == below && high % 2 == 0) ? high : low;
    return code | (std::signbit(x) ? 1u << (exponents + fraction) : 0);
}
static double half_value(uint32_t bits) {
    if ((bits & 0x7c00) == 0x7c00) return bits & 0x3ff ? NAN : bits >> 15 ? -INFINITY : INFINITY;
    return float_value(bits, 5, 10);
}
static uint32_t half_bits(double x) {
    if (std::isnan(x)) return 0x7fff;
    if (std::isinf(x)) return std::signbit(x) ? 0xfc00 : 0x7c00;
    return nearest(x, 5, 10, 0x7bff);
}
#if ELEMENT == 2
static double code_value(uint32_t code) {
    return (code & 127) == 127 ? NAN : float_value(code, 4, 3);
}
static uint32_t code_of(double x) {
    return std::isnan(x) ? 127 : nearest(fmin(fmax(x, -448.0), 448.0), 4, 3, 126);
}
#else
static double code_value(uint32_t code) { return half_value(code << 8); }
static uint32_t code_of(double x) {
    return std::isnan(x) ? 127 : nearest(fmin(fmax(x, -57344.0), 57344.0), 5, 2, 123);
}
#endif
}  // namespace host

static uint32_t multiply_halves(uint32_t x, uint32_t y) {
    const uint32_t low = host::half_bits(host::half_value(x & 0xffff) * host::half_value(y & 0xffff));
    return low | host::half_bits(host::half_value(x >> 16) * host::half_value(y >> 16)) << 16;
}
static void to_halves(uint32_t codes, uint32_t &low, uint32_t &high) {
    uint32_t half[4];
    for (int i = 0; i < 4; ++i) half[i] = host::half_bits(host::code_value(codes >> 8 * i & 255));
    low = half[0] | half[1] << 16, high = half[2] | half[3] << 16;
}
static uint32_t to_codes(uint32_t low, uint32_t high) {
    return host::code_of(host::half_value(low & 0xffff)) |
           host::code_of(host::half_value(low >> 16)) << 8 |
           host::code_of(host::half_value(high & 0xffff)) << 16 |
           host::code_of(host::half_value(high >> 16)) << 24;
}
