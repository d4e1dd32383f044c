"""How fast the cost model and the reference codec are: ``make bench``."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import workbench
from sim import load_gpu, price
from tiles.formats import TensorFormat, quantize
from tiles.kernels import kernel
from tiles.problems import Gemm
from tiles.recipes import recipe


@pytest.mark.parametrize(
    ("family_name", "name"),
    [
        *(("triton_gemm", name) for name in ("bf16", "deepseek-fp8", "jetfire")),
        *(("hopper_gemm", name) for name in ("bf16", "deepseek-fp8")),
    ],
)
def test_price_a_legal_space(benchmark: BenchmarkFixture, family_name: str, name: str) -> None:
    gpu, family = load_gpu("h200"), kernel(family_name)
    problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe(name))
    table = family.legal_space(problem, gpu.limits).accepted
    priced = benchmark(price, problem, family, table, gpu)
    assert len(priced) == len(table)
    assert benchmark.stats is not None
    benchmark.extra_info["predictions per second"] = round(len(table) / benchmark.stats["median"])


def test_enumerate_and_judge_a_space(benchmark: BenchmarkFixture) -> None:
    gpu, family = load_gpu("h200"), kernel("triton_gemm")
    problem = Gemm(m=4096, n=4096, k=4096, recipe=recipe("bf16"))
    space = benchmark(family.legal_space, problem, gpu.limits)
    assert len(space.accepted)


def test_predict_every_recipe(benchmark: BenchmarkFixture) -> None:
    report = benchmark(workbench.predict, shapes=["4096x4096x4096"])
    assert report.rows


@pytest.mark.parametrize("name", ["int8.b32x32", "e4m3fn.b1x128"])
def test_quantize_a_matrix_in_numpy(benchmark: BenchmarkFixture, name: str) -> None:
    x = np.random.default_rng(0).standard_normal((1024, 1024), np.float32)
    quantized = benchmark(quantize, x, TensorFormat.parse(name))
    assert quantized.codes.shape == x.shape
