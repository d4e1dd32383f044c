"""The model of Hopper's weight-only product: laws, traffic, and what it prefers."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_laws import check_price, check_traffic

import sim
from sim.parameters import HOPPER_WEIGHT_ONLY
from tiles.kernels import ConfigTable
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.hopper_weight_only import HopperWeightOnly, HopperWeightOnlyConfig
from tiles.kernels.weight_only import TritonWeightOnly
from tiles.problems import Gemm, parse_problem
from tiles.recipes import recipe

KERNEL = HopperWeightOnly()
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")
PLAIN = {
    "block_m": 8, "block_n": 64, "warp_rows": 16, "warps_k": 4, "stages": 16, "per_sm": 0,
    "cluster": 1, "wgmma": False,
}  # fmt: skip


def gemm(m: int, n: int, k: int, name: str = "w4a16-g128") -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def legal(problem: Gemm, gpu: sim.Gpu = H200) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted


def price(problem: Gemm, table: ConfigTable, gpu: sim.Gpu = H200) -> sim.PricedTable:
    return sim.price(problem, KERNEL, table, gpu)


def one(**changes: int) -> ConfigTable:
    return ConfigTable.of([HopperWeightOnlyConfig.from_dict(PLAIN | changes)])


SHAPES = st.tuples(
    st.integers(1, 256),
    st.integers(1, 600).map(lambda n: 16 * n),
    st.integers(1, 600).map(lambda k: 16 * k),
)
NAMES = st.sampled_from(["w4a16-g128", "w8a16"])
GPUS = st.sampled_from([H200, H100])


@given(shape=SHAPES, name=NAMES, gpu=GPUS)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_legal_configuration_has_a_finite_positive_price(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu
) -> None:
    problem = gemm(*shape, name)
    priced = price(problem, legal(problem, gpu), gpu)
    check_price(
        priced, ("tensor", "cuda_cores", "shared_memory", "l2", "dram", "latency", "launch")
    )
    check_traffic(priced, problem, l2=False)


@given(shape=SHAPES, factor=st.floats(1, 4))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_more_bandwidth_is_never_slower(shape: tuple[int, int, int], factor: float) -> None:
    problem = gemm(*shape)
    faster = replace(H200, dram_read_gb_per_s=H200.dram_read_gb_per_s * factor)
    table = legal(problem)
    # Little's law asks for more bytes in flight at more bandwidth: never for more time.
    assert (price(problem, table, faster).time_us <= price(problem, table).time_us + 1e-9).all()


def test_a_deeper_ring_brings_more_bytes_a_second() -> None:
    problem = gemm(1, 8192, 8192)
    times = [price(problem, one(stages=s)).terms_us["dram"][0] for s in (4, 8, 16, 32)]
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.2 * times[-1]


def test_tiles_that_ctas_share_cost_their_sums() -> None:
    problem = gemm(1, 128 * 64, 8192)
    whole, shared = (price(problem, one(per_sm=n)) for n in (0, 1))
    assert shared.terms_us["prologue_epilogue"][0] > whole.terms_us["prologue_epilogue"][0] + 1


def test_the_warp_that_loads_limits_narrow_tiles_whatever_their_groups() -> None:
    """A CTA a multiprocessor: an H200 took 12.9 us with 4 groups and 13.5 us with 8."""
    problem = gemm(1, 4096, 14336)
    narrow = {"block_n": 32, "warp_rows": 32, "stages": 32}
    four, eight = (price(problem, one(**narrow, warps_k=n)) for n in (4, 8))
    for priced in (four, eight):
        assert 0.85 < priced.time_us[0] / 13.2 < 1.15
    clk = eight.terms_us["latency"][0] * H200.max_clock_mhz / (14336 // 128)
    assert clk == pytest.approx(HOPPER_WEIGHT_ONLY.request_clk)
    # Twice the rows a stage ask for half the stages of the same weights.
    wide = price(problem, one(**narrow | {"block_n": 64, "cluster": 2}, warps_k=8))
    assert wide.terms_us["latency"][0] == pytest.approx(eight.terms_us["latency"][0] / 2)
    assert 0.85 < wide.time_us[0] / 12.2 < 1.15


def test_nine_warps_of_a_hundred_registers_leave_no_room_for_a_second_cta() -> None:
    """An H200 took 18.1 us for two CTAs a multiprocessor, one after the other, 10.5 us for one.

    That was when the warp that loads took 91 instructions for a stage.
    """
    problem, then = gemm(1, 4096, 4096), replace(HOPPER_WEIGHT_ONLY, request_clk=470.0)
    narrow = {"block_n": 16, "warp_rows": 16, "warps_k": 8, "stages": 32}
    facts = CompileFacts(
        compiler="nvrtc 13.0", target="sm_90a", threads=288, smem_bytes=108048, registers=106,
        stack_bytes=0, pipeline_depth=32, mma="mma",
    )  # fmt: skip
    lean = replace(facts, registers=64)
    one_by_one, together = (
        sim.price(
            problem, KERNEL, one(**narrow), H200, {0: made}, parameters={KERNEL.name: then}
        ).time_us[0]
        for made in (facts, lean)
    )
    assert 0.85 < one_by_one / 18.1 < 1.15
    assert together < 0.75 * one_by_one


def test_a_cluster_reads_x_less_often() -> None:
    """As many CTAs either way: those of a cluster exchange their sums."""
    problem = gemm(8, 4096, 14336)
    flat, cluster = one(block_n=32), one(block_n=128, warp_rows=32, cluster=4)
    short, tall = price(problem, flat), price(problem, cluster)
    assert tall.l2_read_bytes[0] < 0.7 * short.l2_read_bytes[0]  # X by 32 tiles instead of 128
    assert tall.dram_read_bytes[0] == short.dram_read_bytes[0]
    ends = [p.terms_us["prologue_epilogue"][0] for p in (short, tall)]
    assert ends[1] > ends[0] + 0.3


def test_clusters_of_two_beat_larger_ones_where_tiles_are_few() -> None:
    """An H200 took 11.5 us in clusters of two, 19.1 and 19.8 us in clusters of four and eight."""
    problem = gemm(1, 4096, 14336)
    two, four, eight = (
        price(problem, one(block_n=32 * n, warp_rows=32, warps_k=groups, cluster=n)).time_us[0]
        for n, groups in ((2, 4), (4, 4), (8, 2))
    )
    assert 0.85 < two / 11.5 < 1.15
    assert min(four, eight) > 1.2 * two


@pytest.mark.parametrize("shape", [(28672, 4096), (8192, 8192), (57344, 8192)])
def test_decode_steps_of_large_layers_stream_weights(shape: tuple[int, int]) -> None:
    problem = gemm(1, *shape)
    priced = price(problem, legal(problem))
    best = int(np.argmin(priced.time_us))
    assert max(priced.terms_us, key=lambda name: priced.terms_us[name][best]) == "dram"


@pytest.mark.parametrize("n", [8192, 28672, 57344])
def test_prefill_takes_the_copy_engine_and_needs_no_split(n: int) -> None:
    """As an H200 does: 57344 x 8192 with a split of K took 4.47 ms, its share of others' 3.4 ms."""
    problem = parse_problem(f"gemm:2048x{n}x8192:w4a16-g128:bf16")
    family = TritonWeightOnly()
    table = family.legal_space(problem, H200.limits).accepted
    time_us = sim.price(problem, family, table, H200).time_us
    best = table.config(int(np.argmin(time_us)))
    assert best.to_dict()["tma"]
    assert best.to_dict()["fold"]
    # Where thousands of tiles fill the GPU a split is nearly free with the copy engine, and no use.
    assert time_us[table["split_k"] == 1].min() < 1.02 * time_us.min()
    # Without it the model tells a third of what it costs.
    assert time_us[~table["tma"] & (table["split_k"] == 2)].min() > 1.07 * time_us.min()


def test_warpgroups_take_less_of_shared_memory() -> None:
    problem = gemm(32, 8192, 8192)
    fields = {"block_m": 32, "block_n": 128, "warps_k": 2, "stages": 8, "cluster": 2}
    plain = price(problem, one(**fields, warp_rows=32)).terms_us
    wide = price(problem, one(**fields, wgmma=True)).terms_us
    assert wide["shared_memory"][0] < 0.8 * plain["shared_memory"][0]
