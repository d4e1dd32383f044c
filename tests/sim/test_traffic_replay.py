"""Traffic replayed against a cache: hand counts, conservation, and the closed form beside it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sim
from sim.gemm_model import dram_read_bytes
from sim.traffic import footprint
from sim.traffic_replay import Raster, replay

H200 = sim.load_gpu("h200")


def raster(**changes: float) -> Raster:
    plain = {
        "tiles_m": 4,
        "tiles_n": 4,
        "group_m": 2,
        "wave": 4,
        "iterations": 2,
        "a_bytes": 8.0,
        "b_bytes": 8.0,
        "c_bytes": 2.0,
    }
    return Raster(**{**plain, **changes})  # type: ignore[arg-type]


def test_an_ample_cache_reads_once_and_writes_nothing_back() -> None:
    found = replay(raster(), 1e6)
    assert found.dram_read_bytes == 4 * 8 + 4 * 8
    assert (found.dram_write_bytes, found.held_bytes) == (0, 16 * 2)
    assert found.l2_read_bytes == 16 * (8 + 8)


def test_a_tiny_cache_reads_what_every_wave_touches() -> None:
    # Waves of two rows by two columns; the cache holds less than one piece of a wave.
    found = replay(raster(), 8.0, share=1.0)
    assert found.dram_read_bytes == 4 * (2 * 8 + 2 * 8)
    assert found.dram_write_bytes + found.held_bytes == 32


def test_the_second_wave_of_a_group_finds_its_rows() -> None:
    # Two groups of two rows: each has two waves with the same rows and other columns.  A cache for
    # one wave's loads and a column more keeps the rows, not the other group's columns.
    found = replay(raster(c_bytes=0.0), 40.0, share=1.0)
    assert found.dram_read_bytes == 4 * 8 + 2 * 4 * 8


def test_wider_groups_turn_reads_of_columns_into_reads_of_rows() -> None:
    flat = replay(raster(tiles_m=16, tiles_n=16, group_m=1, wave=16, c_bytes=0.0), 128, 1.0)
    square = replay(raster(tiles_m=16, tiles_n=16, group_m=4, wave=16, c_bytes=0.0), 128, 1.0)
    assert square.dram_read_bytes < flat.dram_read_bytes


@given(
    tiles_m=st.integers(1, 12),
    tiles_n=st.integers(1, 12),
    group_m=st.integers(1, 14),
    wave=st.integers(1, 30),
    capacity=st.floats(1.0, 500.0),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_bytes_are_conserved(
    tiles_m: int, tiles_n: int, group_m: int, wave: int, capacity: float
) -> None:
    one = raster(tiles_m=tiles_m, tiles_n=tiles_n, group_m=group_m, wave=wave)
    found = replay(one, capacity, 1.0)
    once = 8 * (tiles_m + tiles_n)
    assert once - 1e-9 <= found.dram_read_bytes <= found.l2_read_bytes + 1e-9
    assert found.dram_write_bytes + found.held_bytes == pytest.approx(2 * tiles_m * tiles_n)
    assert {one.place(number) for number in range(tiles_m * tiles_n)} == {
        (row, col) for row in range(tiles_m) for col in range(tiles_n)
    }


def closed_form(one: Raster) -> float:
    columns = [np.array([value]) for value in (one.tiles_m, one.tiles_n, one.group_m, one.wave)]
    seen = footprint(*columns)
    waves = -(-columns[0] * columns[1] // columns[3])
    a, b = np.array([one.a_bytes]), np.array([one.b_bytes])
    return float(dram_read_bytes(H200, *columns[:3], a, b, waves, seen)[0])


def square(extent: int, depth: int, group_m: int, c_bytes: float) -> Raster:
    """8-bit operands in tiles of 128, a CTA on each of 132 multiprocessors."""
    return Raster(
        tiles_m=extent // 128,
        tiles_n=extent // 128,
        group_m=group_m,
        wave=132,
        iterations=depth // 128,
        a_bytes=128.0 * depth,
        b_bytes=128.0 * depth,
        c_bytes=c_bytes,
    )


@pytest.mark.parametrize(
    ("extent", "depth", "group_m"),
    [(4096, 4096, 8), (8192, 8192, 8), (8192, 8192, 1), (8192, 2048, 16), (8192, 16_384, 4)],
)
def test_the_closed_form_stays_near_the_replay_of_loads(
    extent: int, depth: int, group_m: int
) -> None:
    one = square(extent, depth, group_m, c_bytes=0.0)
    assert closed_form(one) == pytest.approx(replay(one, H200.l2_bytes).dram_read_bytes, rel=0.25)


def test_stores_push_operands_out_of_the_cache() -> None:
    """What the closed form leaves out: 33 MB of output between two uses of a column."""
    loads = replay(square(8192, 2048, 16, c_bytes=0.0), H200.l2_bytes)
    both = replay(square(8192, 2048, 16, c_bytes=128 * 128 * 2.0), H200.l2_bytes)
    assert both.dram_read_bytes > 1.4 * loads.dram_read_bytes
    whole = 2.0 * 8192**2
    assert 0.5 * whole < both.dram_write_bytes < whole


def test_a_raster_without_tiles_is_refused() -> None:
    with pytest.raises(ValueError, match="wave = 0: must be at least 1"):
        raster(wave=0)
