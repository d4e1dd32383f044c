"""The cost of a kernel that walks through a matrix twice: NVFP4 in CUDA C++.

The first walk reads all, the second backwards what neither the rings in shared memory and registers
(one launch) nor the L2 still hold, and writes.  Warps bring their bytes by copies that nobody waits
for, so that bytes in flight are those of all rings.  Nothing was set on this kernel's timings, for
which it is 1 to 12 % too fast (``data/h200/rewritten_sweeps``): what the L2 gives back was counted
by ``ncu``, and the constants are those of other streaming kernels.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.cta_turns import issue_ns
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.parameters import STREAM, StreamParameters
from tiles.kernels import ConfigTable
from tiles.kernels.cuda.quantize_nvfp4 import BLOCK, STEP_BLOCKS, STEP_BYTES
from tiles.problems import Quantize

__all__ = ["CODE_STEP", "FIND_STEP", "HELD_SHARE", "two_walks_cost"]

F64 = NDArray[np.float64]

#: Instructions of a thread for a step, 32 elements of its own, in either walk, and for the tables
#: of a CTA: ``python -m bench.sass cuda_quantize_nvfp4``, NVRTC 13.x, sm_90.
FIND_STEP, CODE_STEP, TABLES = 72.0, 253.0, 400.0
#: Share of the L2 that gives back what it is asked to keep: of 268 MB that two walks read, DRAM
#: served 208 on an H200, and 43 lay on the SMs (8192 x 8192, 16 warps, 7 stages, 3 steps held).
HELD_SHARE = 0.33


def two_walks_cost(
    problem: Quantize,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: StreamParameters = STREAM,
) -> Cost:
    """Price every configuration of ``cuda_quantize_nvfp4``."""
    of = parameters
    warps = table["num_warps"].astype(np.float64)
    stages, fused = table["stages"].astype(np.float64), table["fused"]
    held_steps = table["held"].astype(np.float64)
    kept = table["kept_mib"] * 2.0**20
    clock_ghz = gpu.max_clock_mhz / 1e3
    blocks = -(-problem.rows * problem.cols // BLOCK)
    read = float(problem.rows * problem.cols * 2)
    written = float(problem.min_bytes - read)
    ctas = np.minimum(gpu.sm_count, np.ceil(blocks / (STEP_BLOCKS * warps)))
    steps = np.ceil(blocks / (STEP_BLOCKS * warps * ctas))
    rings = ctas * warps * stages * STEP_BYTES

    on_sms = np.where(fused, np.minimum(rings * (1 + held_steps / stages), read), 0.0)
    # What was read last lies in the L2 as well, unless it is asked to keep what was read first.
    held = HELD_SHARE * gpu.l2_bytes
    in_l2 = np.where(kept > 0, np.minimum(held, kept), np.maximum(held - on_sms, 0.0))
    in_l2 = np.minimum(in_l2, read - on_sms)
    again = read - on_sms - in_l2
    # Every lane waits for its own oldest step alone.
    busy = saturation(np.minimum(rings, read), gpu.dram_read_gb_per_s, gpu.dram_latency_ns)

    def walk(dram_read: F64, through_l2: F64, out: float, instructions: F64) -> tuple[F64, ...]:
        """DRAM, L2 and issue slots of a walk, in nanoseconds, and all of them together."""
        dram = (dram_read / gpu.dram_read_gb_per_s / busy + out / gpu.dram_copy_gb_per_s) / (
            of.dram_share
        )
        moved = through_l2 + out
        l2 = l2_ns(gpu, bytes_per_sm=moved / ctas, bytes_total=moved, clock_ghz=clock_ghz)
        issue = issue_ns(
            of, gpu, warps_per_sm=warps, thread_instructions=instructions, clock_ghz=clock_ghz
        )
        return dram, l2, issue, overlap(dram, l2, issue, exponent=of.overlap_exponent)

    whole = np.full(len(table), read)
    finding = walk(whole, whole, 0.0, steps * FIND_STEP)
    coding = walk(again, read - on_sms, written, steps * CODE_STEP + TABLES)
    launches = np.where(fused, 1, 2)
    # Arrivals and the largest magnitude travel to the L2 and back, unless steps that are held have
    # let others be asked for before.
    meeting = np.where(fused & (held_steps == 0), 3 * gpu.l2_latency_ns, 0.0)
    starts = launches * ctas * of.cta_start_ns
    ends = 2 * (gpu.dram_latency_ns + of.cta_clk / clock_ghz) + meeting + starts
    launch_us = launches * gpu.graph_launch_us
    terms = {
        "dram": finding[0] + coding[0],
        "l2": finding[1] + coding[1],
        "cuda_cores": finding[2] + coding[2],
        "prologue_epilogue": ends,
    }
    return Cost(
        time_us=(finding[3] + coding[3] + ends) / 1e3 + launch_us,
        terms_us={name: ns / 1e3 for name, ns in terms.items()} | {"launch": launch_us},
        dram_read_bytes=read + again,
        dram_write_bytes=np.full(len(table), written),
        l2_read_bytes=2 * read - on_sms,
    )
