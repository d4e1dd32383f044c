"""Occupancy: registers, shared memory and threads decide how many CTAs an SM holds."""

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.parameters import GEMM

__all__ = [
    "BASE_REGISTERS",
    "FLATTENED_REGISTERS",
    "NEEDED_REGISTERS",
    "QUARTERS",
    "SCALE_REGISTERS",
    "ctas_per_sm",
    "gemm_registers",
    "placed_sms",
    "spill_clk",
]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Addresses, loop state and pointers of a thread; a prior, the compiler's count is not known here.
BASE_REGISTERS = 40
#: Operand fragments that pass through registers on the way to ``mma.sync`` or to a decode.
FRAGMENT_REGISTERS = 32
#: Of these, what the compiler cannot do without before it spills accumulators; it recomputes the
#: rest.  A flattened tile loop keeps the state of the next tile as well, and scales that differ
#: within a tile stand beside the accumulators.  Measured on an H200 by this project, November 2026.
NEEDED_REGISTERS = 10
FLATTENED_REGISTERS = 30
SCALE_REGISTERS = 30
#: Shared memory that the system keeps for itself a CTA (CUDA C++ programming guide).
SYSTEM_SMEM_BYTES = 1024
#: Parts of an SM, each with a scheduler and registers of its own.
QUARTERS = 4


def gemm_registers(
    block_m: I64,
    block_n: I64,
    threads: I64,
    *,
    promoted: bool,
    fragments: NDArray[np.bool_],
    addressed_bytes: I64,
) -> I64:
    """Registers a thread holds for accumulators, addresses and operands, without loop state.

    ``promoted`` products hold a second accumulator: the partial sum beside the running one.
    ``fragments``: operands pass through registers.  ``addressed_bytes`` of an iteration's operands
    are fetched by ordinary loads, each thread keeping a 64-bit address for every 16 bytes of its.
    """
    accumulators = -(-block_m * block_n * (2 if promoted else 1) // threads)
    addresses = 2 * (addressed_bytes // (16 * threads))
    total: I64 = accumulators + addresses + FRAGMENT_REGISTERS * fragments
    return total


def spill_clk(
    gpu: Gpu, registers: I64, threads: I64, bytes_per_clk: float = GEMM.spill_bytes_per_clk
) -> F64:
    """Clocks an iteration to store and reload what of ``registers`` a thread does not fit."""
    spilled_bytes = 4 * np.maximum(registers - gpu.registers_per_thread, 0) * threads
    clk: F64 = 2 * spilled_bytes / bytes_per_clk
    return clk


def ctas_per_sm(gpu: Gpu, *, registers: I64, smem_bytes: I64, warps: I64) -> I64:
    """CTAs resident on one SM, at least 1; whether even one fits is the legality gate's matter."""
    threads = warps * gpu.warp_threads
    capped = np.minimum(registers, gpu.registers_per_thread)
    allocated = -(-capped // 8) * 8  # registers are handed out in eights
    # A warp's registers lie in one quarter of an SM: what a quarter has left over fits nobody.
    of_quarter = gpu.registers_per_sm // QUARTERS // (allocated * gpu.warp_threads)
    by_registers = QUARTERS * of_quarter // warps
    by_smem = gpu.smem_bytes_per_sm // (smem_bytes + SYSTEM_SMEM_BYTES)
    by_threads = gpu.threads_per_sm // threads
    fit = np.minimum(np.minimum(by_registers, by_smem), np.minimum(by_threads, gpu.ctas_per_sm))
    held: I64 = np.maximum(fit, 1)
    return held


def placed_sms(gpu: Gpu, cluster: I64, packed_share: float) -> I64:
    """Multiprocessors that clusters find room on.

    A cluster lies within one group of multiprocessors, whose numbers more than two do not divide.

    Args:
        cluster: CTAs a cluster.
        packed_share: of the multiprocessors, those that larger clusters are placed on.
    """
    packed = (gpu.sm_count * packed_share / cluster).astype(np.int64) * cluster
    placed: I64 = np.where(cluster > 2, np.maximum(packed, cluster), gpu.sm_count)
    return placed
