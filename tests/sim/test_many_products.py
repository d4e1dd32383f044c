"""The cost of batches and groups of products: limits, monotony, and what it is made of."""

import numpy as np
import pytest

from sim import load_gpu
from sim.many_products import turned_clk
from sim.model import price
from sim.parameters import BATCHED
from sim.prediction import PricedTable
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.batched_gemm import BatchedGemmConfig
from tiles.problems import parse_problem

H200 = load_gpu("h200")
CASES = [
    ("triton_grouped_gemm", "grouped_gemm:32x8192x4096x7168:deepseek-fp8:contiguous:bf16"),
    ("triton_grouped_gemm", "grouped_gemm:32x8192x4096x7168:bf16:gathered.8:bf16"),
    ("hopper_grouped_gemm", "grouped_gemm:32x8192x4096x7168:int8-b1x128:masked.1024:bf16"),
    ("hopper_grouped_gemm", "grouped_gemm:8x64x4096x7168:e4m3-row:padded.128:bf16"),
    ("triton_batched_gemm", "batched_gemm:128x4096x4096x128:e4m3-tensor:nk:bf16"),
    ("triton_batched_gemm", "batched_gemm:128x4096x128x4096:e4m3-tensor:kn:bf16"),
]


def priced(name: str, text: str) -> PricedTable:
    problem, family = parse_problem(text), kernel(name)
    return price(problem, family, family.legal_space(problem, H200.limits).accepted, H200)


def best_us(name: str, text: str) -> float:
    return float(priced(name, text).time_us.min())


@pytest.mark.parametrize(("name", "text"), CASES)
def test_no_configuration_beats_the_hardware(name: str, text: str) -> None:
    table, problem = priced(name, text), parse_problem(text)
    activation = problem.recipe.activation.element.name  # type: ignore[attr-defined]
    peak = H200.tensor_flop_per_clk[activation] * H200.sm_count * H200.max_clock_mhz * 1e6
    assert (table.time_us > problem.flops / peak * 1e6).all()
    # Experts that nobody chooses are not read: fewer bytes than with all of them.
    assert (table.dram_read_bytes + table.dram_write_bytes > 0.6 * problem.min_bytes).all()
    bound = (table.dram_read_bytes + table.dram_write_bytes) / H200.dram_read_gb_per_s / 1e3
    assert (table.time_us > 0.99 * np.minimum(bound, table.terms_us["dram"])).all()
    for term, values in table.terms_us.items():
        assert np.isfinite(values).all(), term
        assert (values >= 0).all(), term


@pytest.mark.parametrize("name", ["triton_grouped_gemm", "hopper_grouped_gemm"])
def test_few_rows_cost_the_weights_of_their_experts(name: str) -> None:
    text = "grouped_gemm:256x{}x4096x7168:deepseek-fp8:contiguous:bf16"
    weights_us = 256 * 4096 * 7168 / H200.dram_read_gb_per_s / 1e3
    few, more = (best_us(name, text.format(m)) for m in (1024, 4096))
    assert weights_us * 0.95 < few < weights_us * 1.3
    assert few < more < weights_us * 2


@pytest.mark.parametrize("name", ["triton_grouped_gemm", "hopper_grouped_gemm"])
def test_one_expert_costs_about_a_plain_product(name: str) -> None:
    plain = name.replace("_grouped", "")
    group = best_us(name, "grouped_gemm:1x8192x4096x4096:deepseek-fp8:contiguous:bf16")
    single = best_us(plain, "gemm:8192x4096x4096:deepseek-fp8:bf16")
    assert 0.98 * single < group < 1.2 * single


@pytest.mark.parametrize(
    ("name", "smaller", "larger"),
    [
        (
            "triton_grouped_gemm",
            "grouped_gemm:8x8192x4096x7168:e4m3-row:contiguous:bf16",
            "grouped_gemm:64x8192x4096x7168:e4m3-row:contiguous:bf16",
        ),
        (
            "hopper_grouped_gemm",
            "grouped_gemm:8x8192x4096x7168:e4m3-row:contiguous:bf16",
            "grouped_gemm:8x16384x4096x7168:e4m3-row:contiguous:bf16",
        ),
        (
            "triton_batched_gemm",
            "batched_gemm:64x2048x2048x128:bf16:nk:bf16",
            "batched_gemm:128x2048x2048x128:bf16:nk:bf16",
        ),
        (
            "triton_batched_gemm",
            "batched_gemm:64x2048x128x2048:e4m3-row:nk:bf16",
            "batched_gemm:64x2048x128x2048:e4m3-row:kn:bf16",
        ),
    ],
)
def test_more_work_takes_longer(name: str, smaller: str, larger: str) -> None:
    assert best_us(name, smaller) < best_us(name, larger)


def test_a_batch_larger_than_a_plain_product_may_be_is_priced() -> None:
    text = "batched_gemm:{}x4096x64x64:bf16:nk:bf16"
    one, many = (best_us("triton_batched_gemm", text.format(b)) for b in (4096, 16384))
    assert 3.8 < many / one < 4.2


def test_what_turns_an_operand_depends_on_its_bits_its_rows_and_the_copy_engine() -> None:
    """Clocks for 3200 elements of a [K, N] operand."""
    fields = {"block_m": 128, "num_warps": 4, "num_stages": 3, "group_m": 1}

    def clk(bits: int, block_n: int, block_k: int, tma: bool) -> float:
        config = BatchedGemmConfig.from_dict(
            fields | {"block_n": block_n, "block_k": block_k, "tma": tma}
        )
        return float(turned_clk(bits, ConfigTable.of([config]), np.array([3200.0]), BATCHED)[0])

    assert clk(8, 64, 32, True) == pytest.approx(3200 / BATCHED.turned_per_clk)
    assert clk(8, 64, 64, True) == 4 * clk(8, 64, 32, True) == clk(8, 64, 128, True)
    assert clk(8, 128, 64, True) == 2 * clk(8, 64, 64, True)
    assert clk(16, 64, 64, True) == 0.0
    slow = 3200 / BATCHED.plain_turned_bytes_per_clk
    assert clk(16, 64, 64, False) == pytest.approx(2 * slow)
    assert clk(8, 64, 32, False) == pytest.approx(slow)
