"""Problems and configurations of the scaled Triton GEMM."""

from dataclasses import replace

from tiles.kernels import Limits
from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.problems import Gemm, parse_problem

H200 = Limits(
    gpu="h200",
    vendor="nvidia",
    capability=90,
    smem_bytes_per_cta=232448,
    registers_per_sm=65536,
    threads_per_sm=2048,
    warp_threads=32,
    native_elements=frozenset({"bf16", "fp16", "e4m3fn", "e5m2", "int8"}),
    features=frozenset({"tma", "wgmma"}),
)
A100 = replace(
    H200,
    gpu="a100",
    capability=80,
    smem_bytes_per_cta=166912,
    native_elements=frozenset({"bf16", "fp16", "int8"}),
    features=frozenset(),
)
GEMM = TritonGemm()
BASE = GemmConfig(
    block_m=128,
    block_n=128,
    block_k=64,
    group_m=8,
    num_warps=8,
    num_stages=3,
    tma=True,
    persistent=False,
)


def gemm(text: str) -> Gemm:
    problem = parse_problem(text)
    assert isinstance(problem, Gemm)
    return problem
