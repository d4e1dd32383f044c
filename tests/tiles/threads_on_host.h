// The threads of a kernel that runs on the CPU: fibres, which switch at barriers and shuffles.  Warps, and
// lanes within them, go on in a random order; the CTAs of a cluster run together, clusters one after the
// other.  watched_memory.cpp is told who runs, and which barriers lie behind it.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "watched_memory.h"

#define SHARED_MEMORY(name) unsigned char *name = host::shared(host::dynamic_bytes)
#define SHARED_BYTES(name, count) unsigned char *name = host::shared(count)

struct Dim3 { uint32_t x; };

namespace host {
struct Barrier {
    int expected = 0, arrived = 0, generation = 0;
};
struct Warp {
    Barrier barrier;
    float slots[32];
};
struct Cta {
    unsigned char *memory;
    std::vector<Warp> warps;
    Barrier barrier;
    uint32_t index, at_work;
};
struct Fibre {
    ucontext_t context;
    std::vector<char> stack;
    Dim3 thread, block;
    Cta *cta;
    Moment now;
    int token = 0;  // of the cluster's barrier, between arriving and waiting
    bool done = false;
    struct Copy { void *to; const void *from; uint32_t bytes; };
    std::vector<Copy> copies;     // on their way to shared memory
    std::vector<uint32_t> groups;  // of them, in the order of their begin
};
// Between the shared memory of CTAs lies some that is nobody's.
static const uint32_t APART = 1 << 16, MOST_SHARED = 227 * 1024;
static unsigned char *all_shared;  // where it begins, see run_on_host()
static std::vector<Cta> ctas;
static std::vector<Fibre> fibres;
static Fibre *current;
static ucontext_t scheduler;
static Barrier cluster;
static uint32_t grid, dynamic_bytes;
static bool moved;  // somebody has arrived or ended since the last round
static std::function<void()> body;

static Cta &cta() { return *current->cta; }
static unsigned char *shared(uint32_t bytes) {
    if (bytes > MOST_SHARED) complain("more shared memory than a CTA can have");
    watch_shared(cta().index, cta().memory, bytes);
    return cta().memory;
}
static void pass() { swapcontext(&current->context, &scheduler); }
static void wait(Barrier &b) {
    const int generation = b.generation;
    moved = true;
    if (++b.arrived == b.expected) {
        b.arrived = 0;
        ++b.generation;
        return;
    }
    while (b.generation == generation) pass();
}
static void enter() {
    body();
    if (!current->copies.empty()) complain("copies are under way after the kernel's end");
    current->done = moved = true;
    --cta().at_work;
    pass();
}
static void start_cluster(uint32_t first, uint32_t splits, uint32_t threads) {
    forget_shared();
    ctas.assign(splits, {});
    fibres.assign(splits * threads, {});
    cluster = {};
    cluster.expected = splits * threads;
    for (uint32_t c = 0; c < splits; ++c) {
        ctas[c].memory = all_shared + c * (MOST_SHARED + APART);
        memset(ctas[c].memory, 0xa5, MOST_SHARED);
        if (dynamic_bytes > 0) watch_shared(c, ctas[c].memory, dynamic_bytes);
        ctas[c].warps.assign(threads / 32, {});
        for (Warp &warp : ctas[c].warps) warp.barrier.expected = 32;
        ctas[c].barrier.expected = ctas[c].at_work = threads;
        ctas[c].index = c;
        for (uint32_t t = 0; t < threads; ++t) {
            Fibre &f = fibres[c * threads + t];
            f.stack.resize(1 << 17);
            f.thread.x = t, f.block.x = first + c, f.cta = &ctas[c];
            f.now.cluster = first, f.now.cta = c, f.now.thread = t;
            getcontext(&f.context);
            f.context.uc_stack.ss_sp = f.stack.data();
            f.context.uc_stack.ss_size = f.stack.size();
            f.context.uc_link = nullptr;
            makecontext(&f.context, enter, 0);
        }
    }
}
// Runs a grid, until all are done or nobody can go on.
static void run(uint32_t count, uint32_t splits, uint32_t threads, uint32_t bytes) {
    grid = count, dynamic_bytes = bytes;
    std::mt19937 chance(1);
    for (uint32_t first = 0; first < count; first += splits) {
        start_cluster(first, splits, threads);
        std::vector<uint32_t> order(splits * threads / 32);
        for (uint32_t i = 0; i < order.size(); ++i) order[i] = i;
        for (bool left = true; left;) {
            left = moved = false;
            std::shuffle(order.begin(), order.end(), chance);
            for (uint32_t warp : order) {
                const uint32_t twist = chance() % 32;
                for (uint32_t lane = 0; lane < 32; ++lane) {
                    Fibre &f = fibres[warp * 32 + (lane ^ twist)];
                    if (f.done) continue;
                    current = &f;
                    watched_now = &f.now;
                    swapcontext(&scheduler, &f.context);
                    watched_now = nullptr;
                    left = left || !f.done;
                }
            }
            if (left && !moved) {
                complain("nobody can go on: a barrier that not all threads come to");
                return;
            }
        }
    }
}
}  // namespace host

#define threadIdx (host::current->thread)
#define blockIdx (host::current->block)
#define gridDim (Dim3{host::grid})

static inline void __syncthreads() {
    host::wait(host::cta().barrier);
    ++host::current->now.cta_turn;
}
static inline void __syncwarp() {
    host::wait(host::cta().warps[threadIdx.x / 32].barrier);
    ++host::current->now.warp_turn;
}
// A CTA alone has no cluster's barrier.
static inline void cluster_arrive() {
    if (host::ctas.size() == 1) return;
    host::moved = true;
    host::current->token = host::cluster.generation;
    ++host::current->now.arrived;
    if (++host::cluster.arrived == host::cluster.expected) {
        host::cluster.arrived = 0;
        ++host::cluster.generation;
    }
}
static inline void cluster_wait() {
    if (host::ctas.size() == 1) return;
    while (host::cluster.generation == host::current->token) host::pass();
    ++host::current->now.waited;
}
static inline float of_cta(const float *place, uint32_t rank) {
    const size_t offset = (const unsigned char *)place - host::cta().memory;
    if (host::ctas[rank].at_work == 0) complain("a CTA whose shared memory is read has left");
    return *(const float *)(host::ctas[rank].memory + offset);
}
// Parts of rows' sums that CTAs send one another: dataflow_cluster.cuh.  Here the cluster's barrier is waited for.
static inline void shares_begin(void *) {}
static inline void shares_met() {}
static inline void expect_shares(void *, uint32_t) {}
static inline void shares_sent() { cluster_arrive(); }
static inline void await_shares(void *, uint32_t) { cluster_wait(); }
template <int Count> static void send_floats(float *place, float first, float second) {
    const size_t offset = (unsigned char *)place - host::cta().memory;
    for (auto &cta : host::ctas) {
        if (cta.at_work == 0) complain("a CTA that something is sent to has left");
        float *to = (float *)(cta.memory + offset);
        to[0] = first;
        if (Count == 2) to[1] = second;
    }
}
#define send_share(place, arrival, first, second) send_floats<SHARES>(place, first, second)
// Lanes exchange values, which orders nothing else between them.
static inline float __shfl_xor_sync(uint32_t, float value, int distance) {
    if (distance < 1 || distance > 31) complain("a shuffle beyond its warp");
    host::Warp &warp = host::cta().warps[threadIdx.x / 32];
    warp.slots[threadIdx.x % 32] = value;
    host::wait(warp.barrier);
    const float other = warp.slots[(threadIdx.x ^ distance) % 32];
    host::wait(warp.barrier);
    return other;
}
static inline float __shfl_sync(uint32_t, float value, int lane) {
    if (lane < 0 || lane > 31) complain("a shuffle beyond its warp");
    host::Warp &warp = host::cta().warps[threadIdx.x / 32];
    warp.slots[threadIdx.x % 32] = value;
    host::wait(warp.barrier);
    const float other = warp.slots[lane];
    host::wait(warp.barrier);
    return other;
}
// A copy to shared memory: until it has come there is neither what was there nor what will be.
static inline void copy_later(void *to, const void *from, uint32_t bytes) {
    for (uint32_t k = 0; k < bytes; k += 4) ((uint32_t *)to)[k / 4] = 0xa5a5a5a5;
    host::current->copies.push_back({to, from, bytes});
}
static inline void land_copies(size_t count) {
    std::vector<host::Fibre::Copy> &copies = host::current->copies;
    for (size_t i = 0; i < count; ++i)
        for (uint32_t k = 0; k < copies[i].bytes; k += 4)
            ((uint32_t *)copies[i].to)[k / 4] = ((const uint32_t *)copies[i].from)[k / 4];
    copies.erase(copies.begin(), copies.begin() + count);
}
static inline void copies_done() {
    land_copies(host::current->copies.size());
    host::current->groups.clear();
}
// All copies since the last group are one; all groups but the latest ones have come.
static inline void copies_begun() {
    size_t grouped = 0;
    for (uint32_t group : host::current->groups) grouped += group;
    host::current->groups.push_back(host::current->copies.size() - grouped);
}
template <int Left> static inline void copies_left() {
    std::vector<uint32_t> &groups = host::current->groups;
    while (groups.size() > Left) {
        land_copies(groups.front());
        groups.erase(groups.begin());
    }
}
