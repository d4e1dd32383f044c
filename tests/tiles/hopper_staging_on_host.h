// Stands in for hopper_staging.cuh beside hopper_on_host.h.  The copy engine reads a staging buffer
// as late as it may: when somebody waits for it.

static Index gridDim;
static void sync_cluster_or_cta() {
    if (CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
}

struct Store { const TensorMap *map; u32 from; int x, y; };
static std::map<std::pair<Cta *, u32>, std::deque<std::vector<Store>>> store_groups;
static std::map<std::pair<Cta *, u32>, std::vector<Store>> stores_issued;

static std::pair<Cta *, u32> storing() { return {running->cta, running->index}; }
static void store_now(const Store &store) {
    const TensorMap &map = *store.map;
    for (int r = 0; r < map.box_outer; r++)
        for (int i = 0; i < map.box_inner; i++) {
            const i64 x = store.x + i, y = store.y + r;
            if (x >= map.inner || y >= map.outer) continue;
            const int byte = i * map.item, at = r * 128 + (byte / 16 ^ r % 8) * 16 + byte % 16;
            memcpy((u8 *)map.data + y * map.pitch + x * map.item,
                   shared_bytes(running->cta, store.from + at, map.item), map.item);
        }
}
static void await_groups(size_t pending) {
    auto &groups = store_groups[storing()];
    while (groups.size() > pending) {
        for (const Store &store : groups.front()) store_now(store);
        groups.pop_front();
    }
}
static void store_tile(const TensorMap *map, u32 from, int x, int y) {
    stores_issued[storing()].push_back({map, from, x, y});
}
static void commit_buffer() {
    store_groups[storing()].push_back(std::move(stores_issued[storing()]));
    stores_issued[storing()].clear();
}
static void await_stores() { await_groups(0); }
static void consumer_sync(int consumer) { named_sync(CONSUMER_BARRIER + consumer, 128); }
static void await_buffer(int consumer, int thread) {
    if (thread == 0) await_groups(STORE_BUFFERS - 1);
    consumer_sync(consumer);
}
static void publish_buffer(int consumer) { consumer_sync(consumer); }

static u32 pack(float low, float high) {
    return OUT == 1 ? pack_fp16(low, high) : pack_bf16(low, high);
}
static void stage_columns(u32 buffer, int warp, int lane, int part, const float *v) {
    for (int g = 0; g < 2; g++)
        for (int h = 0; h < 2; h++) {
            const int r = warp * 16 + h * 8 + lane / 4, column = part * 16 + g * 8 + lane % 4 * 2;
            const float *pair = v + g * 4 + h * 2;
            const int byte = column * (OUT == 2 ? 4 : 2);
            const u32 to = buffer + r * ROW_BYTES + ((byte / 16 ^ r % 8) * 16 + byte % 16);
            if (OUT == 2) {
                store_shared(to, __float_as_uint(pair[0]));
                store_shared(to + 4, __float_as_uint(pair[1]));
            } else {
                store_shared(to, pack_bf16(pair[0], pair[1]));
            }
        }
}
