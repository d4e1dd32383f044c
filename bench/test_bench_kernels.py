"""Default configurations on the GPU at hand, beside torch: ``make bench-gpu``.

Tuned configurations are measured by ``workbench sweep`` and, beside every rival, by
``workbench verify``; this suite shows what a package does on a shape that was never tuned.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from sim import gpu_names, load_gpu
from tiles.kernels import kernel
from tiles.problems import Gemm, Problem, Quantize
from tiles.recipes import RECIPES, recipe

pytestmark = pytest.mark.gpu


def time_default(benchmark: BenchmarkFixture, family_name: str, problem: Problem) -> None:
    import torch

    name = torch.cuda.get_device_name()
    gpu = next(g for g in map(load_gpu, gpu_names()) if g.matches(name))
    family = kernel(family_name)
    config = family.default(problem, gpu.limits)
    workload = family.workload(problem, device="cuda", seed=0)
    accuracy = workload.check(config)
    assert accuracy.ok, accuracy.reason
    launch = workload.launchers(config, 1)[0]

    def run() -> None:
        launch()
        torch.cuda.synchronize()

    benchmark(run)
    benchmark.extra_info["config"] = str(config)


#: One recipe of each product that a family computes.
PRODUCTS = [
    (family, r.name)
    for family in ("triton_gemm", "hopper_gemm")
    for r in {(r.activation, r.weight): r for r in reversed(RECIPES.values())}.values()
    if not kernel(family).refusal(Gemm(m=64, n=64, k=64, recipe=r), load_gpu("h200").limits)
]


@pytest.mark.parametrize(("family", "name"), PRODUCTS)
def test_gemm(benchmark: BenchmarkFixture, family: str, name: str) -> None:
    if family == "hopper_gemm":
        import torch

        if torch.cuda.get_device_capability() != (9, 0):
            pytest.skip("the kernel is for capability 9.0")
    time_default(benchmark, family, Gemm(m=8192, n=8192, k=8192, recipe=recipe(name)))


@pytest.mark.parametrize("family", ["triton_quantize", "cuda_quantize"])
@pytest.mark.parametrize("name", ["jetfire", "deepseek-fp8", "int8-b128"])
def test_quantize(benchmark: BenchmarkFixture, family: str, name: str) -> None:
    target = recipe(name).activation
    time_default(benchmark, family, Quantize(rows=8192, cols=8192, target=target))


def test_torch_matmul_bf16(benchmark: BenchmarkFixture) -> None:
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda").to(torch.bfloat16) for _ in range(2))

    def run() -> None:
        torch.matmul(a, b.T)
        torch.cuda.synchronize()

    benchmark(run)
