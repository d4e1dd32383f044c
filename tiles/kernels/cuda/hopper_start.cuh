// How a CTA begins, where that is much of its time: barriers, first copies, what it reads last.

// Barriers that this thread has initialised count what the copy engine brings on its behalf, before
// the CTA has met.
__device__ __forceinline__ void barriers_are_ready() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Asks for the line of an address, which is read later, to come near: into the L2.
__device__ __forceinline__ void prefetch_line(const void *from) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(from) : "memory");
}
