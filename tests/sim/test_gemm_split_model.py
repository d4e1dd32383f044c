"""The cost of the scaled GEMM's modes beside the plain ones."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import sim
from sim.gemm_split_model import _reduce_us
from sim.model import price
from tiles.kernels import ConfigTable
from tiles.kernels.gemm import GemmConfig, TritonGemm
from tiles.problems import parse_problem

GEMM = TritonGemm()
H200 = sim.load_gpu("h200")
BASE = GemmConfig(
    block_m=128,
    block_n=128,
    block_k=128,
    group_m=8,
    num_warps=8,
    num_stages=3,
    tma=True,
    persistent=False,
)


def priced(problem: str, *modes: dict[str, Any]) -> Any:
    """A plain row, and one for each mode."""
    rows = [BASE, *(replace(BASE, **mode) for mode in modes)]
    return price(parse_problem(problem), GEMM, ConfigTable.of(rows), H200)


def test_rows_of_a_mode_leave_the_plain_ones_as_they_were() -> None:
    problem = "gemm:256x1024x8192:deepseek-fp8:bf16"
    alone = priced(problem)
    mixed = priced(problem, {"split_k": 4}, {"split_k": 2}, {"overlap": True})
    assert mixed.time_us[0] == alone.time_us[0]
    for name, column in mixed.terms_us.items():
        assert column[0] == alone.terms_us[name][0]


def test_split_k_pays_where_tiles_leave_multiprocessors_idle() -> None:
    few = priced("gemm:256x1024x16384:e4m3-row:bf16", {"split_k": 8})
    assert few.time_us[1] < 0.5 * few.time_us[0]
    many = priced("gemm:2048x2048x1024:e4m3-row:bf16", {"split_k": 8})
    assert many.time_us[1] > many.time_us[0]
    # Each operand is read once either way, and partial sums pass the L2.
    assert few.dram_read_bytes[1] == pytest.approx(few.dram_read_bytes[0], rel=0.05)
    assert few.l2_read_bytes[1] - few.l2_read_bytes[0] == pytest.approx(256 * 1024 * 8 * 4, rel=0.1)
    assert few.dram_write_bytes[1] == few.dram_write_bytes[0] == 256 * 1024 * 2


def test_the_last_program_of_a_tile_reads_all_sums_at_its_port() -> None:
    """Eight tiles of 64 KiB at 64 B a clock of 1600 MHz are 5.12 us, and three trips to the L2."""
    found = _reduce_us(H200, np.array([8.0 * 128 * 128 * 4]))
    assert found[0] == pytest.approx(8 * 65536 / 64 / 1600 + 3 * 0.141)


def test_split_k_reads_the_side_that_stays_in_shares_as_a_whole() -> None:
    """256 x 1024: rows are as before, of which each share multiplies an eighth."""
    whole, shared = (
        priced("gemm:256x1024x16384:e4m3-row:bf16", {"split_k": 8}).terms_us["dram"][row]
        for row in (0, 1)
    )
    read_us = (256 + 1024) * 16384 / H200.dram_read_gb_per_s / 1e3
    assert whole > 0.99 * read_us
    assert shared > 0.99 * read_us


def test_stream_k_saves_what_the_last_wave_leaves_idle() -> None:
    stream = {"persistent": True, "stream_k": True}
    # 136 tiles on 132 multiprocessors: the second wave has four of them.
    poor = priced("gemm:1024x2176x8192:e4m3-row:bf16", {"persistent": True}, stream)
    assert poor.time_us[2] < 0.75 * poor.time_us[1]
    # 132 tiles: there is nothing to share.
    full = priced("gemm:1536x1408x8192:e4m3-row:bf16", {"persistent": True}, stream)
    assert full.time_us[2] >= full.time_us[1]
    # The 132 programs end within a tile but for every 33rd; sums of both sides of each are read.
    assert poor.l2_read_bytes[2] - poor.l2_read_bytes[1] == 2 * 128 * (128 * 128 * 4)
    assert full.l2_read_bytes[2] == full.l2_read_bytes[1]


def test_promotion_under_products_hid_nothing_and_specialised_warps_hide_block_scales() -> None:
    name = "gemm:4096x4096x4096:int8-b128:bf16"
    blocks = priced(name, {"overlap": True})
    assert blocks.time_us[1] == blocks.time_us[0]
    warps = priced(name, {"num_warps": 8}, {"num_warps": 4, "specialize": True})
    assert warps.time_us[2] < warps.time_us[1]
    rows = "gemm:4096x4096x4096:int8-row:bf16"
    both = priced(rows, {"num_warps": 4, "specialize": True})
    assert both.time_us[1] >= both.time_us[0]


@pytest.mark.parametrize("recipe", ["bf16", "deepseek-fp8", "int8-b128"])
@pytest.mark.parametrize("shape", ["16x8192x8192", "1000x520x4096", "1x1x1537"])
def test_no_mode_is_faster_than_its_resources(recipe: str, shape: str) -> None:
    problem = parse_problem(f"gemm:{shape}:{recipe}:bf16")
    legal = GEMM.legal_space(problem, H200.limits).accepted
    table = price(problem, GEMM, legal, H200)
    largest = np.maximum.reduce([table.terms_us[name] for name in table.terms_us])
    assert (table.time_us >= largest * (1 - 1e-9)).all()
    # Bytes at DRAM's best rate.
    assert (table.time_us > table.dram_read_bytes / H200.dram_read_gb_per_s / 1e3).all()


def test_a_stream_k_step_takes_longer_than_a_persistent_one() -> None:
    """4096 cubed fills 97 % of its waves either way: measured 102 us plain, 127 shared."""
    shape = {"block_m": 128, "block_n": 256, "block_k": 128, "num_warps": 8, "num_stages": 4}
    plain = {**shape, "tma": True, "persistent": True}
    both = priced("gemm:4096x4096x4096:e4m3-row:bf16", plain, {**plain, "stream_k": True})
    assert 1.05 < both.time_us[2] / both.time_us[1] < 1.3
