// When a thread of a kernel that runs on the CPU does something, and what of it watched_memory.cpp is told.
#pragma once
#include <cstdint>

// A thread, and how many barriers of each kind lie behind it.
struct Moment {
    uint32_t cluster = 0, cta = 0, thread = 0;
    uint32_t cta_turn = 0, warp_turn = 0;
    uint32_t arrived = 0, waited = 0;  // at the cluster's barrier
};

extern const Moment *watched_now;  // of the running thread; none: nothing is looked at
void watch_shared(uint32_t cta, const void *start, uint32_t size);
void forget_shared();
void complain(const char *what);  // what came first is kept
