// The CTAs of a cluster that share rows: their barrier and each other's shared memory.
//
// Macros: SPLITS (CTAs of a cluster).  A test on the CPU has all of these by itself.
#ifndef ON_HOST
#if SPLITS > 1
#define CLUSTER __cluster_dims__(SPLITS, 1, 1)
#else
#define CLUSTER
#endif

// All threads of the cluster, in two parts, between which there is work to do; shared memory written
// before the first is seen after the second.  A CTA alone has nobody to wait for: what its threads
// leave for one another needs a barrier of its own.
DEVICE void cluster_arrive() {
#if SPLITS > 1
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

DEVICE void cluster_wait() {
#if SPLITS > 1
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// A float at the same place in the shared memory of a CTA of the cluster.
DEVICE float of_cta(const float *place, u32 rank) {
#if SPLITS > 1
    u32 local = (u32)__cvta_generic_to_shared(place), remote;
    float value;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(local), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(remote) : "memory");
    return value;
#else
    return *place;
#endif
}
#endif
