"""Problems and configurations of the scaled Triton GEMM."""

from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.problems import Gemm, parse_problem

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
