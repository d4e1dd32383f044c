"""What the descriptors of the Hopper products in CUDA C++ refuse alike, and how they compile."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiles.formats import element
from tiles.kernels.base import Limits
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm, Problem

__all__ = [
    "ALIGNMENT_BYTES",
    "CAPABILITY",
    "MAX_STAGES",
    "STAGE_BYTES",
    "STATIC_UNIT_BYTES",
    "STORE_BYTES",
    "compile_hopper",
    "product_refusal",
    "row_refusal",
    "shared_memory_rule",
    "walk_rules",
]


#: wgmma of this form exists on this capability alone: neither before nor after.
CAPABILITY = 90
#: Bytes of K in a pipeline stage: one row of the 128-byte swizzle.
STAGE_BYTES = 128
#: A staging buffer: 64 rows of a swizzle.
STORE_BYTES = 64 * 128
#: Static shared memory is counted in these: rings begin at the next multiple.
STATIC_UNIT_BYTES = 1024
MAX_STAGES = 8
ALIGNMENT_BYTES = 16


def product_refusal(
    name: str, problem: Problem, limits: Limits, elements: Sequence[str]
) -> str | None:
    """Why a family cannot multiply a problem's operands, whatever their scales, or ``None``.

    Args:
        name: the family's; ``elements``: those that it multiplies, two of one.
    """
    if not isinstance(problem, Gemm):
        return f"{name} serves gemm problems, not {problem}"
    if limits.vendor != "nvidia" or limits.capability != CAPABILITY:
        return f"{name} is for capability {CAPABILITY}, {limits.gpu} has another"
    a, b = problem.recipe.activation.element, problem.recipe.weight.element
    if problem.recipe.outliers is not None:
        return f"{name} has no second product for outliers: {problem.recipe.outliers}"
    if a != b or a.name not in elements:
        return f"{name} multiplies two of one element of {', '.join(elements)}, not {a} by {b}"
    return None


def row_refusal(problem: Gemm, out: str) -> str | None:
    """Why the copy engine cannot reach rows of operands or output, or ``None``.

    Args:
        out: element of the output.
    """
    rows = {
        "K": problem.k * problem.recipe.activation.element.bits // 8,
        "N": problem.n * element(out).bits // 8,
    }
    for name, row_bytes in rows.items():
        if row_bytes % ALIGNMENT_BYTES:
            return f"{name}: rows of {row_bytes} bytes, the copy engine takes multiples of 16"
    return None


def shared_memory_rule(smem: NDArray[np.int64], limits: Limits) -> Rule:
    """A CTA's shared memory, bytes by configuration, fits the GPU."""
    return Rule(
        "shared memory",
        smem > limits.smem_bytes_per_cta,
        lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
    )


def walk_rules(problem: Gemm, table: ConfigTable, lowest: int) -> list[Rule]:
    """What is not worth trying of persistent CTAs that walk over tiles in rasters.

    Args:
        lowest: rows of the lowest tile there is, which serves any M.
    """
    m, n, stages, cluster = (table[f] for f in ("block_m", "block_n", "stages", "cluster"))
    group = table["group_m"]
    along_n = m > n  # clusters share the larger of the tiles, as ``cluster_sides`` has it
    down, across = np.where(along_n, 1, cluster), np.where(along_n, cluster, 1)
    cluster_rows = -(-problem.m // np.maximum(m * down, 1))
    columns = -(-problem.n // np.maximum(n * across, 1))
    steps = -(-problem.k // (STAGE_BYTES * 8 // problem.recipe.activation.element.bits))
    return [
        Rule(
            "oversized tile",
            (m > max(lowest, 2 * problem.m)) | (n > max(64, 2 * problem.n)),
            lambda r: f"tile {m[r]}x{n[r]} for a product of {problem.m}x{problem.n}",
        ),
        Rule(
            "cluster",
            (cluster > 1) & np.where(along_n, problem.n <= n, problem.m <= m),
            lambda r: (
                "a cluster shares A between tiles along N: there is one column of tiles"
                if along_n[r]
                else "a cluster shares B between tiles along M: there is one row of tiles"
            ),
        ),
        Rule(
            "raster",
            (group > 1) & ((cluster_rows == 1) | (columns == 1)),
            lambda r: f"group_m {group[r]} equals group_m 1: one row or column of tiles",
        ),
        Rule(
            "stages",
            stages > np.maximum(3, 2 * steps),
            lambda r: f"{stages[r]} stages for {steps} steps along K",
        ),
    ]


def compile_hopper(
    source: Path,
    options: Sequence[str],
    limits: Limits,
    *,
    threads: int,
    dynamic_smem_bytes: int,
    stages: int,
) -> CompileFacts | None:
    """Compile facts of a launcher's options, which name the architecture among them."""
    from tiles.kernels.offline_cuda import facts_of

    (target,) = (o.removeprefix("-arch=") for o in options if o.startswith("-arch="))
    plain = [option for option in options if not option.startswith("-arch=")]
    facts = facts_of(source, plain, threads, limits, target=target)
    if facts is None:
        return None
    smem = facts.smem_bytes + dynamic_smem_bytes
    return replace(facts, smem_bytes=smem, pipeline_depth=stages)
