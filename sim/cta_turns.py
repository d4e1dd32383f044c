"""CTAs that load, compute and store one after the other, several beside each other on an SM.

Kernels that pass over memory are bound by what all their CTAs together ask of a resource, by the
rate at which CTAs start, and by one CTA's own chain: it waits for its loads, computes and only then
makes room for the next.  Co-resident CTAs work while one waits, so the chain counts where few fit.

Set on 188 timings of Triton's quantisation and dequantisation on an H200 at 8192 x 8192
(``data/h200/sweeps`` and ``later_sweeps``, shapes in view): with instructions counted in the code
that was compiled for each of them these terms meet their times within 2.1 % on average, and 2.0 %
on the shapes held out.
"""

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.memory import overlap
from sim.parameters import StreamParameters, TurnParameters

__all__ = ["blocks_of_thread", "issue_ns", "turns_ns"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Of the norm of a kernel's work and the starts of its CTAs, which do not share a resource.
START_EXPONENT = 8.0
#: Bytes of a thread's widest load.
WIDE_BYTES = 16


def issue_ns(
    of: StreamParameters,
    gpu: Gpu,
    *,
    warps_per_sm: F64,
    thread_instructions: F64,
    clock_ghz: float,
) -> F64:
    """Nanoseconds in which an SM issues all instructions of ``warps_per_sm`` warps.

    Args:
        thread_instructions: of one thread from its start to its exit, whatever it has to do.
    """
    clk = warps_per_sm * gpu.warp_threads * thread_instructions / gpu.issue_per_clk
    ns: F64 = clk * (of.instruction_share / clock_ghz)
    return ns


def turns_ns(
    of: TurnParameters,
    *,
    dram: F64,
    pipes: tuple[F64, ...],
    chain: F64,
    ctas: I64,
    resident: F64,
) -> tuple[F64, F64]:
    """Nanoseconds of a kernel without its ends, and of them those that CTAs wait or start.

    Args:
        dram: to move all bytes; ``pipes``: what the fullest SM does on other resources.
        chain: of one SM's CTAs if they ran one at a time: latency, own loads and instructions.
            Nobody waits for stores.
        ctas: of all SMs; they start one after the other.
        resident: CTAs beside each other on an SM, at least 1.
    """
    work = overlap(dram, *pipes, exponent=of.overlap_exponent)
    starts = ctas.astype(np.float64) * of.cta_start_ns
    together = overlap(work, starts, exponent=START_EXPONENT)
    gaps = np.maximum(chain - together, 0.0)
    exposed: F64 = gaps / resident**of.gap_exponent
    return together + exposed, np.maximum(starts, exposed)


def blocks_of_thread(
    tile_rows: I64, tile_cols: I64, threads: I64, block: tuple[int, int], source_bytes: int
) -> F64:
    """Quantisation blocks of which a thread of a tile has elements.

    Threads lie side by side along the tile's columns, a wide load of adjacent elements each, then
    below one another; what they do not cover they take in further rounds.
    """
    each = np.maximum(tile_rows * tile_cols / threads, 1.0)
    run = np.minimum(WIDE_BYTES / source_bytes, each)
    covered_cols = np.minimum(tile_cols, run * threads)
    covered_rows = np.clip(run * threads / tile_cols, 1, tile_rows)
    rounds_across, rounds_down = tile_cols / covered_cols, tile_rows / covered_rows
    across = np.where(
        block[1] <= covered_cols, rounds_across, np.maximum(tile_cols / block[1], 1.0)
    )
    down = np.minimum(rounds_down, np.maximum(tile_rows / block[0], 1.0))
    blocks: F64 = across * down * np.maximum(run / block[1], 1.0)
    return blocks
