// Operands in a file of a fixed layout, C back into a file: see hopper_blocks_host.py.

#include "hopper_job_on_host.h"

struct Job {
    i64 m, n, k, blocks, seed, smem;
};

int main(int, char **argv) {
    Job job;
    Part parts[5];  // a, b, a_scale, b_scale, keys
    read_job(argv[1], job, parts);
    Part c;
    c.bytes = job.m * job.n * 4;
    c.memory.resize(c.bytes / 16 + 1);
    host_output = (float *)c.data();
    std::fill_n(host_output, job.m * job.n, NAN);
    gridDim.x = job.blocks;
    const TensorMap map_a = {parts[0].data(), job.k, job.m, job.k, 1, 128, BLOCK_M};
    const TensorMap map_b = {parts[1].data(), job.k, job.n, job.k, 1, 128, BLOCK_N};
    const TensorMap map_c = {nullptr, job.n, job.m, 0, 4, 32, 64};
    const float *a_scale = (const float *)parts[2].data(), *b_scale = (const float *)parts[3].data();
#if OUT >= 3
    std::vector<u8> codes(job.m * job.n), written(job.m * job.n);
    host_codes = codes.data(), host_written = written.data();
    const i64 grid = (job.m + OUT_BLOCK - 1) / OUT_BLOCK * ((job.n + OUT_BLOCK - 1) / OUT_BLOCK);
    std::vector<float> scales(grid, NAN);
    RoundKeys keys;
    memcpy(&keys, parts[4].data(), sizeof keys);
    const TensorMap map_codes = {nullptr, job.n, job.m, 0, 1, STORE_COLUMNS, 64};
    run_launch(job.blocks, job.smem, job.seed, [&] {
        gemm_hopper_blocks(map_a, map_b, map_a, map_b, map_codes, a_scale, b_scale, job.m, job.n,
                           job.k, scales.data(), keys);
    });
    if (std::count(written.begin(), written.end(), 1) != (i64)written.size()) fail("a code is missing");
    c.bytes = codes.size() + grid * 4;
    c.memory.resize(c.bytes / 16 + 1);
    memcpy(c.data(), scales.data(), grid * 4);
    memcpy(c.data() + grid * 4, codes.data(), codes.size());
#else
    run_launch(job.blocks, job.smem, job.seed, [&] {
        gemm_hopper_blocks(map_a, map_b, map_a, map_b, map_c, a_scale, b_scale, job.m, job.n, job.k);
    });
#endif
    write_result(argv[2], {&c});
}
