"""The Hopper GEMM's model: laws, exact traffic on a small case, and the shape of its answers."""

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from price_laws import check_price, check_traffic

import sim
from sim.hopper_gemm_model import (
    chained_step_clk,
    hopper_gemm_cost,
    ring_exposed_clk,
    smem_port_clk,
)
from sim.parameters import HOPPER_GEMM
from tiles.kernels import ConfigTable
from tiles.kernels.gemm import TritonGemm
from tiles.kernels.hopper_gemm import HopperGemm, HopperGemmConfig
from tiles.problems import Gemm
from tiles.recipes import RECIPES, recipe

KERNEL = HopperGemm()
H200, H100 = sim.load_gpu("h200"), sim.load_gpu("h100")


def gemm(m: int, n: int, k: int, name: str) -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe(name))


def legal(problem: Gemm, gpu: sim.Gpu) -> ConfigTable:
    return KERNEL.legal_space(problem, gpu.limits).accepted


def one(**changes: int | bool) -> ConfigTable:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 8}
    config = plain | {"pingpong": False, "store_buffers": 1} | changes
    return ConfigTable.of([HopperGemmConfig.from_dict(config)])


def price(problem: Gemm, table: ConfigTable, gpu: sim.Gpu = H200) -> sim.PricedTable:
    return sim.price(problem, KERNEL, table, gpu)


#: Rows hold 16 bytes or a multiple; that is the caller's to see to.
SHAPES = st.tuples(
    st.one_of(st.integers(1, 300), st.integers(1, 9000)),
    st.integers(1, 600).map(lambda n: 16 * n),
    st.integers(1, 600).map(lambda k: 16 * k),
)
SERVED = sorted(
    name for name in RECIPES if KERNEL.refusal(gemm(64, 64, 64, name), H200.limits) is None
)
NAMES = st.sampled_from(SERVED)
GPUS = st.sampled_from([H200, H100])


def test_every_scale_mode_is_among_the_recipes() -> None:
    assert {"bf16", "fp16", "unit-scaling", "e4m3-tensor", "int8-row", "deepseek-fp8"} <= set(
        SERVED
    )
    assert "int8-b128" in SERVED
    assert "jetfire" not in SERVED


@given(shape=SHAPES, name=NAMES, gpu=GPUS)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_every_legal_configuration_has_a_finite_positive_price(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu
) -> None:
    problem = gemm(*shape, name)
    priced = price(problem, legal(problem, gpu), gpu)
    check_price(priced, ("tensor", "dram", "l2", "launch"))
    check_traffic(priced, problem)


@given(shape=SHAPES, name=NAMES, gpu=GPUS, factor=st.floats(1, 4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_more_of_anything_is_never_slower(
    shape: tuple[int, int, int], name: str, gpu: sim.Gpu, factor: float
) -> None:
    problem = gemm(*shape, name)
    table = legal(problem, gpu)
    base = price(problem, table, gpu).time_us
    for better in (
        replace(
            gpu,
            dram_read_gb_per_s=gpu.dram_read_gb_per_s * factor,
            dram_copy_gb_per_s=gpu.dram_copy_gb_per_s * factor,
        ),
        replace(gpu, l2_read_gb_per_s=gpu.l2_read_gb_per_s * factor),
        replace(gpu, sustained_clock_mhz=gpu.sustained_clock_mhz * factor),
        replace(gpu, smem_bytes_per_clk=gpu.smem_bytes_per_clk * factor),
        replace(gpu, fma_per_clk=gpu.fma_per_clk * factor),
        replace(gpu, convert_per_clk=gpu.convert_per_clk * factor),
        replace(
            gpu,
            tensor_flop_per_clk={k: v * factor for k, v in gpu.tensor_flop_per_clk.items()},
        ),
    ):
        assert (price(problem, table, better).time_us <= base * (1 + 1e-9)).all()


@given(shape=SHAPES, name=NAMES)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_larger_problems_are_never_faster_at_their_best(
    shape: tuple[int, int, int], name: str
) -> None:
    problem = gemm(*shape, name)
    base = price(problem, legal(problem, H200)).time_us.min()
    for side in ("m", "n", "k"):
        if side == "k" and problem.k * 2 > 133144:
            continue
        doubled = replace(problem, **{side: 2 * getattr(problem, side)})
        # Of few rows: tiles more than twice as high as the product are not tried, but would win.
        assert price(doubled, legal(doubled, H200)).time_us.min() >= base * 0.95, side


def test_traffic_of_a_small_product_is_exact() -> None:
    problem = gemm(1024, 1024, 1024, "e4m3-row")
    scales = 1024 * 4
    side = 1024 * 1024 + scales
    alone = price(problem, one())
    assert alone.dram_read_bytes[0] == pytest.approx(2 * side)
    assert alone.dram_write_bytes[0] == 2 * 1024 * 1024
    # 8 x 8 tiles: each of A's and of B's is fetched eight times.
    assert alone.l2_read_bytes[0] == pytest.approx(16 * side)
    # Two CTAs share each tile of B.
    shared = price(problem, one(cluster=2))
    assert shared.l2_read_bytes[0] == pytest.approx(12 * side)
    wide = price(problem, one(block_n=256))
    assert wide.l2_read_bytes[0] == pytest.approx(12 * side)
    assert shared.dram_read_bytes[0] == wide.dram_read_bytes[0] == alone.dram_read_bytes[0]


def test_terms_of_a_large_product_follow_from_rates() -> None:
    problem = gemm(8192, 8192, 8192, "bf16")
    priced = price(problem, one(block_n=256, cluster=2, stages=4))
    # 64 x 32 tiles over 132 multiprocessors: 16 rounds.
    rounds = -(-64 * 32 // 132)
    assert rounds == 16
    tensor_clk = 2 * 128 * 256 * 8192 / (H200.tensor_flop_per_clk["bf16"] * H200.tensor_share)
    # Tensor cores that are nearly always busy hold the clock below the sustained one.
    mhz = rounds * tensor_clk / priced.terms_us["tensor"][0]
    assert 0.93 * H200.sustained_clock_mhz < mhz < H200.sustained_clock_mhz
    assert priced.terms_us["cuda_cores"][0] == 0
    assert priced.prediction(0).binding == "tensor"


def test_waves_show() -> None:
    """132 tiles take one round, 144 two."""
    fits, spills = gemm(128 * 12, 128 * 11, 8192, "bf16"), gemm(128 * 12, 128 * 12, 8192, "bf16")
    times = [price(p, one(group_m=1)).time_us[0] for p in (fits, spills)]
    assert times[1] > 1.6 * times[0]


def test_promotion_costs_and_integers_cost_more() -> None:
    plain, promoted, integer = (
        price(gemm(4096, 4096, 4096, name), one(stages=6))
        for name in ("e4m3-row", "deepseek-fp8", "int8-b128")
    )
    assert plain.terms_us["cuda_cores"][0] == 0
    assert 0 < promoted.terms_us["cuda_cores"][0] < integer.terms_us["cuda_cores"][0]
    assert plain.time_us[0] < promoted.time_us[0] < integer.time_us[0]


def test_a_chained_step_is_both_products_or_one_warpgroups_round() -> None:
    products, promotion = np.array([512.0, 512.0, 2048.0]), np.array([0.0, 128.0, 128.0])
    none, some, long = chained_step_clk(products, promotion).tolist()
    assert none == max(512, 256 + HOPPER_GEMM.turn_clk)
    assert some == pytest.approx(256 + 128 * HOPPER_GEMM.promotion_stretch + HOPPER_GEMM.turn_clk)
    assert long == 2048  # the round of a warpgroup is shorter: nothing but the products shows
    floats = chained_step_clk(products, promotion, narrow_floats=True)
    assert floats[1] - some == pytest.approx(HOPPER_GEMM.float_turn_clk)
    assert floats[2] == long


def test_the_port_of_shared_memory_reads_for_every_64_rows_and_is_written_beside() -> None:
    """In clocks: a step has 128 bytes of every row, and the port moves as many a clock."""
    high, wide = np.array([64, 128, 128]), np.array([64, 64, 256])
    assert smem_port_clk(H200, high, wide, 0.0).tolist() == [128.0, 256.0, 640.0]
    written = smem_port_clk(H200, high, wide, 0.5) - smem_port_clk(H200, high, wide, 0.0)
    assert written.tolist() == [64.0, 96.0, 192.0]


def test_conversions_before_additions_show_beside_two_sets_and_not_in_chains() -> None:
    """Of 128 x 128 sums: 257 clocks of conversions, 130 of multiply-adds."""
    shape = (4096, 4096, 14336)
    # Neither the power limit nor the L2 in the way.
    quick = replace(
        H200, sustained_clock_mhz=3000.0, l2_read_gb_per_s=1e6, l2_bytes_per_clk_per_sm=1e4
    )

    def per_step(name: str, **fields: int | bool) -> float:
        """Clocks of a step of 8 rounds at the highest clock, ends left out."""
        times = [
            sim.price(gemm(*shape[:2], k, name), KERNEL, one(stages=6, **fields), quick).time_us[0]
            for k in (shape[2], shape[2] // 2)
        ]
        return float((times[0] - times[1]) * 1.98e3 / 8 / (shape[2] / 2 / 128))

    in_turn = per_step("int8-b128") - per_step("e4m3-b128")
    assert in_turn == pytest.approx(HOPPER_GEMM.shown_share * 128 * 128 / 63.7, rel=0.1)
    chained = per_step("int8-b128", chained=True) - per_step("e4m3-b128", chained=True)
    slower = 128 * 128 * (1 / 63.7 - 1 / 126.5) * HOPPER_GEMM.promotion_stretch
    assert chained == pytest.approx(slower - HOPPER_GEMM.float_turn_clk, rel=0.15)


def test_a_chained_tile_shows_its_ends_but_for_one_product() -> None:
    """16384 x 4096 x 1024 has eight steps a tile: an H200 took 131 us with tiles of 256 x 128."""
    problem = gemm(16384, 4096, 1024, "deepseek-fp8")
    tile = one(block_m=256, block_n=128, stages=4, chained=True, store_buffers=1)
    found = price(problem, tile)
    rounds = -(-64 * 32 // 132)
    ends_clk = found.terms_us["prologue_epilogue"][0] * 1e3 * 1.98 / rounds
    assert 500 < ends_clk < 3000
    assert found.time_us[0] == pytest.approx(131, rel=0.1)


def test_a_cluster_shares_the_larger_tile() -> None:
    """Tiles of 256 x 128 share A: two CTAs fetch 256 + 2 x 128 rows for 2 x 384."""
    problem = gemm(8192, 8192, 8192, "e4m3-row")
    for tile in ({"block_m": 256, "block_n": 128}, {"block_m": 128, "block_n": 256}):
        alone, pair = (
            price(problem, one(**tile, cluster=cluster, stages=4)).l2_read_bytes[0]
            for cluster in (1, 2)
        )
        assert pair / alone == pytest.approx(512 / 768, rel=1e-3)


def test_wide_tiles_hide_more_of_the_turns_of_chained_products() -> None:
    problem = gemm(8192, 8192, 8192, "deepseek-fp8")
    in_turn, chained, wide = (
        price(problem, one(stages=5, **fields))
        for fields in ({}, {"chained": True}, {"chained": True, "block_n": 192})
    )
    # At 4096 cubed (e4m3-b128) an H200 took 109.5 us in turn and 127.1 us chained.
    assert max(wide.time_us[0], in_turn.time_us[0]) < chained.time_us[0]
    assert chained.terms_us["cuda_cores"][0] > 0
    assert chained.terms_us["prologue_epilogue"][0] < in_turn.terms_us["prologue_epilogue"][0]
    # 4096 x 2112 fills three rounds of 132 tiles of 128 x 176, and five less well of 128 x 128.
    narrow = gemm(4096, 2112, 7168, "deepseek-fp8")
    fitting, other = (
        price(narrow, one(stages=5, chained=True, block_n=n)).time_us[0] for n in (176, 128)
    )
    assert fitting < 0.9 * other


def test_a_short_ring_exposes_latency() -> None:
    problem = gemm(4096, 4096, 4096, "e4m3-row")
    low = {"block_m": 64, "block_n": 64, "pingpong": True, "cluster": 2}
    three, eight = (price(problem, one(**low, stages=s)) for s in (3, 8))
    assert three.terms_us["latency"][0] > eight.terms_us["latency"][0]
    assert three.time_us[0] > eight.time_us[0]


def test_a_ring_of_buffers_hides_what_its_length_times_a_step_covers() -> None:
    busy, clock = np.array([400.0, 400.0, 4000.0]), np.full(3, 2.0)
    of = replace(HOPPER_GEMM, loaded_latency=1.0, ring_clk=99.0, cluster_clk=198.0, held_steps=2.0)
    given = {"clock": clock, "parameters": of}
    alone, pair = (
        ring_exposed_clk(H200, busy, np.array([3, 8, 3]), np.full(3, cluster), **given)
        for cluster in (1, 2)
    )
    # 400 ns from DRAM by descriptor and 50 of barriers: 900 clocks, and two steps of 400.
    assert alone == pytest.approx([(900 + 800) / 3 - 400, 0, 0])
    assert pair == pytest.approx([(900 + 200 + 800) / 3 - 400, 0, 0])


def test_a_product_of_half_the_rows_takes_no_longer() -> None:
    for name in ("bf16", "e4m3-row", "int8-row", "deepseek-fp8"):
        few, more = (gemm(m, 4096, 4096, name) for m in (64, 128))
        times = [price(p, legal(p, H200)).time_us.min() for p in (few, more)]
        # Clusters that share B need two tiles of rows, and are worth a little.
        assert times[0] < 1.04 * times[1], name


def test_turns_hide_the_epilogue_of_short_products() -> None:
    problem = gemm(8192, 8192, 512, "bf16")
    shared, turns = (price(problem, one(pingpong=flag)).time_us[0] for flag in (False, True))
    assert turns < shared


@pytest.mark.parametrize(
    ("name", "least"),
    [("bf16", 1.0), ("deepseek-fp8", 1.15), ("int8-b128", 1.1), ("int8-row", 1.0)],
)
def test_it_is_told_to_beat_the_other_family_where_it_was_built_to(name: str, least: float) -> None:
    problem = gemm(4096, 4096, 4096, name)
    other = TritonGemm()
    table = other.legal_space(problem, H200.limits).accepted
    theirs = sim.price(problem, other, table, H200).time_us.min()
    assert theirs > least * price(problem, legal(problem, H200)).time_us.min()


def test_twelve_recipes_are_priced_in_a_tenth_of_a_second() -> None:
    """CPU time, because the machine that runs the tests may be busy with others."""
    jobs = [gemm(4096, 4096, 4096, name) for name in SERVED[:12]]
    tables = [legal(problem, H200) for problem in jobs]
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for problem, table in zip(jobs, tables, strict=True):
            price(problem, table)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


def test_a_cluster_costs_clocks_of_every_step() -> None:
    """Of two CTAs a cluster, 4096 cubed took 4 % longer than the model told, and of one none."""
    problem = gemm(4096, 4096, 4096, "int8-b128")
    alone, pair = (price(problem, one(cluster=n)) for n in (1, 2))
    dearer = replace(HOPPER_GEMM, cluster_step_clk=HOPPER_GEMM.cluster_step_clk * 2)
    for table, rises in ((one(cluster=1), False), (one(cluster=2), True)):
        now, then = (
            hopper_gemm_cost(problem, table, H200, parameters).time_us[0]
            for parameters in (HOPPER_GEMM, dearer)
        )
        assert bool(then > now) is rises
    assert pair.terms_us["l2"][0] < alone.terms_us["l2"][0]
