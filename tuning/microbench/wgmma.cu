// Rate of wgmma from shared memory: two warpgroups of a CTA, 64 rows by WGMMA_N columns each.
//
// ELEMENT as in gemm_hopper.cu: 0 bf16, 1 fp16, 2 e4m3fn, 3 e5m2, 4 int8.

#define CLUSTER 1

#include "hopper.cuh"
#include "hopper_wgmma.cuh"

#define STEPS 4  // of 32 bytes of K in 128 bytes of a row

extern "C" __global__ void __launch_bounds__(256) rate(int turns, u32 *sink, u64 *begins,
                                                        u64 *ends) {
    extern __shared__ __align__(1024) u8 memory[];
    u8 *base = memory + (1024 - (__cvta_generic_to_shared(memory) & 1023)) % 1024;
    for (int i = threadIdx.x; i < (128 + WGMMA_N) * 128 / 4; i += blockDim.x) ((u32 *)base)[i] = 0;
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    const int group = threadIdx.x / 128;
    const u64 a = descriptor(shared_address(base + group * 64 * 128));
    const u64 b = descriptor(shared_address(base + 128 * 128));
    Accumulator d[HALF] = {};
    __syncthreads();
    const long long begin = clock64();
    for (int turn = 0; turn < turns; turn++) {
        pin(d);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STEPS; k++) wgmma(d, a + 2 * k, b + 2 * k, 1);
        wgmma_commit();
        wgmma_wait<0>();
    }
    pin(d);
    const long long end = clock64();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < HALF; i++) sum += d[i];
    if (sum != 0) sink[0] = 1;
    if (threadIdx.x % 32 == 0) {
        const int warp = (blockIdx.x * blockDim.x + threadIdx.x) / 32;
        begins[warp] = begin;
        ends[warp] = end;
    }
}
