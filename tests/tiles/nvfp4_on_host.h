// What quantize_nvfp4.cu takes of a GPU beside what cuda_on_host.h has: fp16 in pairs, each result exact and
// then rounded once, and CTAs that meet.  Atomic operations are no accesses that barriers have to order.
#pragma once
#include "cuda_on_host.h"

namespace host {
static inline double of_half(uint32_t bits) {
    const uint16_t half = bits;
    _Float16 x;
    memcpy(&x, &half, 2);
    return (double)x;
}
static inline uint32_t to_half(double x) {
    const _Float16 half = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
template <class F> static inline uint32_t both(F f) { return f(0) | f(16) << 16; }
}  // namespace host

static inline uint32_t add_positive(uint32_t x, uint32_t y) {
    return host::both([=](int s) -> uint32_t {
        const int sum = (int16_t)(x >> s) + (int16_t)(y >> s);
        if (sum != (int16_t)sum) complain("a sum of more than 16 bits");
        return sum > 0 ? sum : 0;
    });
}
static inline uint32_t add_halves(uint32_t x, uint32_t y) {
    return host::both([=](int s) { return host::to_half(host::of_half(x >> s) + host::of_half(y >> s)); });
}
static inline double fused(uint32_t x, uint32_t y, uint32_t z, int s) {
    return host::of_half(x >> s) * host::of_half(y >> s) + host::of_half(z >> s);
}
static inline uint32_t fused_halves(uint32_t x, uint32_t y, uint32_t z) {
    return host::both([=](int s) { return host::to_half(fused(x, y, z, s)); });
}
static inline uint32_t fused_positive_halves(uint32_t x, uint32_t y, uint32_t z) {
    return host::both([=](int s) { return host::to_half(fmax(fused(x, y, z, s), 0.0)); });
}
static inline uint32_t fused_unit_halves(uint32_t x, uint32_t y, uint32_t z) {
    return host::both([=](int s) { return host::to_half(fmin(fmax(fused(x, y, z, s), 0.0), 1.0)); });
}
static inline uint32_t lower_twice(uint32_t word) { return (word & 0xffff) * 0x10001u; }
static inline uint32_t upper_twice(uint32_t word) { return (word >> 16) * 0x10001u; }

static inline uint32_t larger_sizes(uint32_t peaks, uint32_t word) {
    return __vmaxu2(peaks, word & 0x7fff7fffu);
}
#define ATOMIC __attribute__((noinline, no_sanitize("thread")))
ATOMIC static uint32_t atomicMax(uint32_t *to, uint32_t value) {
    const uint32_t before = *to;
    if (value > before) *to = value;
    return before;
}
ATOMIC static uint32_t atomicAdd(uint32_t *to, uint32_t value) { return (*to += value) - value; }
ATOMIC static void add_released(uint32_t *to, uint32_t value) { *to += value; }
ATOMIC static uint32_t load_acquired(const uint32_t *from) {
    static uint32_t turns;
    if (++turns > 1000000) complain("a wait without an end");
    host::moved = true;  // somebody else will
    host::pass();
    return *from;
}
