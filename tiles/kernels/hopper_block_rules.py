"""Scales of one shape on both sides of Hopper's product: which there are, and what is legal."""

import numpy as np
from numpy.typing import NDArray

from tiles.formats import IntElement, TensorFormat
from tiles.kernels.base import Limits
from tiles.kernels.hopper_rules import (
    MAX_STAGES,
    STAGE_BYTES,
    STATIC_UNIT_BYTES,
    STORE_BYTES,
    shared_memory_rule,
    walk_rules,
)
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm

__all__ = [
    "RUNS",
    "SCALES",
    "block_rules",
    "block_scales",
    "block_smem_bytes",
    "consumer_tile",
    "may_run_on",
    "scales_of",
]

#: Rows and elements along K under one scale, on both sides, by the launcher's name.
SCALES = {
    "b32x32": (32, 32),
    "b64x64": (64, 64),
    "b128x128": (128, 128),
    "b1x32": (1, 32),
    "b1x128": (1, 128),
}
#: Units of a set that its accumulators may run on over, and elements along K that these may have.
RUNS = (4, 8)
#: Rows of one wgmma: blocks of codes as high lie in one consumer.
CONSUMER_ROWS = 64
RUN_K = 256
#: Formats of scales whose values the launcher takes as fp32.
STORED = ("fp32", "e8m0fnu")


def block_scales(activation: TensorFormat, weight: TensorFormat) -> str | None:
    """The launcher's name of a pair's scales, or ``None`` where it does not take them."""
    if activation.asymmetric or weight.asymmetric:
        return None
    shapes = []
    for scaling in (activation.scaling, weight.scaling):
        if scaling is None or scaling.two_level or scaling.stored.name not in STORED:
            return None
        shapes.append((scaling.rows, scaling.cols))
    same = shapes[0] == shapes[1]
    return next((name for name, shape in SCALES.items() if same and shape == shapes[0]), None)


def scales_of(problem: Gemm) -> str:
    """The launcher's name of a served problem's scales."""
    found = block_scales(problem.recipe.activation, problem.recipe.weight)
    assert found is not None
    return found


def output_rows(problem: Gemm) -> int:
    """Rows under one scale of the output, 0 for numbers."""
    scaling = problem.output.scaling
    return 0 if scaling is None else scaling.rows or 0


def may_run_on(problem: Gemm) -> bool:
    """Whether accumulators may run on over units: integers under scales of blocks."""
    return problem.recipe.activation.element.name == "int8" and SCALES[scales_of(problem)][0] > 1


def consumer_tile(table: ConfigTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of one consumer: they stand below each other as far as 64 rows reach."""
    m, n, consumers = table["block_m"], table["block_n"], table["consumers"]
    down = np.maximum(np.minimum(m // 64, consumers), 1)
    return m // down, n * down // np.maximum(consumers, 1)


def block_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes; exact, the kernel lays it out itself."""
    rows, quant_k = SCALES[scales_of(problem)]
    m, n, stages = table["block_m"], table["block_n"], table["stages"]
    units = STAGE_BYTES // quant_k
    running = table["run"] > 1
    if rows == 1:
        scales = units * (m + n) * 4
    else:
        a_blocks, b_blocks = np.maximum(m // rows, 1), np.maximum(n // rows, 1)
        differences = (units + 1) * a_blocks * b_blocks
        count = np.where(running, differences, units * (a_blocks + b_blocks))
        scales = -(-count * 4 // 128) * 128
    ring = -(-stages * scales // 1024) * 1024
    tiles = stages * (m + n) * STAGE_BYTES
    staging = table["consumers"] * table["store_buffers"] * STORE_BYTES
    # Barriers, and where warps meet on the largest magnitudes of blocks of codes.
    used = 16 * stages + 8 * stages * running + 128
    static = -(-used // STATIC_UNIT_BYTES) * STATIC_UNIT_BYTES
    total: NDArray[np.int64] = static + tiles + ring + staging
    return total


def block_rules(problem: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What the kernel does not have, what does not fit, and what cannot beat another one."""
    of_rows = SCALES[scales_of(problem)][0] == 1
    m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
    group, buffers = table["group_m"], table["store_buffers"]
    consumers, sets, parts = (table[f] for f in ("consumers", "sets", "parts"))
    run = table["run"]
    shared = (m == 128) & (n == 128) | (of_rows & (m == 256) & (n == 64))
    narrow = (m == 128) & (n == 64) & (consumers == 2)
    return [
        Rule(
            "tile shape",
            ~(shared | narrow),
            lambda r: (
                f"tile {m[r]}x{n[r]} for {consumers[r]} consumers: it is 128x128, 256x64 where "
                "every row has scales of its own, and for two 128x64"
            ),
        ),
        Rule(
            "shared block",
            (output_rows(problem) > CONSUMER_ROWS)
            & ((m != output_rows(problem)) | (n != output_rows(problem)) | (consumers != 2)),
            lambda r: (
                f"tile {m[r]}x{n[r]} of {consumers[r]} consumers for {problem.out}: a block of "
                f"more than {CONSUMER_ROWS} rows is the tile of two consumers"
            ),
        ),
        Rule(
            "counts",
            (stages < 2)
            | (stages > MAX_STAGES)
            | ~np.isin(cluster, (1, 2))
            | ~np.isin(buffers, (1, 2))
            | ~np.isin(sets, (1, 2))
            | ~np.isin(consumers, (2, 4))
            | ~np.isin(parts, (1, 2))
            | (group < 1),
            lambda r: (
                f"stages {stages[r]}, cluster {cluster[r]}, store_buffers {buffers[r]}, sets "
                f"{sets[r]}, parts {parts[r]}, group_m {group[r]}: they lie in 2..8, 1..2, "
                f"1..2, 1..2, 1..2 and from 1; consumers {consumers[r]}: 2 or 4"
            ),
        ),
        Rule(
            "parts",
            ((parts > 1) | (consumers > 2)) & (SCALES[scales_of(problem)][1] == STAGE_BYTES),
            lambda r: (
                f"consumers {consumers[r]}, parts {parts[r]}: with 128 of K under a scale "
                "they are 2 and 1"
            ),
        ),
        Rule(
            "spread",
            table["spread"]
            & (
                (sets * parts == 1)
                | (SCALES[scales_of(problem)][1] != 32)
                | (of_rows & (consumers == 4))
            ),
            lambda r: (
                f"spread with sets {sets[r]}, parts {parts[r]}, consumers {consumers[r]}: it "
                "takes several pieces, 32 of K under a scale, and two consumers where every "
                "row has scales of its own; the others' registers do not hold it"
            ),
        ),
        Rule(
            "registers",
            of_rows
            & isinstance(problem.recipe.activation.element, IntElement)
            & (consumers == 4)
            & (cluster == 2)
            & (sets * parts == 1),
            lambda r: (
                "consumers 4 in a cluster of 2 with sets 1 and parts 1: integers whose rows "
                "have scales of their own spill registers there"
            ),
        ),
        Rule(
            "run",
            ~np.isin(run, (1, *RUNS))
            | (run > 1)
            & (
                (not may_run_on(problem))
                | (run * SCALES[scales_of(problem)][1] > RUN_K)
                | (sets * parts == 1)
                | (sets * parts * consumers > 8)
                | (stages < 3)
            ),
            lambda r: (
                f"run {run[r]} with sets {sets[r]}, parts {parts[r]}, consumers "
                f"{consumers[r]}, stages {stages[r]}: it is 1; or 4 or 8 for int8 with scales "
                f"of blocks, over {RUN_K} of K at most, three stages and several pieces, two "
                "for four consumers, whose registers hold no more"
            ),
        ),
        shared_memory_rule(block_smem_bytes(problem, table), limits),
        *walk_rules(problem, table, 128),
    ]
