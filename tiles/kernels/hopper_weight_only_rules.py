"""Which configurations of Hopper's weight-only product are legal, and worth trying.

The numbers are those of ``cuda/gemm_hopper_weight_only.py``, which imports what this may not.
"""

import numpy as np
from numpy.typing import NDArray

from tiles.formats import TensorFormat
from tiles.kernels.base import Limits
from tiles.kernels.hopper_rules import shared_memory_rule
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.weight_only_resources import PANEL_BYTES, group_columns, halves
from tiles.problems import Gemm

__all__ = [
    "BLOCK_M",
    "CLUSTERS",
    "COUNTED_TILES",
    "MAX_BLOCK_N",
    "MAX_PER_SM",
    "MAX_STAGES",
    "MAX_SUMS",
    "MAX_WARPS",
    "ROWS_MULTIPLE",
    "SCALE_BYTES",
    "WARPS_K",
    "WARP_ROWS",
    "capability_rules",
    "held_registers",
    "panels_of",
    "resource_rules",
    "scale_format",
    "stage_bytes",
    "warps_n",
    "waste_rules",
    "weight_smem_bytes",
]

#: Rows of X in a tile, rows of W that a warp multiplies, and groups of warps that share K.
BLOCK_M = (8, 16, 32, 64)
WARP_ROWS = (16, 32, 64)
WARPS_K = (1, 2, 4, 8)
#: CTAs of a cluster, which share the panels of a tile.
CLUSTERS = (1, 2, 4, 8)
#: Tiles that fill any GPU without a cluster each.
_ENOUGH_TILES = 128
MAX_BLOCK_N, MAX_WARPS, MAX_SUMS, MAX_STAGES, MAX_PER_SM = 512, 16, 32, 48, 4
#: Rows of weights come in these.
ROWS_MULTIPLE = 16
#: Tiles that CTAs may share: a workspace counts so many.
COUNTED_TILES = 2**14
SCALE_BYTES = {"": 0, "fp32": 4, "fp16": 2, "bf16": 2, "e8m0fnu": 1, "e4m3fn": 1}
#: Shared memory of every CTA that the system takes; a multiprocessor has so much beside a CTA's.
_SYSTEM_BYTES = 1024
#: Of a thread beside sums, partial sums, packed words and scales: with fewer the compiler spills.
_OTHER_REGISTERS = 48


def scale_format(weight: TensorFormat) -> str:
    """How scales of groups along K are stored; "" where there are none."""
    return weight.scaling.stored.name if weight.scaling and group_columns(weight) else ""


def panels_of(problem: Gemm) -> int:
    """Panels along K, 64 bytes of a row of weights each."""
    return -(-problem.k // (PANEL_BYTES * halves(problem.recipe.weight)))


def stage_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """What a stage holds: weights, activations, scales and zero points, bytes."""
    weight = problem.recipe.weight
    panel, group = PANEL_BYTES * halves(weight), group_columns(weight)
    a_row = panel // group if 0 < group < panel else 1
    m, n = table["block_m"], table["block_n"]
    slot = -(-n * a_row * SCALE_BYTES[scale_format(weight)] // 128) * 128
    zeros = -(-n * a_row // 128) * 128 if weight.asymmetric else 0
    total: NDArray[np.int64] = n * PANEL_BYTES + m * 2 * panel + slot + zeros
    return total


def weight_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    staging = table["warps_k"] * table["block_m"] * (table["block_n"] + 4) * 4
    total: NDArray[np.int64] = table["stages"] * (stage_bytes(problem, table) + 16) + staging + 16
    return total


def held_registers(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Registers of a thread for sums, partial sums, packed words, and scales within a panel."""
    weight, sixteens = problem.recipe.weight, table["warp_rows"] // 16
    panel, group = PANEL_BYTES * halves(weight), group_columns(weight)
    scales = 2 * (panel // group) * (2 if weight.asymmetric else 1) if 0 < group < panel else 0
    # Two halves of a panel that the tensor cores read: 96 registers are enough at 32 rows of X.
    units = np.where(table["wgmma"], 12, 0)
    total: NDArray[np.int64] = sixteens * (table["block_m"] + 8 + scales) + units
    return total


def warps_n(table: ConfigTable) -> NDArray[np.int64]:
    """Warps that share the rows of a tile; with ``wgmma`` whole warpgroups."""
    n, rows = table["block_n"], np.maximum(table["warp_rows"], 1)
    found: NDArray[np.int64] = np.where(table["wgmma"], -(-n // 64) * 4, n // rows)
    return found


def capability_rules(problem: Gemm, table: ConfigTable) -> list[Rule]:
    """What the kernel does not have."""
    m, n, rows, groups = (table[f] for f in ("block_m", "block_n", "warp_rows", "warps_k"))
    stages, per_sm, cluster = table["stages"], table["per_sm"], table["cluster"]
    warps, wgmma = warps_n(table) * groups, table["wgmma"]
    group, panel = group_columns(problem.recipe.weight), PANEL_BYTES * halves(problem.recipe.weight)
    sums = m * rows // 32
    return [
        Rule(
            "tile shape",
            ~np.isin(m, BLOCK_M)
            | ~np.isin(rows, WARP_ROWS)
            | ~np.isin(groups, WARPS_K)
            | (n < np.where(wgmma, 64, rows))
            | (n % np.where(wgmma, ROWS_MULTIPLE, np.maximum(rows, 1)) != 0)
            | (n > MAX_BLOCK_N),
            lambda r: (
                f"tile {m[r]}x{n[r]}, warp_rows {rows[r]}, warps_k {groups[r]}: it takes "
                f"{', '.join(map(str, BLOCK_M))} rows, warps of {', '.join(map(str, WARP_ROWS))} "
                f"that divide block_n up to {MAX_BLOCK_N}, and {', '.join(map(str, WARPS_K))}; "
                f"with wgmma block_n from 64 in multiples of {ROWS_MULTIPLE}"
            ),
        ),
        Rule(
            "warpgroups",
            wgmma & ((group % panel != 0) | (rows != 16)),
            lambda r: (
                f"warp_rows {rows[r]}, groups of {group} columns: products of warpgroups take 16 "
                f"rows a warp and are scaled by whole panels of {panel} columns"
            ),
        ),
        Rule(
            "warps",
            warps > MAX_WARPS,
            lambda r: f"{warps[r]} warps multiply: {MAX_WARPS} at most",
        ),
        Rule(
            "registers",
            sums > MAX_SUMS,
            lambda r: f"{sums[r]} sums a thread > {MAX_SUMS}",
        ),
        Rule(
            "counts",
            (stages < np.maximum(2, groups))
            | (stages > MAX_STAGES)
            | (stages % np.maximum(groups, 1) != 0)
            | (per_sm < 0)
            | (per_sm > MAX_PER_SM),
            lambda r: (
                f"stages {stages[r]}, per_sm {per_sm[r]}: they lie in {max(2, groups[r])}.."
                f"{MAX_STAGES}, multiples of warps_k {groups[r]}, and 0..{MAX_PER_SM}"
            ),
        ),
        Rule(
            "cluster",
            ~np.isin(cluster, CLUSTERS) | ((cluster > 1) & (per_sm > 0)),
            lambda r: (
                f"cluster {cluster[r]}, per_sm {per_sm[r]}: cluster is one of "
                f"{', '.join(map(str, CLUSTERS))}, and 1 with per_sm"
            ),
        ),
    ]


def resource_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What CTAs take of a multiprocessor."""
    smem, per_sm = weight_smem_bytes(problem, table), np.maximum(table["per_sm"], 1)
    shared = limits.smem_bytes_per_cta + _SYSTEM_BYTES
    warps = warps_n(table) * table["warps_k"] + 1
    taken = held_registers(problem, table) + _OTHER_REGISTERS
    # Each of four schedulers has a quarter of the registers, and a CTA's warps in turn.
    together = -(-per_sm * warps // 4) * 4
    room = limits.registers_per_sm // np.maximum(together * limits.warp_threads, 1)
    tiles = -(-problem.m // np.maximum(table["block_m"], 1)) * -(
        -problem.n // np.maximum(table["block_n"], 1)
    )
    return [
        shared_memory_rule(smem, limits),
        Rule(
            "resident",
            per_sm * (smem + _SYSTEM_BYTES) > shared,
            lambda r: (
                f"per_sm {per_sm[r]} x ({smem[r]} + {_SYSTEM_BYTES}) B > {shared} B of a "
                "multiprocessor"
            ),
        ),
        Rule(
            "register file",
            taken > room,
            lambda r: f"{taken[r]} registers a thread, {room[r]} for {per_sm[r] * warps[r]} warps",
        ),
        Rule(
            "shared tiles",
            (table["per_sm"] > 0) & (tiles > COUNTED_TILES),
            lambda r: f"per_sm {per_sm[r]} of {tiles[r]} tiles: {COUNTED_TILES} are counted",
        ),
    ]


def waste_rules(problem: Gemm, table: ConfigTable) -> list[Rule]:
    """Configurations that equal, or cannot beat, another one of the space."""
    m, n, groups, stages = (table[f] for f in ("block_m", "block_n", "warps_k", "stages"))
    cluster, panels = table["cluster"], panels_of(problem)
    share = panels // np.maximum(cluster, 1)
    tiles = -(-problem.m // np.maximum(m, 1)) * -(-problem.n // np.maximum(n, 1))
    widest = next((width for width in BLOCK_M if width >= problem.m), BLOCK_M[-1])
    tallest = max(BLOCK_M[-1], -(-problem.n // ROWS_MULTIPLE) * ROWS_MULTIPLE)
    return [
        Rule(
            "oversized tile",
            (m > widest) | (n > tallest),
            lambda r: f"tile {m[r]}x{n[r]} for a product of {problem.m}x{problem.n}",
        ),
        Rule(
            "narrow tile",
            m < widest,
            lambda r: f"tiles of {m[r]} rows decode W over and over for {problem.m} rows",
        ),
        Rule(
            "groups of warps",
            (groups > 1) & (2 * groups > share),
            lambda r: f"{groups[r]} groups of warps share {share[r]} panels",
        ),
        Rule(
            "stages",
            (stages > np.maximum(4, share)) & (table["per_sm"] == 0),
            lambda r: f"{stages[r]} stages for {share[r]} panels",
        ),
        Rule(
            "split",
            (cluster > panels) | ((cluster > 1) & (tiles >= _ENOUGH_TILES)),
            lambda r: f"{cluster[r]} CTAs share {panels} panels of {tiles[r]} tiles",
        ),
    ]
