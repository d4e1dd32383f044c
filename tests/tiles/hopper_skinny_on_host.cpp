// Operands in a file of a fixed layout, C back into a file: see hopper_skinny_host.py.

#include "hopper_job_on_host.h"

struct Job {
    i64 m, n, k, a_pitch, b_pitch, c_pitch, scale_columns, scale_pitch, seed, smem;
};

int main(int, char **argv) {
    Job job;
    Part parts[5];  // a, b, a_scale, b_scale, c
    read_job(argv[1], job, parts);
    const int item = ELEMENT < 2 ? 2 : 1;
    const TensorMap map_a = {parts[0].data(), job.k, job.m, job.a_pitch, item, 128 / item, BLOCK_M};
    const TensorMap map_b = {parts[1].data(), job.k, job.n, job.b_pitch, item, 128 / item, BLOCK_N};
    const TensorMap map_scale = {parts[2].data(), job.m, job.scale_columns, job.scale_pitch, 4,
                                 BLOCK_M, 1};
    const u32 blocks = CLUSTER * ((job.m + BLOCK_M - 1) / BLOCK_M) *
                       ((job.n + BLOCK_N - 1) / BLOCK_N);
    run_launch(blocks, job.smem, job.seed, [&] {
        gemm_hopper_skinny(map_a, map_b, map_scale, (const Scale *)parts[2].data(),
                           (const Scale *)parts[3].data(), parts[4].data(), job.c_pitch, job.m,
                           job.n, job.k);
    });
    write_result(argv[2], {&parts[4]});
}
