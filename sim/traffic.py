"""Footprints: how many tile rows of A and tile columns of B the CTAs of each wave touch.

CTAs are numbered along the GROUP_M raster of Triton's matmul: ``group_m`` tile rows are visited
column by column before the next group of rows begins; the last group may be narrower.  A wave is
``wave`` consecutive numbers, the CTAs that are resident together.  Everything here counts tiles
exactly, in float64: whole numbers far below 2^53, whose quotients round down to the right integer
and cost a fraction of an integer division.  ``tests/sim`` holds a twin with explicit loops.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sim.distinct import distinct_rows

__all__ = [
    "MAX_WAVES",
    "Footprint",
    "footprint",
    "miss_share",
    "neighbours_share",
    "seen_before",
    "wave_footprint",
]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Full waves that are visited one by one; of more, this many evenly spread ones stand for all.
MAX_WAVES = 64
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Tile rows and columns summed over waves; a tile counts once a wave that touches it."""

    full_rows: F64  #: tile rows of A over all full waves (whole numbers up to ``MAX_WAVES`` waves)
    full_cols: F64  #: tile columns of B over all full waves
    tail_rows: F64  #: tile rows of the last, partial wave; 0 when there is none
    tail_cols: F64
    tail_new_rows: F64  #: tile rows that no wave before the partial one has touched
    tail_new_cols: F64


def wave_footprint(tiles_m: F64, tiles_n: F64, group_m: F64, start: F64, end: F64) -> list[F64]:
    """Distinct tile rows and columns of the CTAs ``start <= number < end``, elementwise.

    ``start < end <= tiles_m * tiles_n`` and ``group_m <= tiles_m`` must hold.
    """
    group_tiles = group_m * tiles_n
    first, last = np.floor(start / group_tiles), np.floor((end - 1) / group_tiles)
    first_height = np.minimum(group_m, tiles_m - first * group_m)
    last_height = np.minimum(group_m, tiles_m - last * group_m)
    first_col = np.floor((start - first * group_tiles) / first_height)
    last_col = np.floor((end - 1 - last * group_tiles) / last_height)
    one_group = first == last
    # Within a group, `height` consecutive CTAs hold every row once, and fewer hold that many rows.
    rows = np.where(
        one_group,
        np.minimum(first_height, end - start),
        np.minimum(first_height, (first + 1) * group_tiles - start)
        + np.minimum(last_height, end - last * group_tiles)
        + (last - first - 1) * group_m,
    )
    # Two neighbouring groups hold a suffix and a prefix of the columns, three or more hold all.
    cols = np.where(
        one_group,
        last_col - first_col + 1,
        np.where(
            last - first > 1, tiles_n, np.minimum(tiles_n, tiles_n - first_col + last_col + 1)
        ),
    )
    return [rows, cols]


def seen_before(tiles_m: F64, tiles_n: F64, group_m: F64, start: F64) -> list[F64]:
    """Distinct tile rows and columns of the CTAs numbered below ``start``, elementwise."""
    group_tiles = group_m * tiles_n
    group = np.floor(start / group_tiles)
    height = np.minimum(group_m, tiles_m - group * group_m)
    within = start - group * group_tiles
    rows = group * group_m + np.minimum(height, within)
    cols = np.where(group > 0, tiles_n, np.ceil(within / height))
    return [rows, cols]


def footprint(tiles_m: I64, tiles_n: I64, group_m: I64, wave: I64) -> Footprint:
    """Footprint of every wave of a raster, summed; one entry a configuration.

    Args:
        tiles_m, tiles_n: CTA tiles along M and N, at least 1.
        group_m: raster group in tiles, at least 1.
        wave: CTAs resident together, at least 1.
    """
    group_m = np.minimum(group_m, tiles_m)
    distinct, inverse = distinct_rows(tiles_m, tiles_n, group_m, wave)
    rasters = [c[distinct] for c in (tiles_m, tiles_n, group_m, wave)]
    keys = list(zip(*(c.tolist() for c in rasters), strict=True))
    found = [_KNOWN.get(key) for key in keys]
    missing = [index for index, counts in enumerate(found) if counts is None]
    if missing:
        counted = _count_tiles(*(c[missing] for c in rasters))
        for index, counts in zip(missing, counted, strict=True):
            found[index] = counts
        if len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN.update(zip([keys[index] for index in missing], counted, strict=True))
    columns = np.array(found).T
    return Footprint(**dict(zip(_FIELDS, (c[inverse] for c in columns), strict=True)))


#: Footprints by raster: families and recipes that price one shape meet the same few hundred.
_KNOWN: dict[tuple[int, ...], tuple[float, ...]] = {}
_MOST_KNOWN = 2**16
_FIELDS = tuple(field.name for field in fields(Footprint))


def _count_tiles(tiles_m: I64, tiles_n: I64, group_m: I64, wave: I64) -> list[tuple[float, ...]]:
    """What :class:`Footprint` holds, in the order of its fields, for every raster."""
    full = tiles_m * tiles_n // wave
    m, n, group, ctas = (c.astype(np.float64) for c in (tiles_m, tiles_n, group_m, wave))
    visited = np.minimum(full, MAX_WAVES)
    row = np.repeat(np.arange(len(full)), visited)
    step = np.arange(len(row)) - np.repeat(np.cumsum(visited) - visited, visited)
    # Steps of the golden ratio spread the visited waves evenly and, unlike equal steps, never march
    # in time with the raster.
    turns = step * GOLDEN
    spread = np.floor((turns - np.floor(turns)) * full[row])
    start = np.where(full[row] > MAX_WAVES, spread, step) * ctas[row]
    rows, cols = wave_footprint(m[row], n[row], group[row], start, start + ctas[row])
    weight = full / np.maximum(visited, 1)
    full_rows = np.bincount(row, weights=rows, minlength=len(full)) * weight
    full_cols = np.bincount(row, weights=cols, minlength=len(full)) * weight
    end = m * n
    partial = full * ctas < end
    start = np.minimum(full * ctas, end - 1)
    rows, cols = wave_footprint(m, n, group, start, end)
    seen_rows, seen_cols = seen_before(m, n, group, start)
    tail = (rows, cols, m - seen_rows, n - seen_cols)
    columns = (full_rows, full_cols, *(np.where(partial, c, 0.0) for c in tail))
    return list(zip(*(c.tolist() for c in columns), strict=True))


def neighbours_share(
    tiles_m: I64, tiles_n: I64, group_m: I64, window: I64, a_rows: I64, b_rows: I64
) -> F64:
    """Share of what ``window`` CTAs with consecutive numbers ask for that none of them shares.

    Args:
        tiles_m, tiles_n: CTA tiles along M and N, at least 1.
        group_m: raster group in tiles, at least 1.
        a_rows, b_rows: of a tile of A and of B, all of one length.
    """
    columns = (tiles_m, tiles_n, group_m, window, a_rows, b_rows)
    distinct, inverse = distinct_rows(*columns)
    m, n, group, end, a, b = (c[distinct].astype(np.float64) for c in columns)
    end = np.minimum(end, m * n)
    rows, cols = wave_footprint(m, n, np.minimum(group, m), np.zeros_like(end), end)
    share: F64 = (rows * a + cols * b) / (end * (a + b))
    return share[inverse]


def miss_share(distance_bytes: F64, cache_bytes: float) -> F64:
    """Share of re-reads that miss a cache when ``distance_bytes`` lie between two uses.

    A soft step at three quarters of the capacity: 1/2 there, 6 % at half of it, 94 % at twice it.
    The steepness is a prior; replacement and set conflicts are not modelled.
    """
    square = (distance_bytes / (0.75 * cache_bytes)) ** 2
    fourth = square * square
    return fourth / (1 + fourth)
