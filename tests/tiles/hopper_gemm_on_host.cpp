// Operands in a file of a fixed layout, C back into a file: see hopper_gemm_host.py.

struct Job {
    i64 m, n, k, a_pitch, b_pitch, c_pitch, scale_columns, scale_pitch, seed, smem, ctas;
};

static std::vector<u8> read_part(FILE *file, i64 bytes) {
    std::vector<u8> part(bytes);
    if (bytes && fread(part.data(), 1, bytes, file) != (size_t)bytes) fail("the job is cut short");
    return part;
}

int main(int, char **argv) {
    FILE *file = fopen(argv[1], "rb");
    Job job;
    i64 sizes[5];
    if (!file || fread(&job, sizeof job, 1, file) != 1 || fread(sizes, sizeof sizes, 1, file) != 1)
        fail("no job");
    std::vector<u8> parts[5];  // a, b, a_scale, b_scale, c
    for (int i = 0; i < 5; i++) parts[i] = read_part(file, sizes[i]);
    fclose(file);
    const int out_item = OUT == 2 ? 4 : 2;
    const TensorMap map_a = {parts[0].data(), job.k, job.m, job.a_pitch, 1, 128, BLOCK_M};
    const TensorMap map_b = {parts[1].data(), job.k, job.n, job.b_pitch, 1, 128, BLOCK_N};
    const TensorMap map_scale = {parts[2].data(), job.m, job.scale_columns, job.scale_pitch, 4,
                                 BLOCK_M, 1};
    const TensorMap map_c = {parts[4].data(), job.n, job.m, job.c_pitch, out_item, 128 / out_item, 64};
    gridDim.x = job.ctas;
    run_launch(job.ctas, job.smem, job.seed, [&] {
        gemm_hopper(map_a, map_b, map_scale, map_c, (const float *)parts[2].data(),
                    (const float *)parts[3].data(), job.m, job.n, job.k);
    });
    file = fopen(argv[2], "wb");
    if (!file || fwrite(parts[4].data(), 1, parts[4].size(), file) != parts[4].size())
        fail("no result");
    fclose(file);
}
