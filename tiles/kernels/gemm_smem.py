"""Shared memory of a scaled GEMM's CTA, estimated from its configuration."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiles.formats import element
from tiles.kernels.table import ConfigTable
from tiles.problems import Gemm

__all__ = ["column", "smem_bytes"]


def column(table: ConfigTable, name: str, default: int | bool) -> NDArray[Any]:
    """A column that only some families' configurations have; the others mean ``default``."""
    found = table.columns.get(name)
    return np.full(len(table), default) if found is None else found


def smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes: pipeline stages and the staged output.

    The stages hold both operands as they are stored; one fewer feeds tiles below 64 rows, whose
    mma.sync reads registers.  A flattened persistent loop keeps them while the epilogue stages the
    output (half a tile where descriptors write a large one in two parts, at most 4096 elements a
    warp at a time without descriptors); otherwise the output reuses their space.  Barriers and the
    exchange of scales take less than 2 KiB.  Sums of a part of K are staged in fp32.

    An estimate, held against the compiler (triton 3.7.1, sm_90) on 120 random legal configurations
    of five problems: never below, at most 36 KiB above, 64 KiB where programs share K (one of each
    mode).  Block-scaled products with fp32 output can take up to 64 KiB more than it says; the
    compiler then refuses them, with that status.
    """
    operand_bytes = problem.recipe.activation.element.bits // 8
    out_bytes = element(problem.out).bits // 8
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    stages = np.where(m < 64, np.maximum(table["num_stages"] - 1, 1), table["num_stages"])
    pipeline = stages * (m + n) * k * operand_bytes
    stream = column(table, "stream_k", False)
    shared = (column(table, "split_k", 1) > 1) | stream
    specialized = column(table, "specialize", False)
    described = table["tma"] & ~shared & ~specialized  # how the output is written
    halved = described & table["persistent"] & (m * n >= 128 * 128)
    asked = column(table, "subtiles", 0)
    parts = np.where(asked > 0, asked, np.where(halved, 2, 1))
    staged = m * n * out_bytes // parts
    # Where warps stand side by side along N, the parts lie in different warps and change places.
    exchanged = described & (parts > 1) & (16 * table["num_warps"] > m)
    staged = staged + np.where(exchanged, m * n * out_bytes, 0)
    wide = np.where(shared, max(4, out_bytes), out_bytes)
    # A specialised CTA has twice the warps that multiply.
    warps = table["num_warps"] * np.where(specialized, 2, 1)
    staged = np.where(described, staged, np.minimum(m * n, 4096 * warps) * wide)
    small = np.where(table["tma"] | problem.recipe.scaled, 2048, 0)
    # The loop over a stream-K launch's tiles is not flattened.
    kept = (table["persistent"] & ~stream) | specialized
    total = np.where(kept, pipeline + staged, np.maximum(pipeline, staged))
    result: NDArray[np.int64] = total + small
    return result
