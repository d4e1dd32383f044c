// Operands in a file of a fixed layout, C back into a file: see hopper_gemm_host.py.

#include "hopper_job_on_host.h"

struct Job {
    i64 m, n, k, a_pitch, b_pitch, c_pitch, scale_columns, scale_pitch, column_pitch, seed, smem,
        ctas;
};

int main(int, char **argv) {
    Job job;
    Part parts[5];  // a, b, a_scale, b_scale, c
    read_job(argv[1], job, parts);
    const int out_item = OUT == 2 ? 4 : 2;
    const TensorMap map_a = {parts[0].data(), job.k, job.m, job.a_pitch, 1, 128, BLOCK_M};
    const TensorMap map_b = {parts[1].data(), job.k, job.n, job.b_pitch, 1, 128, BLOCK_N};
    const TensorMap map_scale = {parts[2].data(), job.m, job.scale_columns, job.scale_pitch, 4,
                                 BLOCK_M, 1};
#if SCALES == 5
    const TensorMap map_columns = {parts[3].data(), job.n, job.scale_columns, job.column_pitch, 4,
                                   BLOCK_N, 1};
#endif
    const TensorMap map_c = {parts[4].data(), job.n, job.m, job.c_pitch, out_item, 128 / out_item, 64};
    gridDim.x = job.ctas;
    run_launch(job.ctas, job.smem, job.seed, [&] {
        gemm_hopper(map_a, map_b, map_scale, map_c, (const float *)parts[2].data(),
                    (const float *)parts[3].data(), job.m, job.n, job.k
#if SCALES == 5
                    ,
                    map_columns
#endif
        );
    });
    write_result(argv[2], {&parts[4]});
}
