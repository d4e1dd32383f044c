// wgmma of 64 rows by WGMMA_N columns by 32 bytes of K; ELEMENT as in gemm_hopper.cu.

#ifndef WGMMA_N
#define WGMMA_N BLOCK_N
#endif
#define HALF (WGMMA_N / 2)  // accumulators of a thread for 64 rows

#if ELEMENT == 4
typedef int Accumulator;
#define REGISTER "r"
#else
typedef float Accumulator;
#define REGISTER "f"
#endif

// The accumulators of wgmma are an operand list as long as the tile is wide.
#define LIST8(a, b, c, d, e, f, g, h) \
    "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define PLACES_4 "%0,%1,%2,%3"
#define PLACES_8 LIST8(0, 1, 2, 3, 4, 5, 6, 7)
#define PLACES_16 PLACES_8 "," LIST8(8, 9, 10, 11, 12, 13, 14, 15)
#define PLACES_24 PLACES_16 "," LIST8(16, 17, 18, 19, 20, 21, 22, 23)
#define PLACES_32 PLACES_24 "," LIST8(24, 25, 26, 27, 28, 29, 30, 31)
#define PLACES_48                                             \
    PLACES_32 "," LIST8(32, 33, 34, 35, 36, 37, 38, 39) "," \
    LIST8(40, 41, 42, 43, 44, 45, 46, 47)
#define PLACES_56 PLACES_48 "," LIST8(48, 49, 50, 51, 52, 53, 54, 55)
#define PLACES_64                                             \
    PLACES_48 "," LIST8(48, 49, 50, 51, 52, 53, 54, 55) "," \
    LIST8(56, 57, 58, 59, 60, 61, 62, 63)
#define PLACES_80                                             \
    PLACES_64 "," LIST8(64, 65, 66, 67, 68, 69, 70, 71) "," \
    LIST8(72, 73, 74, 75, 76, 77, 78, 79)
#define PLACES_88 PLACES_80 "," LIST8(80, 81, 82, 83, 84, 85, 86, 87)
#define PLACES_96 PLACES_88 "," LIST8(88, 89, 90, 91, 92, 93, 94, 95)
#define PLACES_104 PLACES_96 "," LIST8(96, 97, 98, 99, 100, 101, 102, 103)
#define PLACES_112 PLACES_104 "," LIST8(104, 105, 106, 107, 108, 109, 110, 111)
#define PLACES_120 PLACES_112 "," LIST8(112, 113, 114, 115, 116, 117, 118, 119)
#define PLACES_128 PLACES_120 "," LIST8(120, 121, 122, 123, 124, 125, 126, 127)
#define SINKS_4(d, i) \
    "+" REGISTER(d[i]), "+" REGISTER(d[i + 1]), "+" REGISTER(d[i + 2]), "+" REGISTER(d[i + 3])
#define SINKS_8(d, i) SINKS_4(d, i), SINKS_4(d, i + 4)
#define SINKS_16(d, i) SINKS_8(d, i), SINKS_8(d, i + 8)
#define SINKS_32(d, i) SINKS_16(d, i), SINKS_16(d, i + 16)

#if WGMMA_N == 8
#define SHAPE "m64n8"
#define PLACES PLACES_4
#define SINKS(d) SINKS_4(d, 0)
#define SOURCES "%4, %5"
#define KEEP "%6"
#define ROW_SOURCES "{%4, %5, %6, %7}, %8"
#define ROW_KEEP "%9"
#elif WGMMA_N == 16
#define SHAPE "m64n16"
#define PLACES PLACES_8
#define SINKS(d) SINKS_8(d, 0)
#define SOURCES "%8, %9"
#define KEEP "%10"
#define ROW_SOURCES "{%8, %9, %10, %11}, %12"
#define ROW_KEEP "%13"
#elif WGMMA_N == 32
#define SHAPE "m64n32"
#define PLACES PLACES_16
#define SINKS(d) SINKS_16(d, 0)
#define SOURCES "%16, %17"
#define KEEP "%18"
#define ROW_SOURCES "{%16, %17, %18, %19}, %20"
#define ROW_KEEP "%21"
#elif WGMMA_N == 48
#define SHAPE "m64n48"
#define PLACES PLACES_24
#define SINKS(d) SINKS_16(d, 0), SINKS_8(d, 16)
#define SOURCES "%24, %25"
#define KEEP "%26"
#define ROW_SOURCES "{%24, %25, %26, %27}, %28"
#define ROW_KEEP "%29"
#elif WGMMA_N == 64
#define SHAPE "m64n64"
#define PLACES PLACES_32
#define SINKS(d) SINKS_32(d, 0)
#define SOURCES "%32, %33"
#define KEEP "%34"
#define ROW_SOURCES "{%32, %33, %34, %35}, %36"
#define ROW_KEEP "%37"
#elif WGMMA_N == 96
#define SHAPE "m64n96"
#define PLACES PLACES_48
#define SINKS(d) SINKS_32(d, 0), SINKS_16(d, 32)
#define SOURCES "%48, %49"
#define KEEP "%50"
#define ROW_SOURCES "{%48, %49, %50, %51}, %52"
#define ROW_KEEP "%53"
#elif WGMMA_N == 112
#define SHAPE "m64n112"
#define PLACES PLACES_56
#define SINKS(d) SINKS_32(d, 0), SINKS_16(d, 32), SINKS_8(d, 48)
#define SOURCES "%56, %57"
#define KEEP "%58"
#define ROW_SOURCES "{%56, %57, %58, %59}, %60"
#define ROW_KEEP "%61"
#elif WGMMA_N == 128
#define SHAPE "m64n128"
#define PLACES PLACES_64
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32)
#define SOURCES "%64, %65"
#define KEEP "%66"
#define ROW_SOURCES "{%64, %65, %66, %67}, %68"
#define ROW_KEEP "%69"
#elif WGMMA_N == 160
#define SHAPE "m64n160"
#define PLACES PLACES_80
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_16(d, 64)
#define SOURCES "%80, %81"
#define KEEP "%82"
#define ROW_SOURCES "{%80, %81, %82, %83}, %84"
#define ROW_KEEP "%85"
#elif WGMMA_N == 176
#define SHAPE "m64n176"
#define PLACES PLACES_88
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_16(d, 64), SINKS_8(d, 80)
#define SOURCES "%88, %89"
#define KEEP "%90"
#define ROW_SOURCES "{%88, %89, %90, %91}, %92"
#define ROW_KEEP "%93"
#elif WGMMA_N == 192
#define SHAPE "m64n192"
#define PLACES PLACES_96
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_32(d, 64)
#define SOURCES "%96, %97"
#define KEEP "%98"
#define ROW_SOURCES "{%96, %97, %98, %99}, %100"
#define ROW_KEEP "%101"
#elif WGMMA_N == 208
#define SHAPE "m64n208"
#define PLACES PLACES_104
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_32(d, 64), SINKS_8(d, 96)
#define SOURCES "%104, %105"
#define KEEP "%106"
#define ROW_SOURCES "{%104, %105, %106, %107}, %108"
#define ROW_KEEP "%109"
#elif WGMMA_N == 224
#define SHAPE "m64n224"
#define PLACES PLACES_112
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_32(d, 64), SINKS_16(d, 96)
#define SOURCES "%112, %113"
#define KEEP "%114"
#define ROW_SOURCES "{%112, %113, %114, %115}, %116"
#define ROW_KEEP "%117"
#elif WGMMA_N == 240
#define SHAPE "m64n240"
#define PLACES PLACES_120
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_32(d, 64), SINKS_16(d, 96), SINKS_8(d, 112)
#define SOURCES "%120, %121"
#define KEEP "%122"
#define ROW_SOURCES "{%120, %121, %122, %123}, %124"
#define ROW_KEEP "%125"
#elif WGMMA_N == 256
#define SHAPE "m64n256"
#define PLACES PLACES_128
#define SINKS(d) SINKS_32(d, 0), SINKS_32(d, 32), SINKS_32(d, 64), SINKS_32(d, 96)
#define SOURCES "%128, %129"
#define KEEP "%130"
#define ROW_SOURCES "{%128, %129, %130, %131}, %132"
#define ROW_KEEP "%133"
#else
#error "WGMMA_N, or BLOCK_N for it, is 8, 16, 32, 48, 64, 96, 112, 128 or a multiple of 16 from 160"
#endif

#if ELEMENT == 0
#define TYPES "k16.f32.bf16.bf16"
#elif ELEMENT == 1
#define TYPES "k16.f32.f16.f16"
#elif ELEMENT == 2
#define TYPES "k32.f32.e4m3.e4m3"
#elif ELEMENT == 3
#define TYPES "k32.f32.e5m2.e5m2"
#else
#define TYPES "k32.s32.s8.s8"
#endif
#if ELEMENT < 2
#define SIGNS ", 1, 1, 0, 0"  // operands as they are, neither transposed
#elif ELEMENT < 4
#define SIGNS ", 1, 1"
#else
#define SIGNS ""
#endif

// d += a . b, or d = a . b where keep is 0: 64 rows by WGMMA_N columns by 32 bytes of K.
__device__ __forceinline__ void wgmma(Accumulator (&d)[HALF], u64 a, u64 b, int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " KEEP
                 ", 0;\n"
                 "wgmma.mma_async.sync.aligned." SHAPE TYPES " {" PLACES "}, " SOURCES
                 ", p" SIGNS ";\n}"
                 : SINKS(d)
                 : "l"(a), "l"(b), "r"(keep));
}

#if ELEMENT < 2
// The same with A in registers: four of a thread, which hold of its warp's 16 rows what mma.sync's
// first operand holds.  Nobody may write to them before the group is waited for.
__device__ __forceinline__ void wgmma_rows(Accumulator (&d)[HALF], const u32 (&a)[4], u64 b,
                                           int keep) {
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ROW_KEEP
                 ", 0;\n"
                 "wgmma.mma_async.sync.aligned." SHAPE TYPES " {" PLACES "}, " ROW_SOURCES
                 ", p, 1, 1, 0;\n}"
                 : SINKS(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));
}
#endif

__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Keeps the compiler from moving accumulators that the tensor cores are writing.
__device__ __forceinline__ void pin(Accumulator (&d)[HALF]) {
#pragma unroll
    for (int i = 0; i < HALF; i++) asm volatile("" : "+" REGISTER(d[i])::"memory");
}

// sum += factor * value.  Conversions and multiply-adds run in pipes of their own: written one after
// the other they alternate at least where registers are short, otherwise all are converted first.
__device__ __forceinline__ void add_scaled(float &sum, Accumulator value, float factor) {
#if ELEMENT == 4
    asm volatile("{\n.reg .f32 x;\ncvt.rn.f32.s32 x, %1;\nfma.rn.f32 %0, x, %2, %0;\n}"
                 : "+f"(sum)
                 : "r"(value), "f"(factor));
#else
    sum += factor * value;
#endif
}
