"""Which configurations of Hopper's weight-only product for many rows are legal, and worth trying.

The numbers are those of ``cuda/gemm_hopper_weight_prefill.py``, which imports what this may not.
"""

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.base import Limits
from tiles.kernels.hopper_rules import STAGE_BYTES, STORE_BYTES, shared_memory_rule
from tiles.kernels.hopper_weight_only_rules import panels_of, stage_bytes
from tiles.kernels.table import ConfigTable, Rule
from tiles.kernels.weight_only_resources import halves
from tiles.problems import Gemm

__all__ = [
    "BLOCK_M",
    "BLOCK_N",
    "CLUSTERS",
    "CONSUMERS",
    "MAX_BLOCK_M",
    "MAX_STAGES",
    "prefill_rules",
    "prefill_smem_bytes",
]

#: Rows of X in a tile, rows of W, and of X at most with so many of W: 128 sums a thread.
BLOCK_M = (64, 96, 128, 160, 192, 256)
BLOCK_N = (128, 256)
MAX_BLOCK_M = {128: 256, 256: 128}
#: CTAs that share each tile of X.
CLUSTERS = (1, 2)
CONSUMERS, MAX_STAGES = 2, 16


def prefill_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    staging = 0 if problem.out == "fp32" else CONSUMERS * table["store_buffers"] * STORE_BYTES
    stages, x_bytes = table["stages"], table["block_m"] * STAGE_BYTES
    panels = np.where(halves(problem.recipe.weight) == 1, stages, stages // 2 + 1)
    w_bytes = stage_bytes(problem, table) - halves(problem.recipe.weight) * x_bytes
    total: NDArray[np.int64] = stages * (x_bytes + 16) + panels * w_bytes + staging
    return total


def prefill_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the kernel does not have, what does not fit, and what cannot beat another one."""
    m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
    group, buffers = table["group_m"], table["store_buffers"]
    rows, columns = -(-problem.m // np.maximum(m, 1)), -(-problem.n // np.maximum(n, 1))
    highest = next((width for width in BLOCK_M if width >= problem.m), BLOCK_M[-1])
    steps = panels_of(problem) * halves(problem.recipe.weight)
    most = np.where(n == BLOCK_N[0], MAX_BLOCK_M[BLOCK_N[0]], MAX_BLOCK_M[BLOCK_N[1]])
    return [
        Rule(
            "tile shape",
            ~np.isin(m, BLOCK_M) | ~np.isin(n, BLOCK_N) | (m > most),
            lambda r: (
                f"tile {m[r]}x{n[r]}: it takes {', '.join(map(str, BLOCK_M))} rows by 128, or up "
                "to 128 rows by 256"
            ),
        ),
        Rule(
            "counts",
            (stages < 2)
            | (stages > MAX_STAGES)
            | ~np.isin(cluster, CLUSTERS)
            | ~np.isin(buffers, (1, 2))
            | (group < 1),
            lambda r: (
                f"stages {stages[r]}, cluster {cluster[r]}, store_buffers {buffers[r]}, group_m "
                f"{group[r]}: they lie in 2..{MAX_STAGES}, 1..2, 1..2 and from 1"
            ),
        ),
        shared_memory_rule(prefill_smem_bytes(problem, table), limits),
        Rule(
            "oversized tile",
            (m > highest) | ((n > BLOCK_N[0]) & (n >= 2 * problem.n)),
            lambda r: f"tile {m[r]}x{n[r]} for a product of {problem.m}x{problem.n}",
        ),
        Rule(
            "cluster",
            (cluster > 1) & (columns < 2),
            lambda r: "a cluster shares X between tiles along N: there is one column of tiles",
        ),
        Rule(
            "raster",
            (group > 1) & ((rows == 1) | (columns <= cluster)),
            lambda r: f"group_m {group[r]} equals group_m 1: one row or column of tiles",
        ),
        Rule(
            "stages",
            stages > np.maximum(3, 2 * steps),
            lambda r: f"{stages[r]} stages for {steps} steps along K",
        ),
        Rule(
            "staging",
            (buffers > 1) & (problem.out == "fp32"),
            lambda r: "store_buffers 2 equals 1: an output of fp32 is not staged",
        ),
    ]
