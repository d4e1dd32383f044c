// Stands in for hopper.cuh and hopper_wgmma.cuh: a kernel that uses nothing else of the GPU runs on
// the CPU, one cluster after another, every thread a coroutine.
//
// Loads of the copy engine land at random later times, wgmma multiplies when it is waited for and
// not before, threads run in a random order: what forgets to wait reads what is not there.  Shared
// memory starts as NaN.  A launch in which nobody can go on ends with an error.
//
// The reading of wgmma's descriptors and of the 128-byte swizzle is this file's own, from the PTX
// ISA; `descriptor` itself is the kernel's.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <vector>

#ifndef HOST_LANDING
#define HOST_LANDING 16  // turns of warps that a load under way takes, on average
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;
typedef unsigned char u8;
typedef long long i64;

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__
#define __align__(x)
#define __grid_constant__
#define __launch_bounds__(...)
#define CLUSTER_SHAPE
using std::max;
using std::min;

struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
struct uint2 { u32 x, y; };
struct uint4 { u32 x, y, z, w; };
struct Index { u32 x; };
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
static float2 make_float2(float x, float y) { return {x, y}; }
static uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
template <class To, class From> static To same_bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from, "sizes differ");
    memcpy(&to, &from, sizeof to);
    return to;
}
static u32 __float_as_uint(float x) { return same_bits<u32>(x); }
static float __uint_as_float(u32 x) { return same_bits<float>(x); }

// A matrix of `inner` x `outer` items whose rows are `pitch` bytes apart, read by boxes.
struct TensorMap {
    const u8 *data;
    i64 inner, outer, pitch;
    int item, box_inner, box_outer;
};

[[noreturn]] static void fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(3);
}

#define ARENA_BASE 1024  // what the system keeps of every CTA's shared memory
static u8 memory[1];     // its address is ARENA_BASE in every CTA

struct Barrier { i64 expected = 0, pending = 0, bytes = 0, phase = 0; };
struct Product {
    void *sums;
    u64 a, b;
    bool keep;
    std::shared_ptr<std::vector<double>> rows = nullptr;  // of A, where it came in registers
};

struct Cta {
    std::vector<u8> arena;
    std::map<u32, Barrier> barriers;
    std::map<int, int> named, named_turns;
    u32 block = 0, rank = 0, at_work = THREADS;
};
struct Thread {
    ucontext_t context;
    Cta *cta = nullptr;
    u32 index = 0;
    bool done = false;
    bool followed = false;  // the launch before has ended
    std::deque<std::vector<Product>> groups;
    std::vector<Product> issued;
    std::vector<char> stack;
};
struct Warp { float slots[32]; int arrived = 0, turn = 0; };
struct Load { Cta *cta; u32 to, bar; const TensorMap *map; int x, y; };

static std::vector<std::unique_ptr<Thread>> threads;
static std::vector<std::unique_ptr<Cta>> ctas;
static std::map<std::pair<Cta *, u32>, Warp> warps;
static std::vector<Load> loads;
static std::mt19937 chance;
static Thread *running;
static ucontext_t scheduler;
static Index threadIdx, blockIdx;
static bool moved;  // since the last round somebody has gone on
static int cluster_arrived, cluster_turn;

static void pass() { swapcontext(&running->context, &scheduler); }

template <class Ready> static void await(Ready ready) {
    while (!ready()) pass();
    moved = true;
}

static u8 *shared_bytes(Cta *cta, u32 address, u32 bytes) {
    if (address < ARENA_BASE || address - ARENA_BASE + bytes > cta->arena.size())
        fail("an address outside of shared memory");
    return cta->arena.data() + address - ARENA_BASE;
}
template <class T> static T read_shared(Cta *cta, u32 address) {
    if (address % sizeof(T)) fail("a misaligned address");
    T x;
    memcpy(&x, shared_bytes(cta, address, sizeof x), sizeof x);
    return x;
}

static u32 shared_address(const void *) { return ARENA_BASE; }
static float load_shared(u32 at) { return read_shared<float>(running->cta, at); }
static float2 load_shared2(u32 at) { return read_shared<float2>(running->cta, at); }
static uint4 load_shared4(u32 at) { return read_shared<uint4>(running->cta, at); }
static uint4 load_peer4(u32 at, u32 cta) {
    for (u32 i = chance() % 8; i > 0; i--) {  // the way is long
        moved = true;
        pass();
    }
    if (ctas[cta]->at_work == 0) fail("a neighbour has left");
    return read_shared<uint4>(ctas[cta].get(), at);
}
static void store_shared(u32 at, u32 x) {
    memcpy(shared_bytes(running->cta, at, 4), &x, 4);
}
static void follow_launch() { running->followed = true; }
// What the launch before wrote may be missing, what it reads may be overwritten.
static void need_launch_before() {
    if (!running->followed) fail("memory is touched before the launch before has ended");
}
template <class T> static T __ldg(const T *p) {
    need_launch_before();
    return *p;
}

// Round to nearest even, without NaN.
static u32 bf16_bits(float x) {
    const u32 bits = __float_as_uint(x);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static u32 pack_bf16(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }
static u32 pack_fp16(float low, float high) {
    return same_bits<u16>((_Float16)low) | (u32)same_bits<u16>((_Float16)high) << 16;
}

static Barrier &barrier_at(Cta *cta, u32 bar) {
    if (bar % 8 || !cta->barriers.count(bar)) fail("no barrier there");
    return cta->barriers[bar];
}
static void settle(Barrier &b) {
    if (b.pending || b.bytes) return;
    b.phase++;
    b.pending = b.expected;
    moved = true;
}
static void barrier_init(u32 bar, u32 count) {
    shared_bytes(running->cta, bar, 8);
    Barrier b;
    b.expected = b.pending = count;
    running->cta->barriers[bar] = b;
}
static void barrier_fence() {}
static void arrive(Barrier &b) {
    if (b.pending-- == 0) fail("a barrier takes more arrivals than it expects");
    settle(b);
}
static void barrier_expect(u32 bar, u32 bytes) {
    Barrier &b = barrier_at(running->cta, bar);
    b.bytes += bytes;
    arrive(b);
}
static void barrier_arrive_at(u32 bar, u32 cta) { arrive(barrier_at(ctas[cta].get(), bar)); }
static void barrier_arrive(u32 bar) { arrive(barrier_at(running->cta, bar)); }
static void barrier_wait(u32 bar, u32 parity) {
    Barrier &b = barrier_at(running->cta, bar);
    await([&] { return (b.phase & 1) != parity; });
}
static bool barrier_passed(u32 bar, u32 parity) {
    return (barrier_at(running->cta, bar).phase & 1) != parity;
}

static void prefetch_map(const TensorMap *) {}
static void load_tile(u32 to, const TensorMap *map, u32 bar, int x, int y) {
    need_launch_before();
    if (to % 128 || (map->box_inner * map->item == 128 && map->box_outer > 1 && to % 1024))
        fail("a tile is brought to a misaligned address");
    loads.push_back({running->cta, to, bar, map, x, y});
}
static void load_tile_everywhere(u32 to, const TensorMap *map, u32 bar, int x, int y) {
    need_launch_before();
    if (to % 1024) fail("a tile is brought to a misaligned address");
    for (auto &cta : ctas) loads.push_back({cta.get(), to, bar, map, x, y});
}
static void land(const Load &load) {
    const TensorMap &map = *load.map;
    const bool swizzled = map.box_inner * map.item == 128 && map.box_outer > 1;
    const int width = map.box_inner * map.item;
    for (int r = 0; r < map.box_outer; r++)
        for (int i = 0; i < map.box_inner; i++) {
            const i64 x = (i64)load.x + i, y = (i64)load.y + r;
            const bool inside = x >= 0 && x < map.inner && y >= 0 && y < map.outer;
            int byte = i * map.item;
            if (swizzled) byte = (byte / 16 ^ r % 8) * 16 + byte % 16;
            u8 *to = shared_bytes(load.cta, load.to + r * width + byte, map.item);
            if (inside)
                memcpy(to, map.data + y * map.pitch + x * map.item, map.item);
            else
                memset(to, 0, map.item);
        }
    Barrier &b = barrier_at(load.cta, load.bar);
    b.bytes -= width * map.box_outer;
    settle(b);
}

template <class Arrived, class Turn>
static void meet(Arrived &arrived, Turn &turn, int members) {
    const auto mine = turn;
    if (++arrived == members) {
        arrived = 0;
        turn++;
        moved = true;
        return;
    }
    await([&] { return turn != mine; });
}
static void named_sync(int barrier, int members) {
    Cta *cta = running->cta;
    meet(cta->named[barrier], cta->named_turns[barrier], members);
}
static void named_arrive(int barrier, int members) {
    Cta *cta = running->cta;
    if (++cta->named[barrier] < members) return;
    cta->named[barrier] = 0;
    cta->named_turns[barrier]++;
    moved = true;
}
#define __syncthreads() named_sync(0, THREADS)
static void cluster_sync() { meet(cluster_arrived, cluster_turn, CLUSTER * THREADS); }
static void cluster_sync_relaxed() { cluster_sync(); }
static u32 cluster_rank() { return running->cta->rank; }

static Warp &my_warp() { return warps[{running->cta, running->index / 32}]; }
static void __syncwarp() {
    Warp &warp = my_warp();
    meet(warp.arrived, warp.turn, 32);
}
static float __shfl_sync(u32, float x, int lane) {
    Warp &warp = my_warp();
    warp.slots[running->index % 32] = x;
    __syncwarp();
    const float found = warp.slots[lane % 32];
    __syncwarp();
    return found;
}

#define HALF (WGMMA_N / 2)
#if ELEMENT == 4
typedef int Accumulator;
#else
typedef float Accumulator;
#endif

#if ELEMENT >= 2
static double value_of_code(u8 code) {
#if ELEMENT == 4
    return (signed char)code;
#else
    const int fraction_bits = ELEMENT == 2 ? 3 : 2, bias = ELEMENT == 2 ? 7 : 15;
    const int exponent = (code & 127) >> fraction_bits, fraction = code & ((1 << fraction_bits) - 1);
    if (ELEMENT == 2 ? (code & 127) == 127 : exponent == 31) return NAN;
    const double size = exponent ? std::ldexp(1 + fraction / (double)(1 << fraction_bits), exponent - bias)
                                 : std::ldexp(fraction / (double)(1 << fraction_bits), 1 - bias);
    return code & 128 ? -size : size;
#endif
}
#endif

static double value_of(const u8 *p) {
#if ELEMENT == 0
    u16 bits;
    memcpy(&bits, p, 2);
    return __uint_as_float((u32)bits << 16);
#elif ELEMENT == 1
    _Float16 x;
    memcpy(&x, p, 2);
    return (double)x;
#else
    static const std::vector<double> values = [] {
        std::vector<double> all(256);
        for (int code = 0; code < 256; code++) all[code] = value_of_code(code);
        return all;
    }();
    return values[*p];
#endif
}

// Element `i` along K of row `row` of what a descriptor describes.
static double operand(Cta *cta, u64 d, int row, int i) {
    const int item = ELEMENT < 2 ? 2 : 1;
    const u32 start = (u32)(d & 0x3fff) << 4, stride = (u32)(d >> 32 & 0x3fff) << 4;
    if (d >> 62 != 1 || (d >> 49 & 7) != 0) fail("a descriptor of another swizzle or base");
    u32 at = start + row / 8 * stride + row % 8 * 128 + i * item;
    at ^= (at >> 7 & 7) << 4;
    return value_of(shared_bytes(cta, at, item));
}

static void wgmma(Accumulator (&d)[HALF], u64 a, u64 b, int keep) {
    running->issued.push_back({d, a, b, keep != 0});
}
static void wgmma_fence() {}
static void wgmma_commit() {
    running->groups.push_back(std::move(running->issued));
    running->issued.clear();
}
static void pin(Accumulator (&)[HALF]) {}
static void add_scaled(float &sum, Accumulator value, float factor) { sum += factor * (float)value; }
static void multiply_now(const Product &p) {
    const int thread = running->index % 128, warp = thread / 32, lane = thread % 32;
    const int depth = ELEMENT < 2 ? 16 : 32;
    Accumulator *d = (Accumulator *)p.sums;
    double rows[2][32];  // a lane's rows of A
    for (int h = 0; h < 2; h++)
        for (int i = 0; i < depth; i++)
            rows[h][i] = p.rows ? (*p.rows)[h * 16 + i]
                                : operand(running->cta, p.a, warp * 16 + lane / 4 + h * 8, i);
    for (int j = 0; j < HALF; j++) {
        const int column = j / 4 * 8 + lane % 4 * 2 + j % 2;
        double sum = p.keep ? (double)d[j] : 0.0;
        for (int i = 0; i < depth; i++)
            sum += rows[j / 2 % 2][i] * operand(running->cta, p.b, column, i);
        d[j] = (Accumulator)sum;
    }
}
template <int Pending> static void wgmma_wait() {
    // Warps are not equally fast, but a warp's lanes go on together.
    for (u32 i = chance() % 4; i > 0; i--) {
        moved = true;
        pass();
    }
    while ((int)running->groups.size() > Pending) {
        for (const Product &p : running->groups.front()) multiply_now(p);
        running->groups.pop_front();
    }
    __syncwarp();
}

static void run_launch(u32 blocks, u32 smem_bytes, u32 seed, std::function<void()> kernel) {
    static std::function<void()> body;
    body = kernel;
    chance.seed(seed);
    for (u32 base = 0; base < blocks; base += CLUSTER) {
        threads.clear(), ctas.clear(), warps.clear(), loads.clear();
        cluster_arrived = cluster_turn = 0;
        for (u32 rank = 0; rank < CLUSTER; rank++) {
            ctas.push_back(std::make_unique<Cta>());
            ctas[rank]->arena.assign(smem_bytes, 0xff);
            ctas[rank]->block = base + rank;
            ctas[rank]->rank = rank;
            for (u32 t = 0; t < THREADS; t++) {
                auto thread = std::make_unique<Thread>();
                thread->cta = ctas[rank].get();
                thread->index = t;
                thread->stack.resize(32 * 1024);
                getcontext(&thread->context);
                thread->context.uc_stack = {thread->stack.data(), 0, thread->stack.size()};
                thread->context.uc_link = &scheduler;
                void (*start)() = [] {
                    body();
                    running->done = moved = true;
                    running->cta->at_work--;
                };
                makecontext(&thread->context, start, 0);
                threads.push_back(std::move(thread));
            }
        }
        // Warps in random order; within one, lanes too.
        std::vector<u32> order(threads.size() / 32);
        for (u32 i = 0; i < order.size(); i++) order[i] = i;
        for (bool left = true; left;) {
            left = moved = false;
            std::shuffle(order.begin(), order.end(), chance);
            for (u32 warp : order) {
#ifdef HOST_STALLS
                // Now and then a warpgroup stands still, for as many turns as others take for a tile.
                static u32 stalled, turns;
                if (turns == 0 && chance() % HOST_STALLS == 0)
                    stalled = warp / 4, turns = chance() % 20000;
                if (turns > 0 && --turns > 0 && warp / 4 == stalled) {
                    left = moved = true;
                    continue;
                }
#endif
                const u32 twist = chance() % 32;
                for (u32 lane = 0; lane < 32; lane++) {
                    running = threads[warp * 32 + (lane ^ twist)].get();
                    if (running->done) continue;
                    left = true;
                    threadIdx.x = running->index;
                    blockIdx.x = running->cta->block;
                    swapcontext(&scheduler, &running->context);
                }
                while (!loads.empty() && chance() % HOST_LANDING == 0) {
                    std::swap(loads[chance() % loads.size()], loads.back());
                    land(loads.back());
                    loads.pop_back();
                    moved = true;
                }
            }
            if (left && !moved && loads.empty()) fail("nobody can go on");
        }
        if (!loads.empty()) fail("loads are under way after the kernel's end");
        // Who ends without having waited hides the launch before from the launch behind.
        for (auto &cta : ctas)
            if (std::none_of(threads.begin(), threads.end(),
                             [&](auto &t) { return t->cta == cta.get() && t->followed; }))
                fail("a CTA ends that has not waited for the launch before");
        for (auto &cta : ctas)
            for (auto [barrier, arrived] : cta->named)
                if (arrived) fail("a named barrier is left with arrivals");
    }
}
