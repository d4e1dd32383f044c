// Operands in a file of a fixed layout, C and the counters back into one: see
// hopper_weight_only_host.py.

struct Job {
    i64 m, n, k, panels, x_pitch, c_pitch, ctas, seed, smem;
};

// At a multiple of 16, as the copy engine asks for.
struct Part {
    std::vector<uint4> memory;
    i64 bytes;
    u8 *data() { return (u8 *)memory.data(); }
};

static Part read_part(FILE *file, i64 bytes) {
    Part part = {std::vector<uint4>(bytes / 16 + 1), bytes};
    if (bytes && fread(part.data(), 1, bytes, file) != (size_t)bytes) fail("the job is cut short");
    return part;
}

int main(int, char **argv) {
    FILE *file = fopen(argv[1], "rb");
    Job job;
    i64 sizes[7];
    if (!file || fread(&job, sizeof job, 1, file) != 1 || fread(sizes, sizeof sizes, 1, file) != 1)
        fail("no job");
    Part parts[7];  // x, codes, scale, zero, row_scale, c, workspace
    for (int i = 0; i < 7; i++) parts[i] = read_part(file, sizes[i]);
    fclose(file);
    const TensorMap map_x = {parts[0].data(), job.k, job.m, job.x_pitch, 2, 64, BLOCK_M};
    int *const counters = (int *)parts[6].data();
    std::vector<u32> order(job.ctas);  // CTAs come in any order
    for (u32 i = 0; i < order.size(); i++) order[i] = i;
    std::mt19937 any(job.seed);
    std::shuffle(order.begin(), order.end(), any);
    run_launch(job.ctas, job.smem, job.seed, [&] {
        blockIdx.x = order[blockIdx.x];
        gemm_hopper_weight_only(map_x, parts[1].data(), parts[2].data(), parts[3].data(),
                                (const float *)parts[4].data(), parts[5].data(),
                                (float *)(counters + COUNTED), counters, job.c_pitch, job.m, job.n,
                                job.panels, job.ctas);
    });
    file = fopen(argv[2], "wb");
    for (int i : {5, 6})
        if (!file || fwrite(parts[i].data(), 1, parts[i].bytes, file) != (size_t)parts[i].bytes)
            fail("no result");
    fclose(file);
}
