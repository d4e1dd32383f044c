// Copies to shared memory that nobody waits for at once.  A test on the CPU has all of these by itself.
#ifndef ON_HOST
DEVICE void copy_async(uint4 *to, const u8 *from) {
    u32 place = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place), "l"(from) : "memory");
}

DEVICE void copy_float_async(float *to, const float *from) {
    u32 place = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(place), "l"(from) : "memory");
}

// All copies since the last group are one.
DEVICE void copies_begun() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// All groups but the latest ones have come.
template <int Left> DEVICE void copies_left() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

DEVICE void copies_done() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#endif
