// A consumer's way out: sums to a staging buffer in shared memory, and from there by the copy
// engine.
//
// STORE_BUFFERS buffers take turns, also from one tile to the next: the one that is taken was
// stored from STORE_BUFFERS bulk groups ago, and has been read when fewer are pending.
//
// Macros: OUT (0 bf16, 1 fp16, 2 fp32, above: codes), ROW_BYTES, STORE_BUFFERS, CONSUMER_BARRIER
// (the named barrier of the first consumer's threads).

// Joins the 128 threads of a consumer.
__device__ __forceinline__ void consumer_sync(int consumer) {
    asm volatile("bar.sync %0, 128;" ::"r"(CONSUMER_BARRIER + consumer) : "memory");
}

// Until the buffer that is next may be written; by all threads of a consumer.
__device__ __forceinline__ void await_buffer(int consumer, int thread) {
    if (thread == 0)
        asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(STORE_BUFFERS - 1) : "memory");
    consumer_sync(consumer);
}

// What was written is seen by the copy engine afterwards; by all threads of a consumer.
__device__ __forceinline__ void publish_buffer(int consumer) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    consumer_sync(consumer);
}

// Ends a bulk group, by the thread that stores.  Every buffer is one, also one that is not stored
// from: await_buffer counts them.
__device__ __forceinline__ void commit_buffer() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

__device__ __forceinline__ void await_stores() {
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

#if OUT <= 2
__device__ __forceinline__ u32 pack(float low, float high) {
    return OUT == 1 ? pack_fp16(low, high) : pack_bf16(low, high);
}

// Writes 16 columns of a warp's 16 rows, laid out as wgmma leaves them, into a staging buffer.
// v: columns 2l, 2l+1 of row r, the same of row r + 8, then 8 columns further on.
__device__ __forceinline__ void stage_columns(u32 buffer, int warp, int lane, int part,
                                              const float *v) {
#if OUT == 2
#pragma unroll
    for (int g = 0; g < 2; g++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int r = warp * 16 + h * 8 + lane / 4;
            const int byte = (part * 16 + g * 8 + lane % 4 * 2) * 4;
            const u32 to = buffer + r * ROW_BYTES + ((byte / 16 ^ r % 8) * 16 + byte % 16);
            asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to), "f"(v[g * 4 + h * 2]),
                         "f"(v[g * 4 + h * 2 + 1])
                         : "memory");
        }
#else
    const int r = warp * 16 + lane % 16, piece = part * 2 + lane / 16;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     buffer + r * ROW_BYTES + ((piece ^ r % 8) * 16)),
                 "r"(pack(v[0], v[1])), "r"(pack(v[2], v[3])), "r"(pack(v[4], v[5])),
                 "r"(pack(v[6], v[7]))
                 : "memory");
#endif
}
#endif
