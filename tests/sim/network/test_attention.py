"""The attention core's counts by hand, and the laws of its cost."""

from dataclasses import replace
from typing import Any

import pytest

import sim
from sim.network.attention import Attention, AttentionKernel
from sim.network.attention_cost import attention_cost, tile_clocks

H200 = sim.load_gpu("h200")
A100 = sim.load_gpu("a100")
FLASH_2 = AttentionKernel.FLASH_2
CORE = Attention(sequences=2, heads=4, kv_heads=2, length=256, head_dim=64, causal=False)


def time_us(work: Attention, gpu: sim.Gpu = H200) -> float:
    return float(attention_cost(work, gpu).time_us[0])


def test_operations_are_four_a_score_and_element() -> None:
    assert CORE.flops == 4 * 2 * 4 * 256 * 256 * 64
    causal = replace(CORE, causal=True)
    assert causal.flops == 4 * 2 * 4 * (256 * 257 // 2) * 64
    # Forward once, backward twice: three times in all, what is computed again not counted.
    assert replace(causal, backward=True).flops == 2 * causal.flops


def test_tiles_of_masked_scores_are_not_computed() -> None:
    assert replace(CORE, length=512).tiles == 16
    assert replace(CORE, length=512, causal=True).tiles == 10
    assert replace(CORE, length=130, causal=True).tiles == 3


def test_bytes_are_those_of_the_operands() -> None:
    query, key = 2 * 2 * 4 * 256 * 64, 2 * 2 * 2 * 256 * 64
    statistics = 4 * 2 * 4 * 256
    assert (CORE.query_bytes, CORE.key_bytes, CORE.statistics_bytes) == (query, key, statistics)
    assert CORE.launches == ((query + 2 * key, query + statistics),)
    # Sums of dQ are fp32: cleared beside the rows' sums of O·dO, added to, and rounded.
    assert replace(CORE, backward=True).launches == (
        (2 * query, statistics + 2 * query),
        (2 * query + 2 * key + 2 * statistics + 2 * query, 2 * key + 2 * query),
        (2 * query, query),
    )
    back = replace(CORE, backward=True)
    assert back.read_bytes == 8 * query + 2 * key + 2 * statistics
    assert back.written_bytes == 5 * query + 2 * key + statistics


def test_clocks_of_a_tile_of_warpgroup_products_by_hand() -> None:
    """128 x 128 scores, head 128: two products of 2·128^3, sixteen exponentials a clock."""
    work = replace(CORE, head_dim=128)
    tile = tile_clocks(work, H200)
    assert tile.tensor == pytest.approx(4 * 128**3 / (4096 * H200.tensor_share))
    assert (tile.special, tile.issue, tile.operands) == (128 * 128 / 16, 128 * 128 * 5 / 128, 0)
    assert tile.total == tile.tensor + 0.5 * (tile.special + tile.issue)
    back = tile_clocks(replace(work, backward=True), H200)
    assert back.tensor == pytest.approx(10 * 128**3 / (4096 * H200.tensor_share))
    assert (back.special, back.issue) == (128 * 128 / 16, 128 * 128 * 9 / 128)
    # P and dS, two bytes a score, on their way to shared memory at 128 bytes a clock.
    assert back.operands == 2 * 2 * 128 * 128 / 128
    assert back.total == back.tensor + back.operands + back.special + back.issue


def test_clocks_of_a_tile_of_flash_attention_2_by_hand() -> None:
    """Heads of 64: four warps read 16 KiB of keys and of values each, and their own queries."""
    work, kib = replace(CORE, kernel=FLASH_2), 1024
    tile = tile_clocks(work, H200)
    assert tile.tensor == pytest.approx(2 * 2 * 128 * 128 * 64 / (4096 * H200.mma_sync_share))
    read, written = (4 * 2 * 16 + 16) * kib, 2 * 16 * kib
    assert tile.operands == (read + written) / 128
    # 16 x 8 x 16 a product's instruction, 512 bytes a load's, four warps a clock.
    assert tile.issue == 128 * 128 * 5 / 128 + (1024 + read / 512) / 4
    assert tile.total == tile.rest + 0.4 * tile.tensor
    back = tile_clocks(replace(work, backward=True), H200)
    # Left operands twice, right ones four times; P and dS are 32 KiB, and written too.
    read = 2 * (2 * 16 + 4 * 16) * kib + 2 * (2 * 32 + 4 * 16) * kib + (2 * 32 + 4 * 16) * kib
    assert back.operands == (read + (2 * 32 + 2 * 16) * kib) / 128
    assert back.issue == 128 * 128 * 9 / 128 + (5 * 512 + read / 512) / 4
    assert back.total == back.rest + 0.4 * back.tensor


def test_a_short_sequence_fills_a_part_of_its_tile() -> None:
    short = replace(CORE, length=32)
    assert tile_clocks(short, H200).tensor == tile_clocks(CORE, H200).tensor / 2


def test_torch_takes_flash_attention_2_where_no_warpgroups_multiply() -> None:
    """On an A100 both are one kernel; on a Hopper what is called by name is the slower one."""
    work = replace(CORE, sequences=8, heads=32, length=4096)
    named = replace(work, kernel=FLASH_2)
    assert tile_clocks(named, A100) == tile_clocks(work, A100)
    assert time_us(named) > 1.3 * time_us(work)
    assert str(named) == f"{work}:flash-2"


@pytest.mark.parametrize("head_dim", [64, 128])
def test_flash_attention_2_reaches_of_an_a100_what_its_authors_tell(head_dim: int) -> None:
    """An outside check, nothing is set on it: 50 to 73 % of 312 TFLOP/s (arXiv 2307.08691)."""
    work = Attention(
        sequences=1,
        heads=2048 // head_dim,
        kv_heads=2048 // head_dim,
        length=16384,
        head_dim=head_dim,
        causal=False,
    )
    assert 0.4 < work.flops / time_us(work, A100) / 1e6 / 312 < 0.73


@pytest.mark.parametrize(
    "change",
    [
        {"sequences": 64},
        {"heads": 64},
        {"length": 4096},
        {"head_dim": 256, "sequences": 64},
        {"backward": True},
    ],
    ids=str,
)
def test_more_work_takes_longer(change: dict[str, Any]) -> None:
    assert time_us(replace(CORE, **change)) > time_us(CORE)


def test_a_long_causal_sequence_takes_half_of_a_full_one() -> None:
    full = replace(CORE, sequences=8, heads=32, length=8192)
    assert time_us(replace(full, causal=True)) / time_us(full) == pytest.approx(0.5, abs=0.02)


def test_no_core_beats_its_products_or_its_exponentials() -> None:
    for head_dim in (64, 128, 256):
        work = Attention(
            sequences=4, heads=32, kv_heads=32, length=4096, head_dim=head_dim, causal=False
        )
        clk_per_us = H200.sustained_clock_mhz * H200.sm_count
        products = work.flops / (4096 * clk_per_us)
        exponentials = work.sequences * work.heads * work.pairs / (16 * clk_per_us)
        assert time_us(work) > max(products, exponentials)


def test_twice_the_special_functions_help_where_they_bind() -> None:
    work = replace(CORE, sequences=8, heads=32, length=4096, head_dim=32)
    faster = replace(H200, special_per_clk=32.0)
    assert time_us(work, faster) < 0.8 * time_us(work)


def test_the_terms_say_what_binds() -> None:
    small_heads = replace(CORE, sequences=8, heads=32, length=4096, head_dim=32)
    large_heads = replace(small_heads, head_dim=256)

    def binding(work: Attention) -> str:
        terms = {name: float(term[0]) for name, term in attention_cost(work, H200).terms_us.items()}
        return max(terms, key=terms.__getitem__)

    assert binding(small_heads) == "cuda_cores"
    assert binding(large_heads) == "tensor"
