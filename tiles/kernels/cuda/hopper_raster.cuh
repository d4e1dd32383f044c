// The output's tiles in the order in which they are worked on: rasters of GROUP_M cluster rows,
// each column by column, so that CTAs at work together share rows of A and of B in the L2.
//
// The CTAs of a cluster share the larger of their tiles: neighbours along M that of B, or where a tile
// of A is higher than that of B is wide, neighbours along N that of A.
//
// Macros: BLOCK_M, BLOCK_N, CLUSTER, GROUP_M.

#define SHARE_A (BLOCK_M > BLOCK_N)
#define CLUSTER_M (SHARE_A ? 1 : CLUSTER)
#define CLUSTER_N (SHARE_A ? CLUSTER : 1)

// Columns of clusters.
__device__ __forceinline__ int raster_cols(int n) {
    return (n + BLOCK_N * CLUSTER_N - 1) / (BLOCK_N * CLUSTER_N);
}

// Rows of clusters.
__device__ __forceinline__ int raster_rows(int m) {
    return (m + BLOCK_M * CLUSTER_M - 1) / (BLOCK_M * CLUSTER_M);
}

// First row and column of the tile of a CTA: `rank` in its cluster, `index` among the clusters.
__device__ __forceinline__ void raster_place(int index, int rows, int cols, u32 rank, int &top,
                                             int &left) {
    const int raster = index / (GROUP_M * cols), inside = index % (GROUP_M * cols);
    const int height = min(rows - raster * GROUP_M, GROUP_M);
    top = ((raster * GROUP_M + inside % height) * CLUSTER_M + (SHARE_A ? 0 : rank)) * BLOCK_M;
    left = (inside / height * CLUSTER_N + (SHARE_A ? rank : 0)) * BLOCK_N;
}

// Of one matrix.
struct Raster {
    int rows, cols;

    __device__ Raster(int m, int n) : rows(raster_rows(m)), cols(raster_cols(n)) {}

    __device__ int count() const { return rows * cols; }

    __device__ void place(int index, u32 rank, int &top, int &left) const {
        raster_place(index, rows, cols, rank, top, left);
    }
};
