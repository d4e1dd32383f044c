"""Which configurations of a decoded product are legal where nothing is decoded before."""

import numpy as np

from tiles.kernels.base import Limits
from tiles.kernels.decoded_formats import block_scaled
from tiles.kernels.decoded_resources import loop_registers, loop_smem_bytes, native_smem_bytes
from tiles.kernels.table import ConfigTable, Rule
from tiles.problems import Gemm

__all__ = ["BLOCK_SCALED_K", "loop_rules"]

_MAX_REGISTERS = 255
_MAX_THREADS_PER_CTA = 1024
#: What block-scaled products work on at least: K of a step, and rows and columns by instruction.
BLOCK_SCALED_K = 128
_TCGEN05_TILE, _MFMA_TILE = (128, 32), (32, 32)


def loop_rules(problem: Gemm, inner: Gemm, table: ConfigTable, limits: Limits) -> list[Rule]:
    """What decoding in the loop needs, and what multiplying without decoding."""
    native = table["native"]
    loop = ~table["staged"] & ~native
    threads = table["num_warps"] * limits.warp_threads
    smem = np.where(
        native,
        native_smem_bytes(problem, table),
        loop_smem_bytes(problem, table, limits.capability),
    )
    taken = loop_registers(table, limits.warp_threads)
    per_thread = np.minimum(_MAX_REGISTERS, limits.registers_per_sm // np.maximum(threads, 1))
    least_m, least_n = _TCGEN05_TILE if limits.vendor == "nvidia" else _MFMA_TILE
    return [
        Rule(
            "decoding",
            ~native & (limits.vendor != "nvidia"),
            lambda r: f"{limits.gpu}: codes are decoded by instructions of NVIDIA's GPUs",
        ),
        Rule(
            "native",
            native & (table["staged"] | (not block_scaled(problem, limits))),
            lambda r: f"{limits.gpu} has no block-scaled products of {problem.recipe} (or staged)",
        ),
        # tcgen05 works on 128 rows; Triton exchanges its scales in pieces of 128 x 4.
        Rule(
            "block-scaled tile",
            native
            & (
                (table["block_m"] < least_m)
                | (table["block_n"] < least_n)
                | (table["block_k"] < BLOCK_SCALED_K)
            ),
            lambda r: (
                f"tile {table['block_m'][r]}x{table['block_n'][r]}x{table['block_k'][r]}: "
                f"block-scaled products take at least {least_m}x{least_n}x{BLOCK_SCALED_K}"
            ),
        ),
        Rule(
            "in the loop",
            ~table["staged"] & (table["tma"] | table["persistent"]),
            lambda r: "tma and persistent belong to staged configurations",
        ),
        Rule(
            "promotion",
            loop & inner.recipe.blockwise,
            lambda r: f"fp32 scales of {problem.recipe} change along K: staged only",
        ),
        Rule(
            "threads",
            ~table["staged"] & (threads > min(_MAX_THREADS_PER_CTA, limits.threads_per_sm)),
            lambda r: f"{threads[r]} threads > {_MAX_THREADS_PER_CTA} a CTA",
        ),
        Rule(
            "shared memory",
            ~table["staged"] & (smem > limits.smem_bytes_per_cta),
            lambda r: f"smem {smem[r]} B > {limits.smem_bytes_per_cta} B on {limits.gpu}",
        ),
        Rule(
            "registers",
            loop & (taken > per_thread),
            lambda r: f"accumulators and operands take {taken[r]} of {per_thread[r]} registers",
        ),
    ]
