// Operands in a file of a fixed layout, C back into a file: see hopper_blocks_host.py.

struct Job {
    i64 m, n, k, blocks, seed, smem;
};

static std::vector<u8> read_part(FILE *file, i64 bytes) {
    std::vector<u8> part(bytes);
    if (bytes && fread(part.data(), 1, bytes, file) != (size_t)bytes) fail("the job is cut short");
    return part;
}

int main(int, char **argv) {
    FILE *file = fopen(argv[1], "rb");
    Job job;
    i64 sizes[4];
    if (!file || fread(&job, sizeof job, 1, file) != 1 || fread(sizes, sizeof sizes, 1, file) != 1)
        fail("no job");
    std::vector<u8> parts[4];  // a, b, a_scale, b_scale
    for (int i = 0; i < 4; i++) parts[i] = read_part(file, sizes[i]);
    fclose(file);
    std::vector<float> c(job.m * job.n, NAN);
    host_output = c.data();
    gridDim.x = job.blocks;
    const TensorMap map_a = {parts[0].data(), job.k, job.m, job.k, 1, 128, BLOCK_M};
    const TensorMap map_b = {parts[1].data(), job.k, job.n, job.k, 1, 128, BLOCK_N};
    const TensorMap map_c = {nullptr, job.n, job.m, 0, 4, 32, 64};
    run_launch(job.blocks, job.smem, job.seed, [&] {
        gemm_hopper_blocks(map_a, map_b, map_a, map_b, map_c, (const float *)parts[2].data(),
                           (const float *)parts[3].data(), job.m, job.n, job.k);
    });
    file = fopen(argv[2], "wb");
    if (!file || fwrite(c.data(), 4, c.size(), file) != c.size()) fail("no result");
    fclose(file);
}
