// Operands in a file of a fixed layout, C and the counters back into one: see
// hopper_weight_only_host.py.

#include "hopper_job_on_host.h"

struct Job {
    i64 m, n, k, panels, x_pitch, c_pitch, ctas, seed, smem;
};

int main(int, char **argv) {
    Job job;
    Part parts[7];  // x, codes, scale, zero, row_scale, c, workspace
    read_job(argv[1], job, parts);
    const TensorMap map_x = {parts[0].data(), job.k, job.m, job.x_pitch, 2, 64, BLOCK_M};
    int *const counters = (int *)parts[6].data();
    std::vector<u32> order(job.ctas / CLUSTER);  // clusters come in any order
    for (u32 i = 0; i < order.size(); i++) order[i] = i;
    std::mt19937 any(job.seed);
    std::shuffle(order.begin(), order.end(), any);
    run_launch(job.ctas, job.smem, job.seed, [&] {
        blockIdx.x = order[blockIdx.x / CLUSTER] * CLUSTER + blockIdx.x % CLUSTER;
        gemm_hopper_weight_only(map_x, parts[1].data(), parts[2].data(), parts[3].data(),
                                (const float *)parts[4].data(), parts[5].data(),
                                (float *)(counters + COUNTED), counters, job.c_pitch, job.m, job.n,
                                job.panels, job.ctas);
    });
    write_result(argv[2], {&parts[5], &parts[6]});
}
