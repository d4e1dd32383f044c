// The output's tiles in the order in which they are worked on: rasters of GROUP_M cluster rows,
// each column by column, so that CTAs at work together share rows of A and of B in the L2.
//
// Macros: BLOCK_M, BLOCK_N, CLUSTER, GROUP_M.

// First row and column of the tile of a CTA: `rank` in its cluster, `index` among the clusters.
__device__ __forceinline__ void raster_place(int index, int cluster_rows, int cols, u32 rank,
                                             int &top, int &left) {
    const int raster = index / (GROUP_M * cols), inside = index % (GROUP_M * cols);
    const int height = min(cluster_rows - raster * GROUP_M, GROUP_M);
    top = ((raster * GROUP_M + inside % height) * CLUSTER + rank) * BLOCK_M;
    left = inside / height * BLOCK_N;
}

// Of one matrix.
struct Raster {
    int cols, cluster_rows;

    __device__ Raster(int m, int n) : cols((n + BLOCK_N - 1) / BLOCK_N) {
        cluster_rows = ((m + BLOCK_M - 1) / BLOCK_M + CLUSTER - 1) / CLUSTER;
    }

    __device__ int count() const { return cluster_rows * cols; }

    __device__ void place(int index, u32 rank, int &top, int &left) const {
        raster_place(index, cluster_rows, cols, rank, top, left);
    }
};
