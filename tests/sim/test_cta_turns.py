"""CTAs that load, compute and store in turn: issue slots, starts, and gaps that nobody fills."""

from dataclasses import replace

import numpy as np
import pytest

import sim
from sim.cta_turns import blocks_of_thread, issue_ns, turns_ns
from sim.memory import overlap
from sim.parameters import TURNS
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

H200 = sim.load_gpu("h200")


def priced(text: str, *configs: dict[str, int | bool]) -> list[float]:
    """Microseconds of some configurations, columns by name."""
    family = kernel("triton_quantize" if "num_stages" in configs[0] else "triton_quantize_tiles")
    table = ConfigTable.of(
        [family.config_type.from_dict({"software_cast": False, **one}) for one in configs]
    )
    return [float(us) for us in sim.price(parse_problem(text), family, table, H200).time_us]


def tile(rows: int, cols: int, warps: int, stages: int | None = None) -> dict[str, int | bool]:
    found: dict[str, int | bool] = {"block_rows": rows, "block_cols": cols, "num_warps": warps}
    return found if stages is None else {**found, "num_stages": stages}


def test_a_thread_issues_all_it_has_to_do_once() -> None:
    """Of 64 warps with 203 instructions each an SM issues 128 lanes a clock at most."""
    found = issue_ns(
        replace(TURNS, instruction_share=1.0),
        replace(H200, issue_per_clk=128.0),
        warps_per_sm=np.array([64.0]),
        thread_instructions=np.array([203.0]),
        clock_ghz=2.0,
    )
    assert found[0] == pytest.approx(64 * 203 * 32 / 128 / 2.0)


@pytest.mark.parametrize(
    ("rows", "cols", "warps", "block", "blocks"),
    [
        (1, 1024, 1, (1, 128), 4),  # four rounds of 256 elements, blocks of 128
        (8, 128, 1, (1, 128), 4),  # of two rows each
        (32, 32, 1, (32, 32), 1),
        (32, 128, 2, (32, 32), 1),  # rounds lie below one another, in one block
        (128, 128, 8, (128, 128), 1),
        (1, 8192, 4, (1, 8192), 1),
        (16, 256, 2, (1, 16), 8),  # eight rounds of two rows
        (1, 32, 16, (1, 32), 1),  # fewer elements than threads
    ],
)
def test_blocks_that_a_thread_has_elements_of(
    rows: int, cols: int, warps: int, block: tuple[int, int], blocks: float
) -> None:
    found = blocks_of_thread(
        np.array([rows]), np.array([cols]), np.array([32 * warps]), block, source_bytes=2
    )
    assert found[0] == blocks


def turn(resident: float, chain: float = 90.0, ctas: int = 1000) -> tuple[float, float]:
    main, waiting = turns_ns(
        TURNS,
        dram=np.array([50e3]),
        pipes=(np.array([30e3]),),
        chain=np.array([chain * 1e3]),
        ctas=np.array([ctas]),
        resident=np.array([resident]),
    )
    return float(main[0]), float(waiting[0])


def test_a_lone_cta_shows_its_whole_chain_and_many_hide_it() -> None:
    work = float(overlap(np.array([50e3]), np.array([30e3]), exponent=4.0)[0])
    assert turn(1)[0] == pytest.approx(90e3, rel=1e-3)
    assert turn(32)[0] == pytest.approx(work, rel=5e-3)
    times = [turn(resident)[0] for resident in (1, 2, 4, 8, 32)]
    assert times == sorted(times, reverse=True)
    # A chain shorter than the work adds nothing.
    assert turn(1, chain=40.0)[0] == pytest.approx(work, rel=1e-3)


def test_ctas_start_one_after_the_other() -> None:
    assert turn(32, ctas=524_288)[0] > 524_288 * TURNS.cta_start_ns
    assert turn(32, ctas=524_288)[1] == pytest.approx(524_288 * TURNS.cta_start_ns)
    assert turn(32, ctas=10_000)[0] == pytest.approx(turn(32, ctas=1000)[0], rel=1e-3)


def test_the_fourth_power_is_that_of_the_formula() -> None:
    a, b = np.array([3.0, 50.0]), np.array([4.0, 30.0])
    assert overlap(a, b, exponent=4.0) == pytest.approx((a**4 + b**4) ** 0.25, rel=1e-12)


def test_tiles_of_128_elements_are_bound_by_the_starts_of_their_ctas() -> None:
    """Measured at 8192 x 8192: 320 us with tiles of 4 x 32, 54 with 1 x 1024; 85 were predicted."""
    small, large = priced("quantize:8192x8192:e4m3fn.mx:bf16", tile(4, 32, 1), tile(1, 1024, 1))
    assert small == pytest.approx(320.5, rel=0.08)
    assert large == pytest.approx(53.9, rel=0.05)


def test_one_element_a_thread_pays_the_thread_s_own_instructions() -> None:
    """Measured: 130.6 us with four elements a thread, 61 with 32; both have the same elements."""
    few, many = priced(
        "quantize:8192x8192:e5m2.b1x128:bf16", tile(2, 512, 8, 1), tile(2, 512, 1, 1)
    )
    assert few == pytest.approx(130.6, rel=0.1)
    assert many == pytest.approx(61.0, rel=0.06)


def test_a_lone_large_cta_waits_for_its_loads_and_not_for_its_stores() -> None:
    """Measured: 68.3 us where one CTA fills an SM, 60.3 where two do; 81 and 67 were predicted."""
    lone, two = priced(
        "quantize:8192x8192:e4m3fn.b128x128:bf16", tile(128, 256, 16), tile(128, 128, 8)
    )
    assert lone == pytest.approx(68.3, rel=0.06)
    assert two == pytest.approx(60.3, rel=0.06)


def test_tiles_of_few_rows_in_three_stages_are_as_slow_as_they_are() -> None:
    """Measured at 8192 x 8192; 561, 106, 123 and 112 us were predicted."""
    text = "quantize:8192x8192:int8.b32x32:bf16"
    worst, one_warp = priced(text, tile(1, 32, 16, 3), tile(2, 32, 1, 3))
    assert worst == pytest.approx(4284, rel=0.25)
    assert one_warp == pytest.approx(292, rel=0.25)
    text = "quantize:8192x8192:int8.b128x128:bf16"
    lone, few = priced(text, tile(32, 128, 16, 3), tile(4, 128, 8, 3))
    assert lone == pytest.approx(241.7, rel=0.25)
    assert few == pytest.approx(271.5, rel=0.25)


def test_narrow_tiles_cost_dram_a_request_a_row() -> None:
    """Measured: 61.7 us with tiles 32 columns wide, 56.3 with 64, 55.1 with 128."""
    narrow, middle, wide = priced(
        "quantize:8192x8192:int8.b32x32:bf16", tile(32, 32, 1), tile(32, 64, 1), tile(32, 128, 2)
    )
    assert narrow == pytest.approx(61.7, rel=0.05)
    assert middle == pytest.approx(56.3, rel=0.05)
    assert wide == pytest.approx(55.1, rel=0.05)
    assert narrow > 1.06 * wide


def test_one_byte_scales_one_by_one_write_whole_sectors() -> None:
    """Measured: 58.3 us where a tile writes four scales beside each other, 53.9 where 32."""
    four, thirty_two = priced(
        "quantize:8192x8192:e4m3fn.mx:bf16", tile(8, 128, 1), tile(1, 1024, 1)
    )
    assert four / thirty_two == pytest.approx(58.3 / 53.9, abs=0.04)
