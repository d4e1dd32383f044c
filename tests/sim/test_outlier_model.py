"""The cost of products with outliers apart: limits, monotony, what is added to the plain one."""

from dataclasses import replace

import numpy as np
import pytest

from sim import load_gpu
from sim.model import price, unpriced
from sim.prediction import PricedTable
from tiles.kernels import kernel
from tiles.kernels.outlier_gemm import inner_problem, inner_table
from tiles.problems import Gemm
from tiles.recipes import OutlierBlocks, recipe

H200 = load_gpu("h200")
FAMILY = kernel("triton_outlier_gemm")
SHAPES = [(4096, 4096, 4096), (16, 8192, 8192), (300, 500, 1000)]
NAMES = ("llm-int8", "int8-fallback")


def gemm(name: str, shape: tuple[int, int, int]) -> Gemm:
    m, n, k = shape
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def priced(problem: Gemm) -> PricedTable:
    return price(problem, FAMILY, FAMILY.legal_space(problem, H200.limits).accepted, H200)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_costs_more_than_the_codes_alone_and_no_less_than_the_hardware(
    name: str, shape: tuple[int, int, int]
) -> None:
    problem = gemm(name, shape)
    assert unpriced(problem, FAMILY) is None
    table = priced(problem)
    plain = price(inner_problem(problem), kernel("triton_gemm"), inner_table(table.table), H200)
    assert (table.time_us > plain.time_us).all()
    assert (table.dram_read_bytes > plain.dram_read_bytes).all()
    assert np.allclose(table.time_us, plain.time_us + table.terms_us["outliers"])
    peak = H200.tensor_flop_per_clk["int8"] * H200.sm_count * H200.max_clock_mhz * 1e6
    assert (table.time_us > problem.flops / peak * 1e6).all()
    bound = (table.dram_read_bytes + table.dram_write_bytes) / H200.dram_read_gb_per_s / 1e3
    assert (table.time_us > 0.99 * bound).all()
    for term, values in table.terms_us.items():
        assert np.isfinite(values).all(), term
        assert (values >= 0).all(), term


def test_few_outlier_columns_cost_little() -> None:
    problem = gemm("llm-int8", (4096, 4096, 4096))
    table = priced(problem)
    best = int(np.argmin(table.time_us))
    assert table.terms_us["outliers"][best] < 0.1 * table.time_us[best]


def test_a_larger_share_of_blocks_costs_about_its_part_of_k() -> None:
    problem = gemm("int8-fallback", (4096, 4096, 4096))
    table = FAMILY.legal_space(problem, H200.limits).accepted
    times = []
    for share in (0.1, 0.5, 1.0):
        apart = replace(problem.recipe, outliers=OutlierBlocks(share=share))
        times.append(price(replace(problem, recipe=apart), FAMILY, table, H200).time_us)
    assert (times[0] < times[1]).all()
    assert (times[1] < times[2]).all()
    plain = price(inner_problem(problem), kernel("triton_gemm"), inner_table(table), H200).time_us
    best = int(np.argmin(times[2]))
    assert 1.7 < times[2][best] / plain[best] < 2.3
