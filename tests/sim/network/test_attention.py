"""The attention core's counts by hand, and the laws of its cost."""

from dataclasses import replace
from typing import Any

import pytest

import sim
from sim.network.attention import Attention, attention_cost, softmax_clk, tensor_clk

H200 = sim.load_gpu("h200")
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
    assert CORE.read_bytes == query + 2 * key
    assert CORE.written_bytes == query + statistics
    back = replace(CORE, backward=True)
    # Operands, the output and its gradient, statistics; sums of dQ are fp32, written and read.
    assert back.read_bytes == query + 2 * key + 2 * query + statistics + 2 * query
    assert back.written_bytes == query + 2 * key + 2 * query


def test_clocks_of_a_tile_by_hand() -> None:
    """128 x 128 scores, head 128: two products of 2·128^3, sixteen exponentials a clock."""
    work = replace(CORE, head_dim=128)
    assert tensor_clk(work, H200) == pytest.approx(4 * 128**3 / (4096 * H200.tensor_share))
    assert softmax_clk(work, H200) == pytest.approx(128 * 128 / 16 + 128 * 128 * 5 / 128)
    back = replace(work, backward=True)
    assert tensor_clk(back, H200) == pytest.approx(10 * 128**3 / (4096 * H200.tensor_share))
    assert softmax_clk(back, H200) == pytest.approx(128 * 128 / 16 + 128 * 128 * 9 / 128)


def test_a_short_sequence_fills_a_part_of_its_tile() -> None:
    short = replace(CORE, length=32)
    assert tensor_clk(short, H200) == tensor_clk(CORE, H200) / 2


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
    work = replace(CORE, sequences=8, heads=32, length=4096)
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
