// Products of rows that belong to GROUPS groups (experts), each with a B of its own, one under the
// other.
//
// Where a group's rows lie is read on the device: `counts` rows (or up to the next offset) from
// `offsets` on, or from every `capacity` rows on.  A scan makes the tiles of the groups before each
// one, and every walker over tiles moves on through it.  Rows of a tile that reach beyond the group
// are stored one by one, because a tensor map knows one end only.
//
// Macros: GROUPS, OUT, and those of hopper_raster.cuh.

#if SCALES != 0 && SCALES != 2 && SCALES != 3
#error "groups have no scales, those of rows, or those of 1x128 and 128x128 blocks"
#endif

// Where the rows of the groups lie, and the output's rows for those that TMA does not store.
struct Groups {
    const i64 *offsets;  // of each group's first row; null: every `capacity` rows
    const int *counts;   // rows of each group; null: up to the next offset
    u8 *c;
    i64 c_pitch;     // bytes from one row of C to the next
    int capacity;    // rows that a group has at most
    int scale_rows;  // rows of map_scale that each group has of its own; 0: all share them
};

// Filled once: cluster rows of tiles in the groups before each, the first row of each, its rows.
struct GroupTable {
    int before[GROUPS + 1], first[GROUPS], rows[GROUPS];
};

// By the first warp.
__device__ __forceinline__ void scan_groups(GroupTable &table, const Groups &groups, int m) {
    int carry = 0;
    for (int base = 0; base < GROUPS; base += 32) {
        const int lane = threadIdx.x, g = base + lane;
        int first = 0, rows = 0;
        if (g < GROUPS) {
            const i64 start = groups.offsets ? __ldg(groups.offsets + g) : (i64)g * groups.capacity;
            const i64 count =
                groups.counts ? __ldg(groups.counts + g) : __ldg(groups.offsets + g + 1) - start;
            // Whatever the device says, nothing outside the matrices is touched.
            first = (int)min(max(start, (i64)0), (i64)m);
            rows = (int)min(max(count, (i64)0), (i64)min(groups.capacity, m - first));
            table.first[g] = first;
            table.rows[g] = rows;
        }
        int sum = raster_rows(rows);
#pragma unroll
        for (int step = 1; step < 32; step *= 2) {
            const int other = __shfl_up_sync(0xffffffffu, sum, step);
            if (lane >= step) sum += other;
        }
        sum += carry;
        if (g < GROUPS) table.before[g + 1] = sum;
        carry = __shfl_sync(0xffffffffu, sum, 31);
    }
    if (threadIdx.x == 0) table.before[0] = 0;
}

// The tiles: group after group, each in rasters.
struct TileOrder {
    int cols;
    const GroupTable &table;
    const Groups &groups;
    int n, group;

    __device__ TileOrder(int n, const GroupTable &table, const Groups &groups)
        : cols(raster_cols(n)), table(table), groups(groups), n(n), group(0) {}

    __device__ int count() const { return table.before[GROUPS] * cols; }

    // Tiles are asked for in ascending order.
    __device__ Tile place(int index, u32 rank) {
        while (index >= table.before[group + 1] * cols) group++;
        const int first = table.first[group], rows = table.rows[group];
        const int cluster_rows = table.before[group + 1] - table.before[group];
        index -= table.before[group] * cols;
        Tile tile;
        raster_place(index, cluster_rows, cols, rank, tile.top, tile.left);
        tile.group = group;
        const int scale_x = groups.scale_rows ? tile.top : first + tile.top;
        tile.scale_shift = scale_x % 4;
        tile.scale_x = scale_x - tile.scale_shift;
        tile.scale_y = group * groups.scale_rows;
        tile.top += first;
        tile.end = first + rows;
        tile.b_top = group * n + tile.left;
        return tile;
    }
};

// Writes the first `rows` rows of a staging buffer to row y, column x of C, 16 bytes at a time.
__device__ __forceinline__ void store_rows(const Groups &groups, u32 buffer, int thread, int x,
                                           int y, int rows, int n) {
    constexpr int item = OUT == 2 ? 4 : 2;
    for (int piece = thread; piece < rows * (ROW_BYTES / 16); piece += 128) {
        const int r = piece / (ROW_BYTES / 16), at = piece % (ROW_BYTES / 16);
        if (x + at * (16 / item) >= n) continue;
        const uint4 v = load_shared4(buffer + r * ROW_BYTES + ((at ^ r % 8) * 16));
        *(uint4 *)(groups.c + (y + r) * groups.c_pitch + (i64)x * item + at * 16) = v;
    }
}
