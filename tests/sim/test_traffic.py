"""Footprints against a twin with explicit loops over CTAs."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.traffic import MAX_WAVES, Footprint, footprint, miss_share, neighbours_share
from sim.waves import waves


def position(number: int, tiles_m: int, tiles_n: int, group_m: int) -> tuple[int, int]:
    """Tile row and column of a CTA, as Triton's matmul tutorial computes them."""
    group_tiles = group_m * tiles_n
    first = number // group_tiles * group_m
    height = min(tiles_m - first, group_m)
    within = number % group_tiles
    return first + within % height, within // height


def slow_footprint(tiles_m: int, tiles_n: int, group_m: int, wave: int) -> dict[str, int]:
    """The same sums as :func:`footprint`, CTA by CTA."""
    total = dict.fromkeys((f.name for f in fields(Footprint)), 0)
    seen_rows: set[int] = set()
    seen_cols: set[int] = set()
    tiles = tiles_m * tiles_n
    for start in range(0, tiles, wave):
        end = min(start + wave, tiles)
        places = [position(number, tiles_m, tiles_n, group_m) for number in range(start, end)]
        rows, cols = {row for row, _ in places}, {col for _, col in places}
        if end - start == wave:
            total["full_rows"] += len(rows)
            total["full_cols"] += len(cols)
        else:
            total["tail_rows"], total["tail_cols"] = len(rows), len(cols)
            total["tail_new_rows"] = len(rows - seen_rows)
            total["tail_new_cols"] = len(cols - seen_cols)
        seen_rows |= rows
        seen_cols |= cols
    return total


def column(value: int) -> np.ndarray:
    return np.array([value], dtype=np.int64)


def fast_footprint(tiles_m: int, tiles_n: int, group_m: int, wave: int) -> dict[str, int]:
    seen = footprint(column(tiles_m), column(tiles_n), column(group_m), column(wave))
    return {f.name: getattr(seen, f.name)[0] for f in fields(Footprint)}


@given(
    tiles_m=st.integers(1, 40),
    tiles_n=st.integers(1, 40),
    group_m=st.integers(1, 12),
    wave=st.integers(1, 200),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_equals_the_loops(tiles_m: int, tiles_n: int, group_m: int, wave: int) -> None:
    wave = max(wave, -(-tiles_m * tiles_n // MAX_WAVES))  # every wave is visited
    assert fast_footprint(tiles_m, tiles_n, group_m, wave) == slow_footprint(
        tiles_m, tiles_n, group_m, wave
    )


def test_a_table_equals_its_rows() -> None:
    random = np.random.default_rng(3)
    columns = [random.integers(1, top, 200) for top in (30, 30, 9, 150)]
    columns = [np.concatenate([c, c]) for c in columns]  # repeated rows are computed once
    together = footprint(*columns)
    for row in range(0, 400, 7):
        alone = footprint(*(c[row : row + 1] for c in columns))
        for f in fields(Footprint):
            assert getattr(together, f.name)[row] == getattr(alone, f.name)[0]


@pytest.mark.parametrize("group_m", [1, 8])
def test_evenly_spread_waves_stand_for_very_many(group_m: int) -> None:
    # 256 x 256 tiles in waves of 132: 496 full waves, of which MAX_WAVES are visited.
    fast = fast_footprint(256, 256, group_m, 132)
    slow = slow_footprint(256, 256, group_m, 132)
    for name in ("full_rows", "full_cols"):
        # Waves that lie across two groups are rare, so a sample of 64 may miss them.
        assert fast[name] == pytest.approx(slow[name], rel=0.07)
    for name in ("tail_rows", "tail_cols", "tail_new_rows", "tail_new_cols"):
        assert fast[name] == slow[name]


def test_huge_grids_do_not_overflow() -> None:
    seen = footprint(column(2**20), column(2**20), column(8), column(132))
    assert seen.full_rows[0] > 2**40 / 132 * 8 * 0.9
    assert np.isfinite(seen.full_cols[0])


def test_group_raster_saves_traffic() -> None:
    """132 CTAs in groups of 8 rows touch 8 rows and 17 columns, in rows 2 rows and 128 columns."""
    assert fast_footprint(64, 128, 8, 132)["full_rows"] < 64 * 128 / 132 * 17
    one, eight = (fast_footprint(64, 128, g, 132) for g in (1, 8))
    assert eight["full_rows"] + eight["full_cols"] < 0.25 * (one["full_rows"] + one["full_cols"])


def slow_waves(tiles: int, occupancy: int, sm_count: int) -> tuple[int, int, int]:
    """Full waves, CTAs of the partial one, and the load of its fullest SM."""
    full = 0
    while tiles >= occupancy * sm_count:
        tiles -= occupancy * sm_count
        full += 1
    load = [0] * sm_count
    for number in range(tiles):
        load[number % sm_count] += 1
    return full, tiles, max(load)


@given(tiles=st.integers(1, 5000), occupancy=st.integers(1, 8), sm_count=st.integers(1, 150))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_waves_equal_the_loops(tiles: int, occupancy: int, sm_count: int) -> None:
    fast = waves(column(tiles), column(occupancy), sm_count)
    full, tail, load = slow_waves(tiles, occupancy, sm_count)
    assert (fast.full[0], fast.tail_ctas[0], fast.tail_per_sm[0]) == (full, tail, load)
    assert fast.count[0] == full + (tail > 0)
    assert fast.tail_sms[0] == min(tail, sm_count)


def test_wave_quantisation_of_a_known_case() -> None:
    # 4096 x 4096 in tiles of 128 x 256: 512 tiles on 132 SMs are 3 full waves and 116 CTAs.
    spread = waves(column(512), column(1), 132)
    assert (spread.full[0], spread.tail_ctas[0], spread.count[0]) == (3, 116, 4)


def test_miss_share_is_a_soft_step_at_three_quarters() -> None:
    shares = miss_share(np.array([0.0, 0.375, 0.75, 1.5, 100.0]) * 1e6, 1e6)
    assert shares == pytest.approx([0, 1 / 17, 0.5, 16 / 17, 1], abs=1e-6)
    assert (np.diff(miss_share(np.linspace(0, 3e6, 100), 1e6)) > 0).all()


@pytest.mark.parametrize("group_m", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("tiles_m", "tiles_n"), [(16, 64), (32, 16), (2, 3)])
def test_neighbours_share_lines_as_a_loop_over_them_counts(
    tiles_m: int, tiles_n: int, group_m: int
) -> None:
    """The first CTAs of the raster, tiles of A twice as large as those of B."""
    window = min(16, tiles_m * tiles_n)
    places = [position(number, tiles_m, tiles_n, min(group_m, tiles_m)) for number in range(window)]
    rows, cols = {row for row, _ in places}, {col for _, col in places}
    m, n, group = (np.array([extent]) for extent in (tiles_m, tiles_n, group_m))
    found = neighbours_share(m, n, group, *(np.array([extent]) for extent in (16, 2, 1)))
    assert found[0] == pytest.approx((2 * len(rows) + len(cols)) / (3 * window))
