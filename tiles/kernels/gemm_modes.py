"""Modes of the scaled GEMM beyond one program a tile: which exist, and where they may pay.

Split-K and stream-K share the K extent of tiles that do not fill the GPU; sub-tiles write a tile in
parts; overlap promotes a product while the next one runs; specialised warps fetch while others
multiply.  Each has a table of its own beside the plain space, of the tiles that it is meant for.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.base import Limits
from tiles.kernels.config import TileConfig
from tiles.kernels.gemm_smem import column
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm

__all__ = ["mode_rules", "mode_tables"]

#: Tiles of 128 x 128 from which a GPU is full without split K: two on each of 256 multiprocessors.
_FULL = 512
#: Tiles from which the last wave of them is too small a part for stream-K to matter.
_MANY = 1024
#: Steps along K that a share should have, so that its loop gets going.
_LEAST_STEPS = 4
#: Accumulators a thread of a shared tile, read off compiled kernels: with more of them it spills.
_MOST_SHARED_SUMS = 128
#: Registers a thread of three warpgroups can have, and what it needs beside its accumulators.
_SPECIALIZED_REGISTERS = 168
_OTHER_REGISTERS = 24

Mask = NDArray[np.bool_]


def _quant_columns(problem: Gemm) -> int:
    """Elements along K under one scale, the fewer of both sides; 0: scales do not change there."""
    recipe = problem.recipe
    scalings = (recipe.activation.scaling, recipe.weight.scaling)
    return min((s.cols for s in scalings if s is not None and s.cols is not None), default=0)


def _depths(problem: Gemm) -> tuple[int, ...]:
    """Depths of a K-iteration that go with the scales; the shallowest are for small blocks only."""
    quant = _quant_columns(problem)
    found = tuple(d for d in (64, 128) if not quant or quant % d == 0)
    return found or (32,)


def mode_tables(problem: Gemm, limits: Limits, config_type: type[TileConfig]) -> list[ConfigTable]:
    """Tables of the modes that a problem may have a use for on a GPU."""
    depths = _depths(problem)
    tma = (False, True) if "tma" in limits.features else (False,)
    tiles = -(-problem.m // 128) * -(-problem.n // 128)
    found = []

    def add(**axes: Sequence[int | bool]) -> None:
        usual: dict[str, Sequence[int | bool]] = {
            "block_k": depths,
            "group_m": (1, 8),
            "num_warps": (4, 8),
            "tma": tma,
            "persistent": (False,),
        }
        found.append(ConfigTable.product(config_type, **{**usual, **axes}))

    if tiles < _FULL:
        add(
            block_m=(16, 32, 64, 128),
            block_n=(32, 64, 128),
            group_m=(1,),
            num_stages=(3, 4, 5),
            split_k=(2, 3, 4, 6, 8, 16),
        )
    if tiles < 2 * _MANY:
        add(
            block_m=(64, 128, 256),
            block_n=(64, 128, 256),
            num_stages=(3, 4),
            persistent=(True,),
            stream_k=(True,),
        )
    if tma[-1]:
        add(
            block_m=(128, 256),
            block_n=(128, 256),
            num_warps=(8,),
            num_stages=(3, 4, 5),
            tma=(True,),
            persistent=(True,),
            subtiles=(1, 4),
        )
    if problem.recipe.blockwise:
        add(
            block_m=(64, 128),
            block_n=(64, 128),
            num_stages=(3, 4, 5),
            persistent=(False, True),
            overlap=(True,),
        )
    if "wgmma" in limits.features:
        add(
            block_m=(128, 256),
            block_n=(64, 128, 256),
            num_warps=(4,),
            num_stages=(2, 3, 4),
            tma=(True,),
            specialize=(True,),
        )
    return found


def mode_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """Which modes go together, and where each can pay."""
    return [
        *_share_rules(problem, table, limits),
        *_store_rules(problem, table),
        *_promotion_rules(problem, table, limits),
        *_specialize_rules(problem, table, limits),
    ]


def _tiles(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    m, n = np.maximum(table["block_m"], 1), np.maximum(table["block_n"], 1)
    tiles: NDArray[np.int64] = -(-problem.m // m) * -(-problem.n // n)
    return tiles


def _share_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    split, stream = column(table, "split_k", 1), column(table, "stream_k", False)
    persistent = table["persistent"]
    tiles = _tiles(problem, table)
    steps = -(-problem.k // np.maximum(table["block_k"], 1))
    share = -(-steps // np.maximum(split, 1))
    short = (share < _LEAST_STEPS) | (share * (split - 1) >= steps)
    threads = np.maximum(table["num_warps"] * limits.warp_threads, 1)
    held = table["block_m"] * table["block_n"] // threads * (2 if problem.recipe.blockwise else 1)
    # Addresses of partial sums, and of loads without descriptors, stand beside the accumulators.
    most = np.where(table["tma"], _MOST_SHARED_SUMS, _MOST_SHARED_SUMS - 1)
    return [
        Rule(
            "split",
            (split < 1) | ((split > 1) & (persistent | short)),
            lambda r: (
                f"split_k {split[r]} of {steps[r]} steps along K: shares need {_LEAST_STEPS} steps "
                "each and no persistent loop"
            ),
        ),
        Rule(
            "split tiles",
            (split > 1) & (tiles >= _FULL),
            lambda r: f"split_k {split[r]} of {tiles[r]} tiles, which fill a GPU by themselves",
        ),
        Rule(
            "stream",
            stream & ((split > 1) | ~persistent | (steps < 2 * _LEAST_STEPS) | (tiles >= _MANY)),
            lambda r: (
                f"stream_k shares the last of {tiles[r]} tiles (fewer than {_MANY}) of {steps[r]} "
                f"steps (at least {2 * _LEAST_STEPS}) in a persistent launch without split_k"
            ),
        ),
        Rule(
            "split registers",
            ((split > 1) | stream) & (held > most),
            lambda r: (
                f"accumulators of a shared tile take {held[r]} registers a thread, more than "
                f"{most[r]}: they spill"
            ),
        ),
    ]


def _store_rules(problem: Gemm, table: ConfigTable) -> list[Rule]:
    parts = column(table, "subtiles", 0)
    shared = (column(table, "split_k", 1) > 1) | column(table, "stream_k", False)
    area = table["block_m"] * table["block_n"]
    # Two parts are what 0 means for them; elsewhere the output reuses the pipeline's memory.
    useful = table["tma"] & table["persistent"] & ~shared & (area >= 128 * 128)
    known = (parts == 0) | (parts == 1) | (parts == 4)
    return [
        Rule(
            "subtiles",
            ~known | ((parts > 0) & ~useful),
            lambda r: (
                f"subtiles {parts[r]}: 0, or 1 or 4 for a persistent tile of 128x128 or more that "
                "descriptors write"
            ),
        )
    ]


def _promotion_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    overlap = column(table, "overlap", False)
    threads = np.maximum(table["num_warps"] * limits.warp_threads, 1)
    # Sums, the product that is promoted, and the one that runs.
    held = 3 * (table["block_m"] * table["block_n"] // threads)
    most = np.minimum(255, limits.registers_per_sm // threads)
    waits = ("wgmma" in limits.features) & (table["block_m"] >= 64)
    useless = np.asarray(~waits | (not problem.recipe.blockwise), np.bool_)
    return [
        Rule(
            "overlap",
            overlap & useless,
            lambda r: (
                f"{problem.recipe.name}, block_m {table['block_m'][r]}: only products that are "
                "promoted and that wgmma computes can run under a promotion"
            ),
        ),
        Rule(
            "overlap registers",
            overlap & (held + _OTHER_REGISTERS > most),
            lambda r: f"overlap holds {held[r]} accumulators of {most[r]} registers a thread",
        ),
    ]


def _specialize_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    specialize = column(table, "specialize", False)
    m, n = table["block_m"], table["block_n"]
    alone = table["tma"] & ~table["persistent"] & (column(table, "split_k", 1) == 1)
    alone = alone & ~column(table, "stream_k", False) & ~column(table, "overlap", False)
    alone = alone & (column(table, "subtiles", 0) == 0) & (table["num_warps"] == 4)
    wgmma = "wgmma" in limits.features
    # Tiles of 64 rows are split by columns, which Triton 3.6 does wrongly or refuses (measured);
    # others that are no multiple of 128 are multiplied twice, once by each warpgroup.
    halved = (m >= 128) & (m % 128 == 0)
    held = m * n // 256 * (2 if problem.recipe.blockwise else 1)
    native = {
        fmt.element.name for fmt in (problem.recipe.activation, problem.recipe.weight)
    } <= limits.native_elements
    grouped = _grouped(problem, table)
    return [
        Rule(
            "specialize",
            specialize & ~(alone & wgmma & native & halved & ~grouped),
            lambda r: (
                f"specialize takes native elements, wgmma, tma, 4 warps, no other mode, and tiles "
                f"of two times 64 rows or more, not {m[r]}x{n[r]}, under one scale or one a row"
            ),
        ),
        Rule(
            "specialize registers",
            specialize & (held + _OTHER_REGISTERS > _SPECIALIZED_REGISTERS),
            lambda r: f"accumulators take {held[r]} of {_SPECIALIZED_REGISTERS} registers a thread",
        ),
    ]


def _grouped(problem: Gemm, table: ConfigTable) -> Mask:
    """Where blocks of rows, more than one and fewer than a tile's, share scales along K."""
    result = np.zeros(len(table), np.bool_)
    recipe = problem.recipe
    for fmt, extent in ((recipe.activation, table["block_m"]), (recipe.weight, table["block_n"])):
        if fmt.scaling is None or fmt.scaling.cols is None:
            continue
        rows = fmt.scaling.rows or 0
        if rows > 1:
            result |= (rows < extent) & (extent % rows == 0)
    return result
