"""What a decoded product takes of a multiprocessor, by its formats and its configuration."""

import numpy as np
from numpy.typing import NDArray

from tiles.formats import element as lookup
from tiles.kernels.decoded_formats import sides_of
from tiles.kernels.table import ConfigTable
from tiles.problems import Gemm

__all__ = ["loop_registers", "loop_smem_bytes", "native_smem_bytes"]

_WGMMA_CAPABILITY = 90
#: What a thread of the decoding loop needs beside accumulators and operands: addresses, scales.
_OTHER_REGISTERS = 40


def native_smem_bytes(problem: Gemm, table: ConfigTable) -> NDArray[np.int64]:
    """Shared memory of a CTA of block-scaled tensor cores, bytes; 4-bit codes beside 8-bit ones
    are taken to be widened there."""
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    bits = max(fmt.element.bits for fmt in sides_of(problem.recipe))
    stages = np.maximum(table["num_stages"], 1)
    staged_out = m * n * lookup(problem.out).bits // 8
    total: NDArray[np.int64] = np.maximum(stages * (m + n) * k * bits // 8, staged_out) + 4096
    return total


def loop_smem_bytes(problem: Gemm, table: ConfigTable, capability: int) -> NDArray[np.int64]:
    """Shared memory of a CTA that decodes in its loop, bytes: stages of codes, decoded operands.

    Codes leave their buffers for registers before they are multiplied, so one stage fewer holds
    them; decoded operands lie in shared memory once, but for activations that wgmma reads from
    registers, all but those of 6 bits.  Held against the compiler (triton 3.7.1, sm_90) on samples
    of legal configurations: never below; above by what ``mma.sync`` reads from registers as well.
    """
    m, n, k = table["block_m"], table["block_n"], table["block_k"]
    stages = np.maximum(table["num_stages"] - 1, 1)
    codes = sum(
        extent * k * fmt.element.bits // 8
        for extent, fmt in zip((m, n), sides_of(problem.recipe), strict=True)
    )
    wgmma = (m >= 64) & (table["num_warps"] % 4 == 0) & (capability == _WGMMA_CAPABILITY)
    from_registers = wgmma & (problem.recipe.activation.element.bits != 6)
    decoded = 2 * (np.where(from_registers, 0, m) + n) * k
    staged_out = m * n * lookup(problem.out).bits // 8
    total: NDArray[np.int64] = np.maximum(stages * codes + decoded, staged_out) + 2048
    return total


def loop_registers(table: ConfigTable, warp_threads: int) -> NDArray[np.int64]:
    """Registers a thread takes where it decodes in the loop, estimated."""
    threads = np.maximum(table["num_warps"] * warp_threads, 1)
    sums = table["block_m"] * table["block_n"]
    decoded = (table["block_m"] + table["block_n"]) * table["block_k"] // 2
    total: NDArray[np.int64] = -(-(sums + decoded) // threads) + _OTHER_REGISTERS
    return total
