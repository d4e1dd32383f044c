// Short names of integers, the bytes of words, and shared memory.  ON_HOST leaves out what only a GPU has;
// whoever defines it brings it along.

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;
typedef unsigned long long u64;
typedef long long i64;
typedef short i16;

#ifndef ON_HOST
#define DEVICE __device__ __forceinline__
#define SHARED_BYTES(name, count) __shared__ __align__(16) unsigned char name[count]

DEVICE u32 permute(u32 low, u32 high, u32 selector) {
    u32 result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(low), "r"(high), "r"(selector));
    return result;
}
#endif
