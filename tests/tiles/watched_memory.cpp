// Looks at every load and store of a kernel that runs on the CPU (see cuda_on_host.h): compiled with
// -fsanitize=thread the kernel calls what stands here, in place of that sanitizer's own library.
//
// It complains of an access outside of the arrays and of a CTA's shared memory, of one that is not
// aligned to its size, of shared memory that is read before it was written, and of two accesses
// of one byte by different threads, one of them a store, that no barrier of both lies between.  Kernels know
// no other order than that of barriers: of warps, CTAs and clusters.
#include <cstdint>
#include <cstdio>
#include <string>
#include <unordered_map>
#include <vector>

#include "watched_memory.h"

namespace {
struct Range {
    uintptr_t start, end;
    std::string name;
    bool shared;
};
struct Byte {
    bool written = false;
    Moment store;
    std::vector<Moment> loads;  // since then
};
uintptr_t first, last;  // of all memory that is looked at
std::vector<Range> ranges;
std::unordered_map<uintptr_t, Byte> bytes;
std::string complaint;

// Whether `now`'s thread does what it does after what `then`'s has done.
bool ordered(const Moment &then, const Moment &now) {
    if (then.cluster != now.cluster) return false;
    if (then.cta == now.cta) {
        if (then.thread == now.thread || now.cta_turn > then.cta_turn) return true;
        if (then.thread / 32 == now.thread / 32 && now.warp_turn > then.warp_turn) return true;
    }
    return now.waited > then.arrived;
}

std::string who(const Moment &m) {
    return "thread " + std::to_string(m.thread) + " of CTA " + std::to_string(m.cta) + " of cluster " +
           std::to_string(m.cluster);
}

void look(uintptr_t at, uint32_t size, bool store, bool aligned) {
    if (at < first || at >= last || !complaint.empty() || !watched_now) return;
    const Range *in = nullptr;
    for (const Range &range : ranges)
        if (at >= range.start && at + size <= range.end) in = &range;
    const char *does = store ? " stores " : " loads ";
    const std::string what = who(*watched_now) + does + std::to_string(size) + " bytes ";
    if (!in) {
        const Range *near = &ranges[0];
        for (const Range &range : ranges)
            if (range.start <= at && range.start >= near->start) near = &range;
        complaint = what + "outside of all memory, at " + near->name + " + " +
                    std::to_string((intptr_t)(at - near->start)) + " of " +
                    std::to_string(near->end - near->start);
        return;
    }
    const std::string place = in->name + " + " + std::to_string(at - in->start);
    if (!aligned) {
        complaint = what + "at " + place + ": not aligned to them";
        return;
    }
    for (uintptr_t place_of = at; place_of < at + size; ++place_of) {
        Byte &byte = bytes[place_of];
        if (in->shared && !store && !byte.written) {
            complaint = what + "at " + place + ", which nobody has written";
            return;
        }
        if (byte.written && !ordered(byte.store, *watched_now)) {
            complaint = what + "at " + place + ", " + who(byte.store) + " stores there: no barrier between";
            return;
        }
        if (!store) {
            bool known = false;
            for (Moment &load : byte.loads)
                if (load.cluster == watched_now->cluster && load.cta == watched_now->cta &&
                    load.thread == watched_now->thread)
                    load = *watched_now, known = true;
            if (!known) byte.loads.push_back(*watched_now);
            continue;
        }
        for (const Moment &load : byte.loads)
            if (!ordered(load, *watched_now)) {
                complaint = what + "at " + place + ", " + who(load) + " loads there: no barrier between";
                return;
            }
        byte.written = true, byte.store = *watched_now;
        byte.loads.clear();
    }
}
}  // namespace

const Moment *watched_now = nullptr;

void watch_shared(uint32_t cta, const void *start, uint32_t size) {
    const uintptr_t at = (uintptr_t)start;
    const std::string name = "shared memory of CTA " + std::to_string(cta);
    for (Range &range : ranges)
        if (range.start == at) {
            range.end = at + size, range.name = name;
            return;
        }
    ranges.push_back({at, at + size, name, true});
}

void complain(const char *what) {
    if (complaint.empty()) complaint = (watched_now ? who(*watched_now) + ": " : "") + what;
}

void forget_shared() {
    std::vector<Range> kept;
    for (const Range &range : ranges) {
        if (range.shared)
            for (uintptr_t at = range.start; at < range.end; ++at) bytes.erase(at);
        else
            kept.push_back(range);
    }
    ranges = kept;
}

extern "C" {
// Memory that is looked at; what of it belongs to no array is no one's.
void watch_memory(void *start, uint64_t size) {
    first = (uintptr_t)start, last = first + size;
    ranges.clear(), bytes.clear(), complaint.clear();
}
void watch_array(const char *name, void *start, uint64_t size) {
    ranges.push_back({(uintptr_t)start, (uintptr_t)start + size, name, false});
}
const char *watched_complaint() { return complaint.c_str(); }

#define HOOKS(size)                                                                                     \
    void __tsan_read##size(void *p) { look((uintptr_t)p, size, false, (uintptr_t)p % size == 0); }      \
    void __tsan_write##size(void *p) { look((uintptr_t)p, size, true, (uintptr_t)p % size == 0); }      \
    void __tsan_unaligned_read##size(void *p) { look((uintptr_t)p, size, false, true); }                \
    void __tsan_unaligned_write##size(void *p) { look((uintptr_t)p, size, true, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void *p, uint64_t size) { look((uintptr_t)p, size, false, true); }
void __tsan_write_range(void *p, uint64_t size) { look((uintptr_t)p, size, true, true); }
void __tsan_vptr_update(void **, void *) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void *) {}
void __tsan_init() {}
}
