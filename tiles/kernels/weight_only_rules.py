"""Which configurations of a weight-only product are legal, and worth trying."""

import numpy as np

from tiles.kernels.base import Limits
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.tile_rules import next_power_of_two
from tiles.kernels.weight_only_resources import (
    PANEL_BYTES,
    group_columns,
    halves,
    registers,
    smem_bytes,
)
from tiles.problems import Gemm

__all__ = [
    "LEAST_PANELS",
    "MAX_SPLIT_TILES",
    "resource_rules",
    "scale_rules",
    "shape_rules",
    "tma_rules",
    "waste_rules",
]

#: Panels that a share of a split K should have, so that its loop gets going.
LEAST_PANELS = 4
#: Tiles of a split K that the template's workspace counts.
MAX_SPLIT_TILES = 2**14
_MAX_REGISTERS = 255


def shape_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the compiler cannot build, whatever the GPU's size."""
    m, n, warps = table["block_m"], table["block_n"], table["num_warps"]
    powers = np.logical_and.reduce([(x >= 1) & (x & (x - 1) == 0) for x in (m, n, warps)])
    counts = np.minimum.reduce([table["num_stages"], table["group_m"], table["split_k"]])
    return [
        Rule(
            "tile shape",
            ~powers | (m < 8) | (n < 16) | (counts < 1),
            lambda r: (
                f"block_m {m[r]} (at least 8), block_n {n[r]} (at least 16), num_warps {warps[r]} "
                "must be powers of two, num_stages, group_m and split_k at least 1"
            ),
        ),
    ]


def scale_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """Where scales can be applied."""
    fold, group = table["fold"], group_columns(problem.recipe.weight)
    # Scales or zero points that a tile's weights are decoded with: with fewer of them than threads
    # Triton decodes in a layout of theirs and moves the weights through shared memory.
    values = table["block_n"] * (max(1, 64 // group) if group else 1)
    threads = table["num_warps"] * limits.warp_threads
    carried = fold | problem.recipe.weight.asymmetric
    return [
        Rule(
            "fold",
            (fold & (group == 0)) | (~fold & (0 < group < 64)),
            lambda r: (
                f"{problem.recipe.weight} has no groups of scales to fold into the weights"
                if group == 0
                else f"groups of {group} columns need fold: a promoted product has 64"
            ),
        ),
        Rule(
            "layout",
            carried & (values < threads),
            lambda r: (
                f"{values[r]} scales a tile for {threads[r]} threads: decoded weights would go "
                "through shared memory"
            ),
        ),
    ]


def tma_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What tensor-memory-access descriptors need."""
    tma = table["tma"]
    has_tma = "tma" in limits.features
    return [
        Rule("tma", tma & (not has_tma), lambda r: f"{limits.gpu} has no tensor memory access"),
        Rule(
            "tma alignment",
            tma & (problem.k % 8 != 0),
            lambda r: f"tma needs rows of multiples of 16 B, got K {problem.k} of 2 B",
        ),
    ]


def resource_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What a CTA takes of a multiprocessor."""
    threads = table["num_warps"] * limits.warp_threads
    smem = smem_bytes(problem, table, limits.capability)
    taken = registers(problem, table, limits.warp_threads)
    per_thread = np.minimum(_MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
    return [
        Rule(
            "threads",
            threads > limits.threads_per_sm,
            lambda r: f"{threads[r]} threads > {limits.threads_per_sm} on {limits.gpu}",
        ),
        Rule(
            "shared memory",
            smem > limits.smem_bytes_per_cta,
            lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        ),
        Rule(
            "registers",
            taken > per_thread,
            lambda r: f"accumulators and weights take {taken[r]} of {per_thread[r]} registers",
        ),
    ]


def waste_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """Configurations that equal, or cannot beat, another one of the space."""
    m, n, split = table["block_m"], table["block_n"], table["split_k"]
    warps, stages, group = table["num_warps"], table["num_stages"], table["group_m"]
    panels = -(-problem.k // (PANEL_BYTES * halves(problem.recipe.weight)))
    share = -(-panels // np.maximum(split, 1))
    tiles = -(-problem.m // np.maximum(m, 1)) * -(-problem.n // np.maximum(n, 1))
    most_m = max(16, 2 * next_power_of_two(problem.m))
    most_n = max(64, 2 * next_power_of_two(problem.n))
    tiles_m = -(-problem.m // np.maximum(m, 1))
    return [
        Rule(
            "oversized tile",
            (m > most_m) | (n > most_n),
            lambda r: f"tile {m[r]}x{n[r]} for an output of {problem.m}x{problem.n}",
        ),
        # An instruction has 16 (wgmma: 4 warps, 64) rows of weights; more warps decode them again.
        Rule(
            "warps",
            n // 16 < warps,
            lambda r: f"{warps[r]} warps share the {n[r] // 16} m16 parts of the weights",
        ),
        Rule(
            "split",
            (split > 1) & ((share < LEAST_PANELS) | (share * (split - 1) >= panels)),
            lambda r: (
                f"split_k {split[r]} of {panels} panels: shares of {share[r]}, one may be empty"
            ),
        ),
        Rule(
            "split tiles",
            (split > 1) & (tiles > MAX_SPLIT_TILES),
            lambda r: f"split_k {split[r]} of {tiles[r]} tiles: {MAX_SPLIT_TILES} are counted",
        ),
        Rule(
            "stages",
            stages > np.maximum(2, share + 1),
            lambda r: f"{stages[r]} stages for {share[r]} panels",
        ),
        Rule(
            "raster",
            (group > 1) & (tiles_m == 1),
            lambda r: f"group_m {group[r]} equals group_m 1: there is one row of tiles",
        ),
    ]
