// The second kernel of backward: adds up the sums of columns that clusters leave, in their order.

// Adds up what clusters left: sums[2 cols] of partials[count][2 cols], 32 columns a CTA.
extern "C" __global__ void __launch_bounds__(512)
    dataflow_column_sums(const float *__restrict__ partials, float *__restrict__ products,
                         float *__restrict__ plain, i64 cols, u32 count) {
    SHARED_MEMORY(arena);
    float *of_line = (float *)arena;  // (16, 32)
    const u32 side = threadIdx.x % 32, line = threadIdx.x / 32;
    const i64 col = (i64)blockIdx.x * 32 + side;
    float sum = 0.0f;
    follow_launch();
    if (col < 2 * cols)
        for (u32 k = line; k < count; k += 16) sum += __ldcs(partials + k * 2 * cols + col);
    of_line[line * 32 + side] = sum;
    __syncthreads();
    if (line > 0 || col >= 2 * cols) return;
    for (u32 k = 1; k < 16; ++k) sum += of_line[k * 32 + side];
    if (col < cols)
        products[col] = sum;
    else if (plain != nullptr)
        plain[col - cols] = sum;
}
