// The ring of STAGES stages between the thread that loads and the warps that multiply.
//
// Each stage has two mbarriers.  "full" counts the bytes that the copy engine brings, and whoever
// else fills the stage; "empty" counts the warps that have read it, in all CTAs that it was filled
// from.  Both sides walk round the ring with the parity of the phase that they wait for, `stage`
// and `phase` in the kernels: consumers begin with 0, the producer with 1, so that its first wait
// on every stage passes.
//
// Macros: STAGES, CLUSTER, ROW_BYTES.

__device__ __forceinline__ int stage_after(int stage) { return stage + 1 == STAGES ? 0 : stage + 1; }
__device__ __forceinline__ int stage_before(int stage) { return stage == 0 ? STAGES - 1 : stage - 1; }

// By one thread; the CTA, and its cluster, has to meet before anybody waits.
__device__ __forceinline__ void init_ring(u32 full_bar, u32 empty_bar, u32 producers,
                                          u32 consumer_warps) {
    for (int s = 0; s < STAGES; s++) {
        barrier_init(full_bar + s * 8, producers);
        barrier_init(empty_bar + s * 8, consumer_warps);
    }
    barrier_fence();
}

// By a warp that will not read the stage any more: gives it back to the CTAs that fill it.  Reads
// by other lanes than the first need a __syncwarp() before.
__device__ __forceinline__ void release_stage(u32 empty_bar, int stage, int lane) {
    if (CLUSTER > 1) {
        if (lane < CLUSTER) barrier_arrive_at(empty_bar + stage * 8, lane);
    } else if (lane == 0) {
        barrier_arrive(empty_bar + stage * 8);
    }
}

// Fills a tile of Height rows.  One that the CTAs of a cluster share is brought by all of them, each a
// part of the rows to everybody.
template <int Height, bool Shared>
__device__ __forceinline__ void load_cluster_tile(u32 to, const TensorMap *map, u32 bar, int k,
                                                  int top, u32 rank) {
    if (CLUSTER > 1 && Shared) {
        const int part = rank * (Height / CLUSTER);
        load_tile_everywhere(to + part * ROW_BYTES, map, bar, k, top + part);
    } else {
        load_tile(to, map, bar, k, top);
    }
}
