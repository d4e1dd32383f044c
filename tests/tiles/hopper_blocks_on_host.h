// What gemm_hopper_blocks.cu takes of the GPU beside hopper_on_host.h: votes, and the way of fp32
// sums to memory, which stands in for hopper_staging.cuh.

static Index gridDim;
static float *host_output;  // (M, N)
static u8 *host_codes;      // the same, where the output is codes
static u8 *host_written;    // how often each was

static u32 host_vote(bool yes) {
    float all = 0;
    u32 mask = 0;
    for (int lane = 0; lane < 32; lane++) {
        all = __shfl_sync(0xffffffffu, yes ? 1.0f : 0.0f, lane);
        mask |= (u32)all << lane;
    }
    return mask;
}
#define __ballot_sync(mask, yes) host_vote(yes)
#define __any_sync(mask, yes) (host_vote(yes) != 0)
static int __ffs(u32 x) { return __builtin_ffs(x); }
static float __int_as_float(int x) { return same_bits<float>(x); }

static void sync_cluster_or_cta() { __syncthreads(); }
static void consumer_sync(int consumer) { named_sync(CONSUMER_BARRIER + consumer, 128); }
static void await_buffer(int consumer, int) { consumer_sync(consumer); }
static void publish_buffer(int consumer) { consumer_sync(consumer); }
static void commit_buffer() {}
static void await_stores() {}
static void stage_columns(u32 buffer, int warp, int lane, int part, const float *sum) {
    for (int i = 0; i < 8; i++) {
        const int row = warp * 16 + lane / 4 + 8 * (i / 2 % 2);
        const int column = part * 16 + 8 * (i / 4) + lane % 4 * 2 + i % 2;
        store_shared(buffer + row * 128 + column * 4, __float_as_uint(sum[i]));
    }
}
static void store_tile(const TensorMap *map, u32 from, int x, int y) {
#if OUT >= 3
    for (int r = 0; r < 64 && y + r < map->outer; r++)
        for (int i = 0; i < map->box_inner && x + i < map->inner; i++) {
            const i64 at = (y + r) * map->inner + x + i;
            if (host_written[at]++) fail("an output is written twice");
            const int piece = map->box_inner == 128 ? i / 16 ^ r % 8 : i / 16;
            host_codes[at] =
                read_shared<u8>(running->cta, from + r * map->box_inner + piece * 16 + i % 16);
        }
    return;
#endif
    for (int r = 0; r < 64 && y + r < map->outer; r++)
        for (int i = 0; i < 32 && x + i < map->inner; i++) {
            float &to = host_output[(y + r) * map->inner + x + i];
            if (!std::isnan(to)) fail("an output is written twice");
            to = load_shared(from + r * 128 + i * 4);
        }
}

// What hopper_block_quantizer.cuh takes.
#if OUT >= 3
static u32 host_peak(u32 mine) {
    u32 most = 0;
    for (int lane = 0; lane < 32; lane++)
        most = max(most, __float_as_uint(__shfl_sync(0xffffffffu, __uint_as_float(mine), lane)));
    return most;
}
static float host_larger(float x, float y) {
    return std::isnan(x) || std::isnan(y) ? __uint_as_float(0x7fffffff) : std::fmax(std::fabs(x), std::fabs(y));
}
static void store_shared16(u32 at, u16 x) { memcpy(shared_bytes(running->cta, at, 2), &x, 2); }
static float __fadd_rn(float x, float y) { return x + y; }
static float __fadd_rz(float x, float y) {  // of sums that a double holds
    const float nearest = (float)((double)x + y);
    return std::fabs(nearest) > std::fabs((double)x + y) ? std::nextafter(nearest, 0.0f) : nearest;
}
static u32 host_signs(float first, float second) {
    return (std::signbit(first) ? 0xffu : 0u) | (std::signbit(second) ? 0xff00u : 0u);
}
static u32 __byte_perm(u32 a, u32 b, u32 selector) {
    const u64 bytes = (u64)b << 32 | a;
    u32 found = 0;
    for (int i = 0; i < 4; i++) found |= (u32)(bytes >> (selector >> i * 4 & 7) * 8 & 0xff) << i * 8;
    return found;
}
static u32 __shfl_xor_sync(u32, u32 x, int mask) {
    const int lane = running->index % 32;
    u32 found = 0;
    for (int other = 0; other < 32; other++) {
        const u32 theirs = __float_as_uint(__shfl_sync(0xffffffffu, __uint_as_float(x), other));
        if (other == (lane ^ mask)) found = theirs;
    }
    return found;
}
#endif
