"""Baselines: hand values with their units, and what each leaves out."""

from dataclasses import replace

import numpy as np
import pytest
from measured_cases import FACTS, H200, gemm_table, hopper_table, measured

import sim
from sim.evaluation.baselines.gemm_view import GemmView, gemm_view
from sim.evaluation.baselines.learned import BoostedTrees, NearestCopy, features
from sim.evaluation.baselines.own import CostModelAsItIs, Roofline
from sim.evaluation.baselines.published import (
    PUBLISHED,
    deepgemm_cycles,
    helion_choice,
    helion_distance,
    origami_us,
    triton_model_us,
)
from sim.evaluation.baselines.reference import NoiseFloor, RandomChoice
from tiles.kernels import ConfigTable
from tiles.kernels.hopper_skinny import HopperSkinnyConfig
from tiles.problems import Problem, parse_problem

CUBE = "gemm:4096x4096x4096:bf16:bf16"


def view(text: str = CUBE, table: ConfigTable | None = None) -> GemmView:
    found = gemm_view(parse_problem(text), gemm_table() if table is None else table, H200)
    assert found is not None
    return found


def test_the_view_reads_every_familys_fields() -> None:
    triton = view(table=gemm_table(block_k=[32], num_warps=[8]))
    assert (triton.block_k[0], triton.warps[0], triton.stages[0]) == (32, 8, 3)
    hopper = view("gemm:4096x4096x4096:e4m3-row:bf16", hopper_table())
    # 128 bytes of K a stage: 128 elements of a byte.
    assert (hopper.block_k[0], hopper.warps[0], hopper.stages[0]) == (128, 8, 4)
    assert (hopper.a_bytes, hopper.c_bytes, hopper.rate) == (1.0, 2.0, 8192)
    assert view().rate == 4096
    assert view("gemm:4096x4096x4096:w4a16-g128:bf16").rate == 4096


@pytest.mark.parametrize("text", ["transpose:512x512:int8", "batched_gemm:8x64x64x64:bf16:kn:bf16"])
def test_published_rules_answer_for_plain_products_alone(text: str) -> None:
    problem: Problem = parse_problem(text)
    assert gemm_view(problem, gemm_table(), H200) is None
    for rule in PUBLISHED:
        assert rule.predict(replace(measured(), problem=problem), H200) is None


@pytest.mark.parametrize(("tile", "binds"), [(256, "compute"), (128, "load")])
def test_tritons_model_by_hand(tile: int, binds: str) -> None:
    """4096 cubed: hundreds of CTAs saturate everything."""
    operand, again = 4096 * 4096 * 2, 4096 // tile - 1
    terms = {
        "compute": 2 * 4096**3 / (4096 * 132 * 1980e6),
        "load": 2 * operand * ((1 + 0.2 * again) / 4800e9 + 0.8 * again / (4 * 4800e9)),
    }
    assert max(terms, key=terms.__getitem__) == binds
    expected = (terms[binds] + operand / (0.6 * 4800e9)) * 1e6
    seen = view(table=gemm_table(block_m=[tile], block_n=[tile]))
    assert triton_model_us(seen, H200)[0] == pytest.approx(expected)


def test_tritons_model_of_loads_by_hand() -> None:
    """One CTA loads 64 + 64 rows of 16384: a 32nd of 95 % of DRAM, no row twice."""
    loaded = 2 * 64 * 16384 * 2
    dram = 4800e9 * 0.95 / 32
    text = "gemm:64x64x16384:bf16:bf16"
    found = triton_model_us(view(text, gemm_table(block_m=[64], block_n=[64])), H200)[0]
    assert found == pytest.approx((loaded / dram + 64 * 64 * 2 / (0.6 * dram)) * 1e6)


def test_tritons_model_takes_a_matrix_smaller_than_a_tile_for_a_tile() -> None:
    """Its source: M, N = max(M, BLOCK_M), max(N, BLOCK_N), before anything is counted."""
    tile = gemm_table(block_m=[128], block_n=[256])
    thin = triton_model_us(view("gemm:16x64x4096:bf16:bf16", tile), H200)
    whole = triton_model_us(view("gemm:128x256x4096:bf16:bf16", tile), H200)
    assert thin == pytest.approx(whole)


def test_tritons_model_clears_and_adds_the_sums_of_a_shared_k() -> None:
    """Two shares write the output twice, over 2 bytes an element that were cleared."""
    seen = view("gemm:4096x4096x64:bf16:bf16")
    shared = replace(seen, split_k=seen.split_k * 2)
    more = triton_model_us(shared, H200) - triton_model_us(seen, H200)
    assert more == pytest.approx(4096 * 4096 * (2 + 2) / (0.6 * 4800e9) * 1e6)


def test_deepgemms_rule_by_hand() -> None:
    """1024 tiles of 128 x 128 in 8 waves; the L2's 6154 B a clock are fewer than 132 ports'."""
    filled, stored = 4096 * (128 + 128) * 2, 128 * 128 * 2
    assert 6154 < 64 * 132
    l2 = 1024 * (filled + stored) / 6154
    shared = 1024 * (filled + filled + stored + stored) / (128 * 132)
    expected = max(l2, shared) / (1024 / (8 * 132))
    found = deepgemm_cycles(view(table=gemm_table(num_stages=[4])), H200)[0]
    assert found == pytest.approx(expected)


def test_deepgemms_rule_reads_64_rows_of_a_narrower_tile() -> None:
    """16 x 32: shared memory is filled with 16 rows of A, of which the tensor cores read 64."""
    text, tile = (
        "gemm:16x4224x4096:bf16:bf16",
        gemm_table(block_m=[16], block_n=[32], num_stages=[4]),
    )
    shared = (4096 * (16 + 32 + 64 + 32) * 2 + 2 * 16 * 32 * 2) / 128
    assert deepgemm_cycles(view(text, tile), H200)[0] == pytest.approx(shared)


def test_deepgemms_rule_knows_multicast() -> None:
    """4096 cubed in FP8: CTAs along M get B once, where the L2 is what binds."""
    table = hopper_table(block_m=[64], block_n=[128], cluster=[1, 2])
    alone, pair = deepgemm_cycles(view("gemm:4096x4096x4096:e4m3-row:bf16", table), H200)
    shared = 4096 * (64 + 128 + 64 + 128) + 2 * 64 * 128 * 2
    brought = 4096 * (64 + 128) + 64 * 128 * 2
    least = 2048 * shared / (128 * 132)
    efficiency = 2048 / (16 * 132)
    assert alone == pytest.approx(max(2048 * brought / 6154, least) / efficiency)
    brought -= 4096 * 128 // 2
    assert pair == pytest.approx(max(2048 * brought / 6154, least) / efficiency)
    assert pair < alone


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("gemm:4096x4096x4096:e4m3-row:bf16", {"stages": [2]}),
        ("gemm:4096x4096x4096:e4m3-row:bf16", {"block_n": [128], "stages": [3]}),
        ("gemm:4096x4096x4096:e4m3-row:bf16", {"block_m": [256], "block_n": [192]}),
        ("gemm:1024x1024x4096:e4m3-row:bf16", {"cluster": [2]}),
    ],
    ids=["two stages", "three stages of a small tile", "both sides wide", "clusters in one wave"],
)
def test_what_deepgemm_would_not_take_comes_after_all_others(
    text: str, fields: dict[str, list[int]]
) -> None:
    slow = hopper_table(block_m=[64], block_n=[64])
    refused = hopper_table(**fields)
    both = ConfigTable.of([slow.config(0), refused.config(0)])
    last = deepgemm_cycles(view(text, both), H200)
    assert last[1] > last[0]


def test_deepgemms_rule_takes_the_most_stages_of_a_tile() -> None:
    told = deepgemm_cycles(view(table=gemm_table(num_stages=[4, 5, 6])), H200)
    assert np.argmin(told) == 2
    assert told == pytest.approx(told[0] * np.ones(3))


def test_the_view_tells_clusters_that_share_a_tile_from_those_that_share_k() -> None:
    wide = view("gemm:512x4096x4096:e4m3-row:bf16", hopper_table(cluster=[2]))
    assert (wide.cluster_m[0], wide.cluster_n[0], wide.split_k[0]) == (2, 1, 1)
    high = hopper_table(block_m=[256], cluster=[2])
    assert (view(CUBE, high).cluster_m[0], view(CUBE, high).cluster_n[0]) == (1, 2)
    split = ConfigTable.of(
        [HopperSkinnyConfig(block_m=16, block_n=128, stages=8, cluster=4, interleaved=True)]
    )
    thin = view("gemm:16x4096x4096:e4m3-row:bf16", split)
    assert (thin.cluster_m[0], thin.cluster_n[0], thin.split_k[0]) == (1, 1, 4)
    shared = view(table=gemm_table())
    assert (shared.cluster_m[0], shared.cluster_n[0]) == (1, 1)


def test_origami_by_hand() -> None:
    """A wave of 132 tiles in groups of 8 rows: 17 columns, 64 K-steps, 8 waves."""
    clock = 1980e6
    compute = 2 * 128 * 128 * 64 / 4096
    step = 128 * 64 * 2
    memory = max(132 * 2 * step / (14000e9 / clock), (8 + 17) * step / (4800e9 / clock))
    latency = 340e-9 * clock + 200
    store = 132 * 128 * 128 * 2 / (4800e9 / clock)
    tile = 1.5 * 0.95 * latency + 64 * max(compute, memory) + store
    assert origami_us(view(), H200)[0] == pytest.approx(8 * tile / clock * 1e6)


def test_origami_punishes_k_that_the_tile_does_not_divide() -> None:
    whole, ragged = (
        origami_us(view(f"gemm:4096x4096x{k}:bf16:bf16"), H200)[0] for k in (4096, 4096 - 32)
    )
    assert ragged > whole
    # 63 of 64 steps are whole, and the last is 32 of 64 deep: as many steps, and the punishment.
    punished = 8 * 50_000 * 32 / (4096 - 32) / 1980e6
    assert (ragged - whole) * 1e-6 == pytest.approx(punished)


def test_helion_shrinks_the_tile_until_waves_are_full() -> None:
    large = helion_choice(view("gemm:8192x8192x8192:bf16:bf16"), H200)
    assert (large.block_m, large.block_n, large.warps, large.group_m) == (128, 256, 8, 2)
    # 8 x 4 tiles of 128 x 256 are a quarter of a wave, 8 x 8 of 128 x 128 a half, 8 x 16 97 %.
    small = helion_choice(view("gemm:1024x1024x4096:bf16:bf16"), H200)
    assert (small.block_m, small.block_n, small.warps) == (128, 64, 4)
    thin = helion_choice(view("gemm:16x8192x8192:e4m3-row:bf16"), H200)
    assert (thin.block_m, thin.block_k, thin.warps) == (16, 128, 4)


def test_helions_own_configuration_is_nearest_to_itself() -> None:
    seen = view(table=gemm_table(block_m=[64, 128], block_n=[128, 256], num_warps=[4, 8]))
    wanted = helion_choice(seen, H200)
    distance = helion_distance(seen, H200)
    best = int(np.argmin(distance))
    found = seen.block_m[best], seen.block_n[best], seen.warps[best]
    assert found == (wanted.block_m, wanted.block_n, wanted.warps)
    assert np.sort(distance)[1] - distance.min() == pytest.approx(1.0)  # one doubling away


def test_the_cost_model_is_asked_as_predict_asks_it() -> None:
    table = measured()
    told = CostModelAsItIs().predict(table, H200)
    priced = sim.price(table.problem, table.kernel, table.table, H200)
    assert told is not None
    assert told.time_us.tolist() == priced.time_us.tolist()
    assert told.low_us is not None
    assert told.low_us.tolist() == priced.low_us.tolist()


def test_compile_facts_reach_the_cost_model_that_takes_them() -> None:
    spilled = replace(FACTS, registers=255, stack_bytes=4096)
    table = measured(facts=dict.fromkeys(range(4), spilled))
    with_facts, without = (CostModelAsItIs(compiled=c).predict(table, H200) for c in (True, False))
    assert with_facts is not None
    assert without is not None
    assert (with_facts.time_us > without.time_us).all()


def test_the_roofline_ties_throughout() -> None:
    told = Roofline().predict(measured(), H200).time_us
    assert told == pytest.approx(np.full(4, 2 * 4096**3 / (4096 * 132 * 1980e6) * 1e6))


def test_the_nearest_copy_keeps_the_throughput_of_the_nearest_row() -> None:
    near, far = measured(CUBE, [100.0, 110.0, 120.0, 130.0]), measured("gemm:64x64x64:bf16:bf16")
    copy = NearestCopy()
    copy.fit([far, near], H200)
    asked = measured("gemm:4096x4096x8192:bf16:bf16").blinded()
    assert copy.predict(asked, H200).time_us == pytest.approx(2 * near.time_us)


def test_the_nearest_copy_prefers_its_own_family() -> None:
    other = measured(CUBE, [7.0], table=hopper_table(), family="hopper_gemm")
    own = measured("gemm:64x64x64:bf16:bf16", [5.0] * 4)
    copy = NearestCopy()
    copy.fit([other, own], H200)
    assert copy.predict(measured(CUBE), H200).time_us == pytest.approx(5.0 * 64**3 * np.ones(4))


def test_features_are_in_doublings_and_scales_have_a_place() -> None:
    found = features(measured("gemm:16x512x4096:int8-b128:bf16"))
    assert (found["m"][0], found["n"][0], found["k"][0]) == (4, 9, 12)
    assert (found["a_bits"][0], found["scale_rows"][0], found["scale_cols"][0]) == (3, 7, 7)
    assert found["config.block_m"].tolist() == [6, 6, 7, 7]
    assert set(found["config.tma"]) == {1.0}
    assert features(measured())["scale_cols"][0] > 14


@pytest.mark.slow  # scikit-learn takes two seconds to import
def test_trees_learn_what_tells_rows_apart_and_repeat_themselves() -> None:
    rows = gemm_table(
        block_m=[64, 128], block_n=[64, 128, 256], group_m=[1, 2, 4, 8], num_stages=[3, 4]
    )
    times = 50.0 * np.where(rows["block_m"] == 64, 2.0, 1.0)
    train = measured(times=times, table=rows)
    told = []
    for _ in range(2):
        trees = BoostedTrees()
        trees.fit([train], H200)
        told.append(trees.predict(train.blinded(), H200).time_us)
    assert told[0] == pytest.approx(times, rel=0.01)
    assert told[0].tolist() == told[1].tolist()


def test_the_noise_floor_draws_each_rows_own_spread() -> None:
    rows = gemm_table(group_m=list(range(1, 2001)))
    iqr = np.where(np.arange(2000) < 1000, 1.349, 13.49)
    table = measured(times=np.full(2000, 100.0), table=rows, iqr_us=iqr)
    told = NoiseFloor().predict(table, H200)
    assert told is not None
    deviation = np.log(told.time_us / 100)
    assert deviation[:1000].std() == pytest.approx(0.01, rel=0.1)
    assert deviation[1000:].std() == pytest.approx(0.1, rel=0.1)
    again = NoiseFloor().predict(table, H200)
    assert again is not None
    assert again.time_us.tolist() == told.time_us.tolist()
    assert NoiseFloor().predict(replace(table, iqr_us=np.full(2000, np.nan)), H200) is None


def test_random_choice_prefers_nothing() -> None:
    assert len(set(RandomChoice().predict(measured(), H200).time_us)) == 1
