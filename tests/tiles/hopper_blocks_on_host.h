// What gemm_hopper_blocks.cu takes of the GPU beside hopper_on_host.h: votes, and the way of fp32
// sums to memory, which stands in for hopper_staging.cuh.

static Index gridDim;
static float *host_output;  // (M, N)

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
    for (int r = 0; r < 64 && y + r < map->outer; r++)
        for (int i = 0; i < 32 && x + i < map->inner; i++) {
            float &to = host_output[(y + r) * map->inner + x + i];
            if (!std::isnan(to)) fail("an output is written twice");
            to = load_shared(from + r * 128 + i * 4);
        }
}
