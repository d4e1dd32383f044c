"""Products of the scaled Triton GEMM and their prices."""

import sim
from tiles.kernels import ConfigTable
from tiles.kernels.gemm import TritonGemm
from tiles.problems import Gemm
from tiles.recipes import recipe

KERNEL = TritonGemm()
H200 = sim.load_gpu("h200")


def gemm(m: int, n: int, k: int, name: str) -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def legal(problem: Gemm, gpu: sim.Gpu) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted
