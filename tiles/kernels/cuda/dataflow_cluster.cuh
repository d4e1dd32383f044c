// The CTAs of a cluster that share rows: each sends its part of a row's sums to the shared memory of all.
//
// A barrier in each CTA counts the bytes that have come, and whoever needs them waits there.  The cluster's
// own barrier would wait for every store of a CTA on its way to memory, and empty its first-level cache; and
// as nobody reads another's memory, a CTA leaves as soon as its own work is done.  Two barriers by turns:
// nobody sends for the row group after the next before all have taken up this one.
//
// Macros: SPLITS (CTAs of a cluster), SHARES (floats of a row that a CTA sends: 1 or 2).  A test on the CPU has
// all of these by itself.
#ifndef ON_HOST
#if SPLITS > 1
#define CLUSTER __cluster_dims__(SPLITS, 1, 1)
#else
#define CLUSTER
#endif

DEVICE u32 shared_address(const void *place) { return (u32)__cvta_generic_to_shared(place); }

// Sets both barriers up; before it sends, a CTA has to know that all others have done so.
DEVICE void shares_begin(u64 *arrivals) {
#if SPLITS > 1
    if (threadIdx.x == 0) {
        for (int k = 0; k < 2; ++k)
            asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(arrivals + k)));
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

DEVICE void shares_met() {
#if SPLITS > 1
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// How many bytes a CTA waits for; called by all of its threads.
DEVICE void expect_shares(u64 *arrival, u32 bytes) {
#if SPLITS > 1
    if (threadIdx.x == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                         shared_address(arrival)),
                     "r"(bytes)
                     : "memory");
#endif
}

// Leaves a row's part at the same place in each CTA's shared memory.
DEVICE void send_share(float *place, u64 *arrival, float first, float second) {
#if SPLITS > 1
#pragma unroll
    for (int rank = 0; rank < SPLITS; ++rank) {
        u32 to, bar;
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(place)), "r"(rank));
        asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                     : "=r"(bar) : "r"(shared_address(arrival)), "r"(rank));
#if SHARES == 2
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(to),
                     "f"(first), "f"(second), "r"(bar) : "memory");
#else
        asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to),
                     "f"(first), "r"(bar) : "memory");
#endif
    }
#else
    place[0] = first;
    if (SHARES == 2) place[1] = second;
#endif
}

// After the last one that a thread sends of a row group.
DEVICE void shares_sent() {}

// All parts of a row group have come; called by all threads.
DEVICE void await_shares(u64 *arrival, u32 phase) {
#if SPLITS > 1
    u32 done;
    do {
        asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                     : "=r"(done) : "r"(shared_address(arrival)), "r"(phase) : "memory");
    } while (!done);
#endif
}
#endif
