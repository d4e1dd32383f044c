"""What a weight-only product takes of a multiprocessor, by its formats and its configuration."""

import numpy as np
from numpy.typing import NDArray

from tiles.formats import TensorFormat, element
from tiles.kernels.table import ConfigTable
from tiles.problems import Gemm

__all__ = [
    "PANEL_BYTES",
    "group_columns",
    "halves",
    "promoted",
    "registers",
    "smem_bytes",
    "uses_wgmma",
]

#: Bytes of a row of a panel of packed weights, and the columns that a product takes at a time.
PANEL_BYTES = 64
_WGMMA_CAPABILITY = 90
#: What a thread needs beside accumulators and operands: addresses, counters, scales.
_OTHER_REGISTERS = 36


def halves(weight: TensorFormat) -> int:
    """Codes in a byte."""
    return 8 // weight.element.bits


def group_columns(weight: TensorFormat) -> int:
    """Columns under one scale; 0 where scales do not change along K."""
    return (weight.scaling.cols or 0) if weight.scaling is not None else 0


def promoted(problem: Gemm, table: ConfigTable) -> NDArray[np.bool_]:
    """Where partial sums are scaled on their way into a second accumulator."""
    grouped = group_columns(problem.recipe.weight) > 0
    return np.asarray(~table["fold"] & grouped, np.bool_)


def uses_wgmma(table: ConfigTable, capability: int) -> NDArray[np.bool_]:
    """Where Triton multiplies by wgmma: read off what it compiles for sm_90."""
    wide = (table["block_n"] >= 64) & (table["block_m"] >= 16) & (table["num_warps"] >= 4)
    return np.asarray(wide & (capability == _WGMMA_CAPABILITY), np.bool_)


def smem_bytes(problem: Gemm, table: ConfigTable, capability: int) -> NDArray[np.int64]:
    """Shared memory of a CTA by configuration, bytes: the pipeline, or the staged output.

    The fp32 sums of a share of K are staged as the output is.

    Weights leave their buffer for registers before they are multiplied, so one stage fewer holds
    them; so it is with activations where ``mma.sync`` reads them from registers as well.
    """
    m, n, stages = table["block_m"], table["block_n"], table["num_stages"]
    w_stages = np.maximum(stages - 1, 1)
    x_stages = np.where(uses_wgmma(table, capability), stages, w_stages)
    pipeline = w_stages * n * PANEL_BYTES + x_stages * m * 128 * halves(problem.recipe.weight)
    out_bytes = element(problem.out).bits // 8
    staged = m * n * np.where(table["split_k"] > 1, max(4, out_bytes), out_bytes)
    barriers = 2048
    total: NDArray[np.int64] = np.maximum(pipeline, staged) + barriers
    return total


def registers(problem: Gemm, table: ConfigTable, warp_threads: int) -> NDArray[np.int64]:
    """Registers a thread takes, estimated: accumulators, decoded and packed weights, the rest."""
    threads = np.maximum(table["num_warps"] * warp_threads, 1)
    sums = table["block_m"] * table["block_n"] * np.where(promoted(problem, table), 2, 1)
    decoded = table["block_n"] * 64 * halves(problem.recipe.weight) // 2
    packed = table["block_n"] * PANEL_BYTES // 4
    total: NDArray[np.int64] = -(-(sums + decoded + packed) // threads) + _OTHER_REGISTERS
    return total
