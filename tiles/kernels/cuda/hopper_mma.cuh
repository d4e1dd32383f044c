// Copies, products of one warp and traffic between CTAs, one instruction a function (sm_90).
//
// ELEMENT: 0 bf16, 1 fp16, given by the file that includes this one.

// Contiguous bytes, a multiple of 16 and aligned to 16 on both sides.
__device__ __forceinline__ void copy_bulk(u32 to, const void *from, u32 bytes, u32 bar) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
            "r"(to),
        "l"(from), "r"(bytes), "r"(bar)
        : "memory");
}

// Whether the calling lane is the one of its warp, all of which is here, that is chosen to go on.
// The compiler then knows that copies behind it are asked for once; behind `lane == 0` it loops
// over the lanes that are there, at every copy.
__device__ __forceinline__ bool elected() {
    u32 chosen;
    asm volatile(
        "{\n.reg .pred p;\n"
        "elect.sync _|p, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(chosen));
    return chosen != 0;
}

__device__ __forceinline__ u32 load_shared_u32(u32 address) {
    u32 x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}

__device__ __forceinline__ u32 load_shared_u16(u32 address) {
    u16 x;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(address) : "memory");
    return x;
}

__device__ __forceinline__ u32 load_shared_u8(u32 address) {
    u32 x;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
}

// Four 8x8 matrices of 16-bit elements; lane l has the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrices(u32 (&x)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(address)
                 : "memory");
}

// Four 8x8 matrices of 16-bit elements, two of a column in each lane's word, as columns; lane l has
// the address of column l % 8 of matrix l / 8.
__device__ __forceinline__ void store_turned(u32 address, const u32 (&x)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     address),
                 "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
                 : "memory");
}

// d += a . b, 16 x 16 by 16 x 8.
__device__ __forceinline__ void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if ELEMENT == 0
#define KIND "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
#define KIND "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
    asm(KIND "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#undef KIND
}

// Bytes of a (0 to 3) and of b (4 to 7) by the four digits of a selector, the lowest first.
__device__ __forceinline__ u32 permute(u32 a, u32 b, u32 selector) {
    return __byte_perm(a, b, selector);
}

// x factor + offset, each a pair of 16-bit floats, rounded once.
__device__ __forceinline__ u32 fma_pair(u32 x, u32 factor, u32 offset) {
    u32 y;
#if ELEMENT == 0
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(factor), "r"(offset));
#else
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(factor), "r"(offset));
#endif
    return y;
}

__device__ __forceinline__ float widen_fp16(u32 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"((u16)bits));
    return x;
}

// Past the L1, which does not see what other multiprocessors write.
__device__ __forceinline__ void store_far(float *to, const float (&x)[4]) {
    asm volatile("st.global.cg.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]),
                 "f"(x[2]), "f"(x[3])
                 : "memory");
}

__device__ __forceinline__ void load_far(float (&x)[4], const float *from) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x[0]), "=f"(x[1]), "=f"(x[2]), "=f"(x[3])
                 : "l"(from)
                 : "memory");
}

// Counts an arrival and returns how many were there.  What the CTA's threads wrote before they met
// is seen by those that meet after another CTA has counted later.
__device__ __forceinline__ int count_arrival(int *counter) {
    int before;
    asm volatile(
        "fence.acq_rel.gpu;\n"
        "atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;\n"
        "fence.acq_rel.gpu;"
        : "=r"(before)
        : "l"(counter)
        : "memory");
    return before;
}
