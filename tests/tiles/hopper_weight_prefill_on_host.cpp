// Operands in a file of a fixed layout, C back into one: see hopper_weight_prefill_host.py.

#include "hopper_job_on_host.h"

struct Job {
    i64 m, n, k, panels, x_pitch, c_pitch, ctas, seed, smem;
};

int main(int, char **argv) {
    Job job;
    Part parts[6];  // x, codes, scale, zero, row_scale, c
    read_job(argv[1], job, parts);
    const int item = OUT == 2 ? 4 : 2;
    const TensorMap map_x = {parts[0].data(), job.k, job.m, job.x_pitch, 2, 64, BLOCK_M / CLUSTER};
    const TensorMap map_c = {parts[5].data(), job.n, job.m, job.c_pitch, item, 128 / item, 64};
    gridDim.x = job.ctas;
    run_launch(job.ctas, job.smem, job.seed, [&] {
        gemm_hopper_weight_prefill(map_x, map_c, parts[1].data(), parts[2].data(), parts[3].data(),
                                   (const float *)parts[4].data(), (float *)parts[5].data(),
                                   job.c_pitch, job.m, job.n, job.panels);
    });
    write_result(argv[2], {&parts[5]});
}
