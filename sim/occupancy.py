"""Occupancy: registers, shared memory and threads decide how many CTAs an SM holds."""

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu

__all__ = ["ctas_per_sm", "gemm_registers", "spill_factor"]

I64 = NDArray[np.int64]

#: Addresses, loop state and pointers of a thread; a prior, the compiler's count is not known here.
BASE_REGISTERS = 40
#: Operand fragments that pass through registers on the way to ``mma.sync`` or to a decode.
FRAGMENT_REGISTERS = 32
#: A loop that spills ``SPILL_CLIFF_BYTES`` a thread or more takes this many times longer: 2-5 were
#: seen for tiles of 256x256, because accumulators travel through memory in every iteration.
SPILL_CLIFF = 3.0
SPILL_CLIFF_BYTES = 64.0
#: Shared memory that the system keeps for itself a CTA (CUDA C++ programming guide).
SYSTEM_SMEM_BYTES = 1024


def gemm_registers(
    block_m: I64,
    block_n: I64,
    threads: I64,
    *,
    promoted: bool,
    fragments: NDArray[np.bool_],
    addressed_bytes: I64,
) -> I64:
    """Registers a thread would like, before the compiler's limit.

    ``promoted`` products hold a second accumulator: the partial sum beside the running one.
    ``fragments``: operands pass through registers.  ``addressed_bytes`` of an iteration's operands
    are fetched by ordinary loads, each thread keeping a 64-bit address for every 16 bytes of its.
    """
    accumulators = -(-block_m * block_n * (2 if promoted else 1) // threads)
    addresses = 2 * (addressed_bytes // (16 * threads))
    total: I64 = accumulators + addresses + BASE_REGISTERS + FRAGMENT_REGISTERS * fragments
    return total


def spill_factor(gpu: Gpu, registers: I64) -> NDArray[np.float64]:
    """How much longer the arithmetic of a loop takes when ``registers`` a thread do not fit."""
    spilled_bytes = 4 * np.maximum(registers - gpu.registers_per_thread, 0)
    factor: NDArray[np.float64] = 1 + (SPILL_CLIFF - 1) * np.minimum(
        1.0, spilled_bytes / SPILL_CLIFF_BYTES
    )
    return factor


def ctas_per_sm(gpu: Gpu, *, registers: I64, smem_bytes: I64, warps: I64) -> I64:
    """CTAs resident on one SM, at least 1; whether even one fits is the legality gate's matter."""
    threads = warps * gpu.warp_threads
    capped = np.minimum(registers, gpu.registers_per_thread)
    allocated = -(-capped // 8) * 8  # registers are handed out in eights
    by_registers = gpu.registers_per_sm // (allocated * threads)
    by_smem = gpu.smem_bytes_per_sm // (smem_bytes + SYSTEM_SMEM_BYTES)
    by_threads = gpu.threads_per_sm // threads
    fit = np.minimum(np.minimum(by_registers, by_smem), np.minimum(by_threads, gpu.ctas_per_sm))
    held: I64 = np.maximum(fit, 1)
    return held
