"""A sweep file of one small problem, simulated."""

SWEEP = """
schema: 1
gpu: h200
problems: [{shape: [256, 256, 256]}]
recipes: [bf16]
kernels: [triton_gemm]
search: {max_measurements: 2}
measure: {on: sim}
output: run
"""
