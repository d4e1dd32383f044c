// Operands in a file of a fixed layout, C back into a file: see hopper_blocks_host.py.

#include "hopper_job_on_host.h"

struct Job {
    i64 m, n, k, blocks, seed, smem;
};

int main(int, char **argv) {
    Job job;
    Part parts[4];  // a, b, a_scale, b_scale
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
    run_launch(job.blocks, job.smem, job.seed, [&] {
        gemm_hopper_blocks(map_a, map_b, map_a, map_b, map_c, (const float *)parts[2].data(),
                           (const float *)parts[3].data(), job.m, job.n, job.k);
    });
    write_result(argv[2], {&c});
}
