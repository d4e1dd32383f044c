"""Facts of a compilation that are made up."""

from tiles.kernels.compile_facts import CompileFacts

FACTS = CompileFacts(
    compiler="triton 3.6.0",
    target="sm_90",
    threads=256,
    smem_bytes=98_328,
    registers=90,
    stack_bytes=0,
    pipeline_depth=3,
    mma="wgmma",
)
