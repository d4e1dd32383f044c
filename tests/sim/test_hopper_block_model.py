"""The model of the Hopper GEMM with scales in blocks: laws, and what binds where."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_laws import check_price

import sim
from sim.hopper_block_model import promotion_slots
from sim.parameters import HOPPER_BLOCK
from tiles.kernels import ConfigTable
from tiles.kernels.gemm import TritonGemm
from tiles.kernels.hopper_block_gemm import HopperBlockGemm, HopperBlockGemmConfig
from tiles.problems import Gemm
from tiles.recipes import RECIPES, recipe

KERNEL = HopperBlockGemm()
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")
SHAPES = st.tuples(
    st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    st.integers(1, 600).map(lambda n: 16 * n),
    st.integers(1, 600).map(lambda k: 16 * k),
)


def gemm(m: int, n: int, k: int, name: str, out: str = "bf16") -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name), out=out)


SERVED = sorted(
    name for name in RECIPES if KERNEL.refusal(gemm(64, 64, 64, name), H200.limits) is None
)
OUTPUTS = st.sampled_from(["bf16", "fp32", "int8.b32x32", "int8.b64x64+sr", "e4m3fn.b32x32"])


def legal(problem: Gemm, gpu: sim.Gpu = H200) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted


def one(**changes: int) -> ConfigTable:
    plain = {"block_m": 128, "block_n": 128, "stages": 5, "cluster": 1, "group_m": 8}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
    return ConfigTable.of([HopperBlockGemmConfig.from_dict(plain | changes)])


def price(problem: Gemm, table: ConfigTable, gpu: sim.Gpu = H200) -> sim.PricedTable:
    return sim.price(problem, KERNEL, table, gpu)


@given(
    shape=SHAPES,
    name=st.sampled_from(SERVED),
    out=OUTPUTS,
    gpu=st.sampled_from([H200, H100]),
    factor=st.floats(1, 4),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_prices_are_finite_and_more_of_anything_is_never_slower(
    shape: tuple[int, int, int], name: str, out: str, gpu: sim.Gpu, factor: float
) -> None:
    problem = gemm(*shape, name, out)
    table = legal(problem, gpu)
    priced = price(problem, table, gpu)
    check_price(priced, ("tensor", "cuda_cores", "dram", "l2", "launch"))
    written = problem.output.storage_bytes(*shape[:2])
    assert (priced.dram_write_bytes == written).all()
    for better in (
        replace(gpu, dram_read_gb_per_s=gpu.dram_read_gb_per_s * factor),
        replace(gpu, l2_read_gb_per_s=gpu.l2_read_gb_per_s * factor),
        replace(gpu, sustained_clock_mhz=gpu.sustained_clock_mhz * factor),
        replace(gpu, convert_per_clk=gpu.convert_per_clk * factor),
        replace(
            gpu,
            tensor_flop_per_clk={k: v * factor for k, v in gpu.tensor_flop_per_clk.items()},
        ),
    ):
        assert (price(problem, table, better).time_us <= priced.time_us * (1 + 1e-9)).all()


@pytest.mark.parametrize(
    ("name", "changes", "slots"),
    [
        ("jetfire", {}, 627),
        ("jetfire", {"parts": 2}, 650),
        ("jetfire", {"consumers": 4}, 342),
        ("jetfire", {"consumers": 4, "parts": 2}, 363),
        ("jetfire", {"parts": 2, "run": 8}, 420),
        ("jetfire", {"parts": 2, "run": 8, "sets": 1}, 428),
        ("jetfire", {"parts": 2, "run": 4}, 470),
        ("jetfire", {"parts": 2, "run": 4, "sets": 1}, 515),
        ("jetfire", {"consumers": 4, "run": 4}, 264),
        ("jetfire-64", {}, 329),
        ("jetfire-64", {"parts": 2, "run": 4}, 274),
        ("jetfire-64", {"parts": 2}, 363),
        ("mxfp8-e4m3", {}, 663),
        ("mxfp8-e4m3", {"parts": 2}, 696),
        ("mxfp8-e4m3", {"block_m": 256, "block_n": 64, "parts": 2}, 667),
        ("mxfp8-e4m3", {"consumers": 4}, 372),
        ("mxfp8-e4m3", {"consumers": 4, "parts": 2}, 397),
        ("mxint8", {}, 927),
        ("e4m3-b128", {}, 124),
        ("e4m3-b1x128", {}, 205),
    ],
)
def test_slots_are_those_of_the_compiled_loop(
    name: str, changes: dict[str, int], slots: int
) -> None:
    found = promotion_slots(gemm(4096, 4096, 4096, name), one(**changes))[0]
    assert found == pytest.approx(slots, rel=0.06)


def test_products_and_promotion_hide_as_much_of_each_other_as_was_measured() -> None:
    """2 x 64x128 int8 for 32 of K: products alone 128 clocks, their promotion 259, together 337."""
    of = HOPPER_BLOCK
    assert 259 + of.serial_share * 128 == pytest.approx(337, rel=0.01)
    problem = gemm(4096, 4096, 4096, "int8-b128")
    both, alone = (price(problem, one(sets=sets)).time_us[0] for sets in (2, 1))
    terms = price(problem, one()).terms_us
    assert max(terms["tensor"], terms["cuda_cores"]) < both < alone
    assert alone > terms["tensor"] + terms["cuda_cores"]


def test_fewer_buffers_than_a_load_takes_steps_show() -> None:
    """Measured at 4096 cubed, int8-b128, cluster of 2: 190 us with 3 stages, 134 with 6.

    The model tells a sixth of it.
    """
    problem = gemm(4096, 4096, 4096, "int8-b128")
    few, many = (price(problem, one(cluster=2, stages=n)).time_us[0] for n in (3, 6))
    assert 1.06 < few / many < 1.42


def test_small_blocks_are_bound_by_the_cuda_cores_and_large_ones_are_not() -> None:
    bindings = {
        name: price(gemm(8192, 8192, 8192, name), one(cluster=2)).prediction(0).binding
        for name in ("jetfire", "mxfp8-e4m3", "e4m3-b128")
    }
    assert bindings == {
        "jetfire": "cuda_cores",
        "mxfp8-e4m3": "cuda_cores",
        "e4m3-b128": "tensor",
    }


def test_larger_blocks_are_faster_and_codes_cost_instructions() -> None:
    times = [
        price(gemm(4096, 4096, 4096, name), one()).time_us[0]
        for name in ("jetfire", "jetfire-64", "jetfire-128")
    ]
    assert times == sorted(times, reverse=True)
    plain, codes, stochastic = (
        price(gemm(4096, 4096, 1024, "jetfire", out), one()).time_us[0]
        for out in ("bf16", "int8.b32x32", "int8.b32x32+sr")
    )
    assert plain < codes < stochastic


def test_two_sets_of_accumulators_beat_one_where_promotion_binds() -> None:
    problem = gemm(4096, 4096, 4096, "jetfire")
    assert price(problem, one(sets=1)).time_us[0] > price(problem, one()).time_us[0]


@pytest.mark.parametrize(("name", "least"), [("jetfire", 1.4), ("jetfire-64", 1.2)])
def test_it_is_told_to_beat_triton_where_it_was_built_to(name: str, least: float) -> None:
    problem = gemm(4096, 4096, 4096, name)
    other = TritonGemm()
    theirs = sim.price(
        problem, other, other.legal_space(problem, H200.limits).accepted, H200
    ).time_us.min()
    assert theirs > least * price(problem, legal(problem)).time_us.min()


def test_a_lone_tile_waits_for_what_it_has_under_way() -> None:
    """Little's law: one CTA keeps five stages in flight, not five on every multiprocessor."""
    problem, table = gemm(128, 128, 16384, "int8-b128"), one()
    priced = price(problem, table)
    in_flight = 5 * (128 + 128) * 128
    least_ns = priced.dram_read_bytes[0] * H200.dram_latency_ns / in_flight
    assert priced.terms_us["dram"][0] * 1e3 >= least_ns
