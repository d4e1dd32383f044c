"""The model of the Hopper product of aligned MX operands: laws, and what its parts take."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_laws import check_price

import sim
from sim.parameters import HOPPER_GEMM, STREAM
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_aligned_gemm import HopperAlignedConfig, HopperAlignedGemm
from tiles.kernels.hopper_block_gemm import HopperBlockGemm
from tiles.kernels.hopper_gemm import HopperGemm, HopperGemmConfig
from tiles.kernels.hopper_skinny import HopperSkinnyGemm
from tiles.problems import Gemm
from tiles.recipes import recipe

KERNEL = HopperAlignedGemm()
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")
SHAPES = st.tuples(
    st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    st.integers(1, 600).map(lambda n: 16 * n),
    st.integers(1, 600).map(lambda k: 16 * k),
)
PLAIN = {"block_m": 256, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 8}
PLAIN |= {"store_buffers": 1}


def gemm(m: int, n: int, k: int, name: str = "mxfp8-e4m3") -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def one(**changes: int) -> ConfigTable:
    return ConfigTable.of([HopperAlignedConfig.from_dict(PLAIN | changes)])


def legal(problem: Gemm, gpu: sim.Gpu = H200) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted


@given(
    shape=SHAPES,
    name=st.sampled_from(["mxfp8-e4m3", "mxfp8-e5m2"]),
    gpu=st.sampled_from([H200, H100]),
    factor=st.floats(1, 4),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_prices_are_finite_and_more_of_anything_is_never_slower(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu, factor: float
) -> None:
    problem = gemm(*shape, name)
    table = legal(problem, gpu)
    priced = sim.price(problem, KERNEL, table, gpu)
    check_price(priced, ("tensor", "cuda_cores", "dram", "align", "launch"), own=["align"])
    for memory in (
        replace(gpu, dram_read_gb_per_s=gpu.dram_read_gb_per_s * factor),
        replace(gpu, dram_copy_gb_per_s=gpu.dram_copy_gb_per_s * factor),
    ):
        align = sim.price(problem, KERNEL, table, memory).terms_us["align"]
        assert (align <= priced.terms_us["align"] * (1 + 1e-9)).all()
    for better in (
        replace(gpu, fma_per_clk=gpu.fma_per_clk * factor),
        replace(gpu, l2_read_gb_per_s=gpu.l2_read_gb_per_s * factor),
        replace(gpu, sustained_clock_mhz=gpu.sustained_clock_mhz * factor),
    ):
        faster = sim.price(problem, KERNEL, table, better).time_us
        assert (faster <= priced.time_us * (1 + 1e-9)).all()


def test_the_alignment_moves_every_code_twice_and_the_product_reads_them_again() -> None:
    problem = gemm(4096, 4096, 4096)
    (align,) = sim.price(problem, KERNEL, one(), H200).terms_us["align"]
    read = 2 * 4096 * 4096 * 33 / 32
    least = read / H200.dram_read_gb_per_s / 1e3
    assert least < align < 2 * read / H200.dram_copy_gb_per_s / 1e3 + 5
    plain = Gemm(m=4096, n=4096, k=4096, recipe=recipe("deepseek-fp8"))
    config = HopperGemmConfig.from_dict(PLAIN | {"pingpong": False, "chained": True})
    product = sim.price(plain, HopperGemm(), ConfigTable.of([config]), H200)
    both = sim.price(problem, KERNEL, one(), H200)
    assert both.time_us[0] >= product.time_us[0] + align
    assert both.dram_read_bytes[0] >= product.dram_read_bytes[0] + read
    assert both.dram_write_bytes[0] == product.dram_write_bytes[0] + read


def test_a_factor_for_every_sum_doubles_the_promotion() -> None:
    problem = gemm(4096, 4096, 4096)
    plain = Gemm(m=4096, n=4096, k=4096, recipe=recipe("deepseek-fp8"))
    config = HopperGemmConfig.from_dict(PLAIN | {"pingpong": False, "chained": True})
    product = sim.price(plain, HopperGemm(), ConfigTable.of([config]), H200)
    both = sim.price(problem, KERNEL, one(), H200)
    # At clocks that differ by a few per cent.
    ratio = both.terms_us["cuda_cores"][0] / product.terms_us["cuda_cores"][0]
    assert ratio == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "faster"),
    [((8192, 8192, 8192), True), ((4096, 2112, 7168), True), ((16, 4096, 4096), False)],
)
def test_aligning_pays_where_there_are_many_rows(shape: tuple[int, int, int], faster: bool) -> None:
    problem = gemm(*shape)
    aligned = sim.price(problem, KERNEL, legal(problem), H200).time_us.min()
    others = [
        sim.price(problem, one, one.legal_space(problem, H200.limits).accepted, H200).time_us.min()
        for one in (HopperBlockGemm(), HopperSkinnyGemm())
    ]
    assert (aligned < min(others)) == faster


def test_the_parameters_of_both_parts_count() -> None:
    problem = gemm(4096, 4096, 4096)
    plain = sim.price(problem, KERNEL, one(), H200).time_us[0]
    slow_pass = {KERNEL.name: replace(STREAM, dram_share=STREAM.dram_share / 2)}
    slow_product = {"hopper_gemm": replace(HOPPER_GEMM, turn_clk=HOPPER_GEMM.turn_clk + 500)}
    for parameters in (slow_pass, slow_product):
        assert sim.price(problem, KERNEL, one(), H200, parameters=parameters).time_us[0] > plain
