"""The model of the Hopper GEMM for few rows or tiles: laws, traffic, the shape of its answers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_laws import check_price, check_traffic

import sim
from sim.compiled import Compiled
from sim.hopper_skinny_model import hopper_skinny_cost
from sim.occupancy import placed_sms
from sim.parameters import HOPPER_SKINNY
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_gemm import HopperGemm
from tiles.kernels.hopper_skinny import HopperSkinnyConfig, HopperSkinnyGemm
from tiles.problems import Gemm
from tiles.recipes import recipe

KERNEL = HopperSkinnyGemm()
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")


def gemm(m: int, n: int, k: int, name: str) -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def legal(problem: Gemm, gpu: sim.Gpu = H200) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted


def one(**changes: int | bool) -> ConfigTable:
    plain = {"block_m": 16, "block_n": 64, "stages": 5, "cluster": 1, "interleaved": False}
    return ConfigTable.of([HopperSkinnyConfig.from_dict(plain | changes)])


def price(problem: Gemm, table: ConfigTable, gpu: sim.Gpu = H200) -> sim.PricedTable:
    return sim.price(problem, KERNEL, table, gpu)


SHAPES = st.tuples(
    st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    st.integers(1, 600).map(lambda n: 16 * n),
    st.integers(1, 600).map(lambda k: 16 * k),
)
NAMES = st.sampled_from(
    ["bf16", "fp16", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b128", "mxfp8-e4m3"]
)
GPUS = st.sampled_from([H200, H100])


@given(shape=SHAPES, name=NAMES, gpu=GPUS)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_every_legal_configuration_has_a_finite_positive_price(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu
) -> None:
    problem = gemm(*shape, name)
    priced = price(problem, legal(problem, gpu), gpu)
    check_price(priced, ("tensor", "shared_memory", "l2", "dram", "latency", "launch"))
    check_traffic(priced, problem)


@given(shape=SHAPES, name=NAMES, gpu=GPUS, factor=st.floats(1, 4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_more_of_anything_is_never_slower(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu, factor: float
) -> None:
    problem = gemm(*shape, name)
    table = legal(problem, gpu)
    base = price(problem, table, gpu).time_us
    for better in (
        replace(gpu, l2_read_gb_per_s=gpu.l2_read_gb_per_s * factor),
        replace(gpu, smem_bytes_per_clk=gpu.smem_bytes_per_clk * factor),
        replace(gpu, fma_per_clk=gpu.fma_per_clk * factor),
        replace(gpu, convert_per_clk=gpu.convert_per_clk * factor),
    ):
        assert (price(problem, table, better).time_us <= base * (1 + 1e-9)).all()


def test_weights_are_read_once_and_rows_by_every_tile() -> None:
    problem = gemm(16, 8192, 8192, "bf16")
    priced = price(problem, one())
    weights, rows = 8192 * 8192 * 2, 16 * 8192 * 2
    assert priced.dram_read_bytes[0] == pytest.approx(weights + rows)
    assert priced.l2_read_bytes[0] == pytest.approx(weights + 128 * rows)
    # A split of K moves no byte more.
    split = price(problem, one(cluster=4))
    assert split.l2_read_bytes[0] == priced.l2_read_bytes[0]


def test_dram_binds_where_few_rows_meet_large_weights() -> None:
    for name in ("bf16", "e4m3-row", "deepseek-fp8", "int8-row", "mxfp8-e4m3"):
        problem = gemm(16, 8192, 8192, name)
        priced = price(problem, legal(problem))
        best = int(np.argmin(priced.time_us))
        binding = max(priced.terms_us, key=lambda term: priced.terms_us[term][best])
        assert binding == "dram"
        bound_us = problem.min_bytes / (H200.dram_read_gb_per_s * 1e3)
        assert bound_us < priced.time_us[best] < bound_us + 5.0


def test_scales_of_every_32_elements_cost_bytes_and_instructions() -> None:
    plain, mx = gemm(64, 24576, 1536, "e4m3-tensor"), gemm(64, 24576, 1536, "mxfp8-e4m3")
    both = [price(problem, one(block_m=64, stages=4)) for problem in (plain, mx)]
    codes = (64 + 24576) * 1536
    read = [priced.dram_read_bytes[0] for priced in both]
    assert read[1] - read[0] == pytest.approx(codes / 32, rel=1e-4)
    # Four units of a step, each with 64 multiplies and multiply-adds of a warp for 64 x 64.
    steps_of_busiest = 3 * 12
    least_us = steps_of_busiest * 4 * 64 / (H200.max_clock_mhz)
    assert both[0].terms_us["cuda_cores"][0] == 0
    assert both[1].terms_us["cuda_cores"][0] > least_us


def test_rows_beyond_the_memorys_pace_pay_for_their_scales() -> None:
    few, many = gemm(16, 8192, 8192, "mxfp8-e4m3"), gemm(2048, 8192, 8192, "mxfp8-e4m3")
    for problem, binding in ((few, "dram"), (many, "cuda_cores")):
        priced = price(problem, legal(problem))
        best = int(np.argmin(priced.time_us))
        assert max(priced.terms_us, key=lambda term: priced.terms_us[term][best]) == binding


def test_a_ring_that_keeps_too_few_bytes_under_way_is_slower() -> None:
    problem = gemm(16, 8192, 8192, "e4m3-row")
    shallow, deep = price(problem, one(stages=2)), price(problem, one(stages=8))
    assert deep.time_us[0] < 0.9 * shallow.time_us[0]


def test_few_tiles_gain_from_a_split_of_k() -> None:
    problem = gemm(16, 1024, 16384, "bf16")  # 16 tiles
    alone, split = price(problem, one()), price(problem, one(cluster=8))
    assert split.time_us[0] < 0.5 * alone.time_us[0]


def test_many_rows_are_left_to_the_family_of_large_tiles() -> None:
    problem = gemm(8192, 8192, 8192, "bf16")
    other = HopperGemm()
    large = sim.price(problem, other, other.legal_space(problem, H200.limits).accepted, H200)
    assert large.time_us.min() < price(problem, legal(problem)).time_us.min()


def test_larger_clusters_leave_multiprocessors_idle() -> None:
    """Nine tenths of 132 are 118: 29 clusters of four, or 14 of eight."""
    clusters = np.array([1, 2, 4, 8])
    assert placed_sms(H200, clusters, 0.9).tolist() == [132, 132, 116, 112]
    assert placed_sms(H200, np.array([8]), 0.01).tolist() == [8]


def test_ctas_of_a_cluster_wait_for_the_last_of_them() -> None:
    problem = gemm(64, 24576, 1536, "bf16")
    table = one(block_m=64, block_n=128, stages=3, cluster=2)
    alone = one(block_m=64, block_n=128, stages=3)
    longer = replace(HOPPER_SKINNY, cluster_wait_clk=2 * HOPPER_SKINNY.cluster_wait_clk)
    for rows, rises in ((table, True), (alone, False)):
        none = Compiled.of(1, {})
        now, then = (
            hopper_skinny_cost(problem, rows, H200, none, of).time_us[0]
            for of in (HOPPER_SKINNY, longer)
        )
        assert bool(then > now) is rises
