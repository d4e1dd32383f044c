"""The model of Hopper's weight-only product for many rows: laws, traffic, what it prefers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_laws import check_price, check_traffic

import sim
from sim.hopper_weight_prefill_model import hopper_weight_prefill_cost, panel_instructions
from sim.parameters import HOPPER_WEIGHT_PREFILL
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_weight_prefill import HopperWeightPrefill, HopperWeightPrefillConfig
from tiles.problems import Gemm
from tiles.recipes import recipe

KERNEL = HopperWeightPrefill()
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")
PLAIN = {
    "block_m": 128, "block_n": 256, "stages": 8, "cluster": 1, "group_m": 8, "store_buffers": 1,
}  # fmt: skip


def gemm(m: int, n: int, k: int, name: str = "w4a16-g128") -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def legal(problem: Gemm, gpu: sim.Gpu = H200) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted


def price(problem: Gemm, table: ConfigTable, gpu: sim.Gpu = H200) -> sim.PricedTable:
    return sim.price(problem, KERNEL, table, gpu)


def one(**changes: int) -> ConfigTable:
    return ConfigTable.of([HopperWeightPrefillConfig.from_dict(PLAIN | changes)])


SHAPES = st.tuples(
    st.integers(64, 9000),
    st.integers(1, 600).map(lambda n: 16 * n),
    st.integers(1, 600).map(lambda k: 16 * k),
)


@given(
    shape=SHAPES,
    name=st.sampled_from(["w4a16-g128", "w8a16"]),
    gpu=st.sampled_from([H200, H100]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_legal_configuration_has_a_finite_positive_price(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu
) -> None:
    problem = gemm(*shape, name)
    priced = price(problem, legal(problem, gpu), gpu)
    check_price(priced, ("tensor", "cuda_cores", "shared_memory", "dram", "l2", "launch"))
    check_traffic(priced, problem, l2=False)


@given(shape=SHAPES, factor=st.floats(1, 4))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_more_bandwidth_is_never_slower(shape: tuple[int, int, int], factor: float) -> None:
    problem = gemm(*shape)
    faster = replace(H200, dram_read_gb_per_s=H200.dram_read_gb_per_s * factor)
    table = legal(problem)
    assert (price(problem, table, faster).time_us <= price(problem, table).time_us + 1e-9).all()


@pytest.mark.parametrize(
    ("name", "fields", "counted"),
    [("w4a16-g128", {}, 352), ("w4a16-g128", {"block_m": 256, "block_n": 128}, 207)],
)
def test_instructions_are_those_of_the_compiled_loop(
    name: str, fields: dict[str, int], counted: int
) -> None:
    found = panel_instructions(gemm(2048, 4096, 4096, name), one(**fields))[0]
    assert found == pytest.approx(counted, rel=0.1)


def test_decoding_hides_behind_products_of_large_tiles() -> None:
    problem = gemm(2048, 4096, 4096)
    for fields in ({}, {"block_m": 256, "block_n": 128}, {"block_n": 128}):
        terms = price(problem, one(**fields)).terms_us
        assert terms["cuda_cores"][0] < 0.6 * terms["tensor"][0]
    narrow = price(problem, one(block_m=64, block_n=256)).terms_us
    assert narrow["cuda_cores"][0] > 0.5 * narrow["tensor"][0]


def test_a_cluster_asks_the_l2_for_less() -> None:
    """Of a stage of 128 rows by 128 columns of X and 256 rows of W: half of X."""
    problem = gemm(2048, 8192, 8192)
    alone, two = (price(problem, one(cluster=n)) for n in (1, 2))
    x, w = 2048 * 8192 * 2.0 / 16, problem.recipe.weight.storage_bytes(8192, 8192) / 32
    assert alone.l2_read_bytes[0] == pytest.approx(16 * 32 * (x + w))
    assert two.l2_read_bytes[0] == pytest.approx(16 * 16 * (x + 2 * w))
    assert two.terms_us["l2"][0] < 0.75 * alone.terms_us["l2"][0]


@pytest.mark.parametrize("shape", [(2048, 4096, 4096), (2048, 57344, 8192)])
def test_prefill_is_bound_by_its_products(shape: tuple[int, int, int]) -> None:
    problem = gemm(*shape)
    priced = price(problem, legal(problem))
    best = int(np.argmin(priced.time_us))
    assert max(priced.terms_us, key=lambda name: priced.terms_us[name][best]) == "tensor"
    assert priced.terms_us["tensor"][best] > 0.75 * priced.time_us[best]


def test_few_rows_do_not_hide_a_warpgroups_instructions() -> None:
    """2048x6144x4096 took an H200 135 us in tiles of 256 x 128 and 233 us in those of 64 x 128."""
    problem = gemm(2048, 6144, 4096)
    tall = price(problem, one(block_m=256, block_n=128, stages=3, store_buffers=2))
    flat = price(problem, one(block_m=64, block_n=128, stages=12, cluster=2, group_m=4))
    assert tall.time_us[0] == pytest.approx(135.3, rel=0.12)
    assert flat.time_us[0] == pytest.approx(232.8, rel=0.12)
    # Where nothing else lasts as long, a round is half of the products and the instructions.
    table = one(block_m=64, block_n=128, stages=12)
    less, more = (
        hopper_weight_prefill_cost(
            problem, table, H200, replace(HOPPER_WEIGHT_PREFILL, instruction_clk=clk)
        ).time_us[0]
        for clk in (20.0, 30.0)
    )
    rounds = -(-32 * 48 // 132) * 32
    added_us = 10.0 * panel_instructions(problem, table)[0] * rounds / 1.98e3
    assert more - less == pytest.approx(added_us, rel=0.02)
