"""Terms of one multiprocessor, each against hand values with their units."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim.occupancy import ctas_per_sm, gemm_registers, spill_clk
from sim.parameters import GEMM
from sim.pipes import (
    decode_clk,
    issue_clk,
    mma_clk,
    promotion_clk,
    shared_clk,
    smem_clk,
    uses_warpgroups,
    warp_grid,
)
from tiles.formats import TensorFormat

H200 = sim.load_gpu("h200")
A100 = sim.load_gpu("a100")
B200 = sim.load_gpu("b200")
IDEAL = replace(H200, tensor_share=1.0, mma_sync_share=1.0, fma_per_clk=128.0, convert_per_clk=64.0)


def column(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


YES, NO = np.array([True]), np.array([False])


def mma(m: int, n: int, k: int, warps: int, element: str, wide: np.ndarray = YES) -> float:
    clk = mma_clk(
        IDEAL, column(m), column(n), column(k), column(warps), element=element, warpgroups=wide
    )
    return float(clk[0])


@pytest.mark.parametrize(
    ("m", "n", "k", "warps", "element", "clk"),
    [
        (64, 256, 32, 4, "e4m3fn", 128),  # one m64n256k32 instruction: N/2 clocks
        (64, 128, 32, 4, "int8", 64),
        (64, 128, 16, 4, "bf16", 64),  # every dtype takes N/2 clocks for 32 bytes of K
        (128, 128, 128, 4, "e4m3fn", 512),
        (128, 128, 64, 8, "bf16", 512),
        (64, 32, 32, 4, "e4m3fn", 24),  # 16 + N/4: both operands come from shared memory
        (64, 16, 32, 4, "e4m3fn", 20),
        (64, 64, 32, 8, "e4m3fn", 2 * 24),  # two warpgroups take 32 columns each
    ],
)
def test_warpgroup_products_issue_at_half_a_clock_a_column(
    m: int, n: int, k: int, warps: int, element: str, clk: float
) -> None:
    assert mma(m, n, k, warps, element) == pytest.approx(clk)


def test_mma_sync_pads_to_16_rows_and_widens_8_bit_floats() -> None:
    assert mma(16, 128, 64, 4, "bf16", NO) == pytest.approx(2 * 16 * 128 * 64 / 4096)
    assert mma(16, 128, 64, 4, "int8", NO) == pytest.approx(2 * 16 * 128 * 64 / 8192)
    # e4m3fn runs at the rate of fp16 there.
    assert mma(16, 128, 64, 4, "e4m3fn", NO) == mma(16, 128, 64, 4, "bf16", NO)


def test_warpgroups_need_64_rows_and_four_warps() -> None:
    rows, warps = column(16, 64, 64, 128), column(4, 4, 2, 8)
    for element in ("bf16", "e4m3fn", "int8"):
        wide = uses_warpgroups(H200, rows, warps, element=element)
        assert wide.tolist() == [False, True, False, True]
        assert not uses_warpgroups(A100, rows, warps, element=element).any()


def test_blackwell_multiplies_integers_by_mma_sync() -> None:
    rows, warps = column(64, 128), column(4, 8)
    assert not uses_warpgroups(B200, rows, warps, element="int8").any()
    for element in ("bf16", "fp16", "e4m3fn", "e5m2"):
        assert uses_warpgroups(B200, rows, warps, element=element).all()
    # A quarter of 16384 flop/clk/SM: the rate of A100, which has nothing but mma.sync.
    shape = (column(128), column(128), column(64), column(8))
    clk = mma_clk(B200, *shape, element="int8", warpgroups=NO)
    assert clk[0] == pytest.approx(2 * 128 * 128 * 64 / 4096)
    assert A100.tensor_flop_per_clk["int8"] == 4096


def promotion(activation: str, weight: str, m: int, n: int, k: int) -> float:
    clk = promotion_clk(
        IDEAL,
        column(m),
        column(n),
        column(k),
        TensorFormat.parse(activation),
        TensorFormat.parse(weight),
    )
    return float(clk[0])


@pytest.mark.parametrize(
    ("activation", "weight", "m", "n", "k", "ratio"),
    [
        # R(kb) = 4096 / kb x (instructions / rate): CUDA-core time over 8-bit tensor time.
        ("e4m3fn.b1x128", "e4m3fn.b128x128", 128, 128, 128, 0.25),
        ("e4m3fn.b1x64", "e4m3fn.b128x64", 128, 128, 64, 0.5),
        ("int8.b128x128", "int8.b128x128", 128, 128, 128, 0.5),
        ("int8.b64x64", "int8.b64x64", 64, 64, 64, 1.0),
        ("int8.b32x32", "int8.b32x32", 32, 32, 32, 2.0),
        ("e4m3fn.b1x32", "e4m3fn.b1x32", 128, 128, 32, 2.0),
        ("int8.row", "int8.row", 128, 128, 128, 0.0),
        ("bf16", "bf16", 128, 128, 128, 0.0),
    ],
)
def test_promotion_follows_the_closed_form(
    activation: str, weight: str, m: int, n: int, k: int, ratio: float
) -> None:
    tensor = mma(128, 128, 128, 4, "e4m3fn") * (m * n * k) / 128**3
    assert promotion(activation, weight, m, n, k) / tensor == pytest.approx(ratio)


def test_shallow_iterations_promote_more_often_and_deep_ones_once_a_block() -> None:
    fp8 = ("e4m3fn.b1x128", "e4m3fn.b128x128", 128, 128)
    assert promotion(*fp8, 32) == promotion(*fp8, 128)  # a promotion an iteration, 4x as many
    assert promotion(*fp8, 256) == 2 * promotion(*fp8, 128)


def test_scales_that_change_both_ways_cost_a_product_a_scale_pair() -> None:
    e4m3 = ("e4m3fn.b32x32", "e4m3fn.b32x32")
    one_way = promotion(*e4m3, 64, 32, 32) / (64 * 32)
    both_ways = promotion(*e4m3, 64, 64, 32) / (64 * 64)
    assert one_way < both_ways < 1.1 * one_way


def test_emulated_decode_counts_every_element() -> None:
    args = (A100, column(128), column(128), column(32), column(4))
    clk = decode_clk(*args, element="e4m3fn", emulated=True, warpgroups=YES)
    assert clk[0] == pytest.approx(256 * 32 * 2 / 64)
    # Under mma.sync two by two warps decode every fragment twice.
    clk = decode_clk(*args, element="e4m3fn", emulated=True, warpgroups=NO)
    assert clk[0] == pytest.approx(2 * 256 * 32 * 2 / 64)
    half = decode_clk(*args, element="e5m2", emulated=True, warpgroups=NO)
    assert half[0] == clk[0] / 2
    assert decode_clk(*args, element="bf16", emulated=False, warpgroups=NO)[0] == 0


@pytest.mark.parametrize(
    ("m", "n", "warps", "grid"),
    [
        (128, 128, 4, (2, 2)),
        (128, 128, 8, (4, 2)),
        (64, 128, 4, (2, 2)),
        (16, 128, 4, (1, 4)),
        (256, 16, 8, (8, 1)),
        (32, 32, 8, (2, 4)),
    ],
)
def test_warps_share_a_tile_in_square_parts(
    m: int, n: int, warps: int, grid: tuple[int, int]
) -> None:
    along_m, along_n = warp_grid(column(m), column(n), column(warps))
    assert (along_m[0], along_n[0]) == grid


def test_issue_is_free_for_descriptors() -> None:
    assert issue_clk(np.array([32768.0]), YES)[0] == 0
    assert issue_clk(np.array([32768.0]), NO)[0] == pytest.approx(
        32768 / 16 * GEMM.copy_instructions / 128
    )


def test_shared_memory_port_counts_writes_and_every_instructions_reads() -> None:
    # 128 x 128 x 128 bytes: 32 KiB written, a part of which shows; A read once (N = 128 in one go),
    # B for each of two m64.
    clk = smem_clk(
        H200,
        column(128),
        column(128),
        column(128),
        column(4),
        bits=8,
        emulated=False,
        warpgroups=YES,
    )
    assert clk[0] == pytest.approx((GEMM.smem_fill_share * 256 * 128 + (128 + 2 * 128) * 128) / 128)


def port(gpu: sim.Gpu, m: int, n: int, warps: int, bits: int, **path: Any) -> float:
    """Bytes an element of K that pass the port, writes left out."""
    clk = smem_clk(
        gpu, column(m), column(n), column(64), column(warps), bits=bits, fill_share=0.0, **path
    )
    return float(clk[0]) * gpu.smem_bytes_per_clk / 64


def test_shared_memory_is_read_by_every_instruction_or_warp_anew() -> None:
    """A tile of 128 x 256 in FP8, by hand."""
    plain = {"emulated": False, "warpgroups": YES}
    # Two m64n256: each its rows of A, both all of B; of two warpgroups the same.
    assert port(H200, 128, 256, 4, 8, **plain) == 128 + 2 * 256
    assert port(H200, 128, 256, 8, 8, **plain) == 128 + 2 * 256
    # Two warpgroups side by side over 64 rows: 128 columns each, so A is read twice.
    assert port(H200, 64, 256, 8, 8, **plain) == 2 * 64 + 256
    # Blackwell's instruction has 128 rows and reads B once.
    assert port(B200, 128, 256, 4, 8, **plain) == 128 + 256
    # mma.sync by four times two warps: every one its rows and columns.
    warps = {"emulated": False, "warpgroups": NO}
    assert warp_grid(column(128), column(256), column(8)) == (column(2), column(4))
    assert port(H200, 128, 256, 8, 8, **warps) == 4 * 128 + 2 * 256
    # Decoded: codes read, two bytes an element stored, and read by the products.
    decoded = {"emulated": True, "warpgroups": YES}
    assert port(H200, 128, 256, 4, 8, **decoded) == 384 + 2 * 384 + 2 * (128 + 2 * 256)


def test_products_reach_their_share_of_the_rate() -> None:
    half = replace(IDEAL, tensor_share=0.5, mma_sync_share=0.25)
    args = (column(128), column(128), column(64), column(4))
    for wide, times in ((YES, 2.0), (NO, 4.0)):
        whole, part = (
            mma_clk(gpu, *args, element="bf16", warpgroups=wide)[0] for gpu in (IDEAL, half)
        )
        assert part == pytest.approx(times * whole)


def test_floats_of_eight_bits_are_widened_two_at_a_time_for_mma_sync() -> None:
    args = (IDEAL, column(128), column(128), column(32), column(4))
    found = decode_clk(*args, element="e4m3fn", emulated=False, warpgroups=NO)
    # Two by two warps convert every fragment twice, two elements an instruction, 64 a clock.
    assert found[0] == pytest.approx(2 * 256 * 32 / 2 / 64)
    assert decode_clk(*args, element="e4m3fn", emulated=False, warpgroups=YES)[0] == 0


def test_registers_hold_accumulators_twice_when_promoted() -> None:
    def registers(promoted: bool, addressed: int = 0, fragments: Any = NO) -> int:
        found = gemm_registers(
            column(128),
            column(128),
            column(128),
            promoted=promoted,
            fragments=fragments,
            addressed_bytes=column(addressed),
        )
        return int(found[0])

    assert registers(False) == 128 * 128 // 128
    assert registers(True) - registers(False) == 128
    assert registers(False, 32768) - registers(False) == 2 * 32768 // 16 // 128
    assert registers(False, fragments=YES) - registers(False) == 32


def test_spilled_registers_are_stored_and_reloaded() -> None:
    # 8 registers x 4 B x 128 threads, out and back, at 64 B a clock.
    assert spill_clk(H200, column(100, 255, 263), column(128)) == pytest.approx([0, 0, 128])


@pytest.mark.parametrize(
    ("registers", "smem", "warps", "expected"),
    [
        (168, 1000, 4, 3),  # 65536 / (168 x 128) = 3.05
        (40, 98304, 4, 2),  # 233472 / (98304 + 1024) = 2.35
        (32, 0, 16, 4),  # 2048 threads / 512
        (
            106,
            0,
            9,
            1,
        ),  # a quarter holds 16384 / (112 x 32) = 4.6 warps: 16, not the 18 of two CTAs
        (96, 0, 10, 2),  # 5.3 warps a quarter
        (16, 0, 1, 32),  # CTAs an SM
        (600, 400_000, 8, 1),  # what does not fit counts as one: legality says no elsewhere
    ],
)
def test_occupancy_is_the_tightest_limit(
    registers: int, smem: int, warps: int, expected: int
) -> None:
    held = ctas_per_sm(
        H200, registers=column(registers), smem_bytes=column(smem), warps=column(warps)
    )
    assert held[0] == expected


@given(issue=st.floats(1, 1e4), wait=st.floats(0, 1e4))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_warps_fill_each_others_waits(issue: float, wait: float) -> None:
    rounds = [
        shared_clk(np.array([issue]), np.array([wait]), np.array([warps]))[0]
        for warps in (1, 2, 4, 8)
    ]
    assert rounds[0] == pytest.approx(issue + wait)
    for warps, found in zip((1, 2, 4, 8), rounds, strict=True):
        # Never below what they issue, or one alone; never above one after the other.
        assert max(warps * issue, issue + wait) * (1 - 1e-9) <= found
        assert found <= (warps * issue + wait) * (1 + 1e-9)
    # A warp's share of a round shrinks: the more there are, the less of the wait is left.
    shares = [found / n for n, found in zip((1, 2, 4, 8), rounds, strict=True)]
    assert (np.diff(shares) <= 1e-9 * issue).all()
