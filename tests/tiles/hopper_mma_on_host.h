// Stands in for hopper_mma.cuh beside hopper_on_host.h.  Copies land at random later times; a product
// of a warp takes every lane's registers once all lanes are there.

static std::deque<TensorMap> bulk_copies;

static void copy_bulk(u32 to, const void *from, u32 bytes, u32 bar) {
    need_launch_before();
    if (bytes == 0 || bytes % 16 || to % 16 || (u64)from % 16) fail("a misaligned copy");
    bulk_copies.push_back({(const u8 *)from, bytes, 1, bytes, 1, (int)bytes, 1});
    loads.push_back({running->cta, to, bar, &bulk_copies.back(), 0, 0});
}

static bool elected() { return running->index % 32 == 13; }  // nobody may count on the first

static u32 load_shared_u32(u32 at) { return read_shared<u32>(running->cta, at); }
static u32 load_shared_u16(u32 at) { return read_shared<u16>(running->cta, at); }
static u32 load_shared_u8(u32 at) { return read_shared<u8>(running->cta, at); }
static float widen_fp16(u32 bits) { return (float)same_bits<_Float16>((u16)bits); }

struct Lanes {
    u32 words[32][6];
};
static std::map<std::pair<Cta *, u32>, Lanes> lanes;

static Lanes &my_lanes() { return lanes[{running->cta, running->index / 32}]; }

static void load_matrices(u32 (&x)[4], u32 address) {
    Lanes &all = my_lanes();
    const u32 lane = running->index % 32;
    all.words[lane][0] = address;
    __syncwarp();
    for (int matrix = 0; matrix < 4; matrix++) {
        const u32 row = all.words[matrix * 8 + lane / 4][0];
        if (row % 16) fail("a misaligned row of a matrix");
        x[matrix] = read_shared<u32>(running->cta, row + lane % 4 * 4);
    }
    __syncwarp();
}

static float half_of(u32 pair, int place) {
    const u16 bits = (u16)(pair >> place * 16);
#if ELEMENT == 0
    return __uint_as_float((u32)bits << 16);
#else
    return (float)same_bits<_Float16>(bits);
#endif
}

static void multiply_add(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    Lanes &all = my_lanes();
    const u32 lane = running->index % 32;
    const u32 mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
    memcpy(all.words[lane], mine, sizeof mine);
    __syncwarp();
    for (int e = 0; e < 4; e++) {
        const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
        double sum = d[e];
        for (int k = 0; k < 16; k++) {
            const int quad = k % 8 / 2, high = k / 8;
            sum += (double)half_of(all.words[row % 8 * 4 + quad][row / 8 + high * 2], k % 2) *
                   half_of(all.words[column * 4 + quad][4 + high], k % 2);
        }
        d[e] = (float)sum;
    }
    __syncwarp();
}

// A of a warpgroup's product is what four neighbouring lanes hold of their two rows.
static void wgmma_rows(Accumulator (&d)[HALF], const u32 (&a)[4], u64 b, int keep) {
    Lanes &all = my_lanes();
    const u32 lane = running->index % 32;
    memcpy(all.words[lane], a, sizeof a);
    __syncwarp();
    auto rows = std::make_shared<std::vector<double>>(32);
    for (int h = 0; h < 2; h++)
        for (int k = 0; k < 16; k++)
            (*rows)[h * 16 + k] =
                half_of(all.words[lane / 4 * 4 + k % 8 / 2][h + k / 8 * 2], k % 2);
    __syncwarp();
    running->issued.push_back({d, 0, b, keep != 0, rows});
}

static void store_turned(u32 address, const u32 (&x)[4]) {
    Lanes &all = my_lanes();
    const u32 lane = running->index % 32;
    all.words[lane][0] = address;
    __syncwarp();
    if (address % 16) fail("a misaligned column of a matrix");
    for (int matrix = 0; matrix < 4; matrix++)
        for (int e = 0; e < 2; e++) {
            const u16 bits = (u16)(x[matrix] >> e * 16);
            const u32 to = all.words[matrix * 8 + lane % 4 * 2 + e][0] + lane / 4 * 2;
            memcpy(shared_bytes(running->cta, to, 2), &bits, 2);
        }
    __syncwarp();
}

static u32 permute(u32 a, u32 b, u32 selector) {
    const u64 bytes = (u64)b << 32 | a;
    u32 found = 0;
    for (int i = 0; i < 4; i++) found |= (u32)(bytes >> (selector >> i * 4 & 7) * 8 & 255) << i * 8;
    return found;
}

static u32 fma_pair(u32 x, u32 factor, u32 offset) {
    float y[2];
    for (int i = 0; i < 2; i++)
        y[i] = std::fma(half_of(x, i), half_of(factor, i), half_of(offset, i));
#if ELEMENT == 0
    return pack_bf16(y[0], y[1]);
#else
    return pack_fp16(y[0], y[1]);
#endif
}

static void store_far(float *to, const float (&x)[4]) { memcpy(to, x, sizeof x); }
static void load_far(float (&x)[4], const float *from) { memcpy(x, from, sizeof x); }
static int count_arrival(int *counter) { return (*counter)++; }
