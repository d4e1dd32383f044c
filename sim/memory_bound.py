"""The cost of quantisation kernels: bytes over the bandwidth that their accesses in flight reach.

Families name their columns differently, so a small set of traits stands between a table and the
terms; a column that a family lacks takes the value that its kernel most likely has.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.occupancy import ctas_per_sm
from sim.pipes import ISSUE_LANES
from sim.traffic import miss_share
from sim.waves import waves
from tiles.formats import IntElement
from tiles.kernels import ConfigTable
from tiles.problems import Quantize

__all__ = ["Traits", "quantize_cost", "quantize_traits"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: A CTA of a streaming kernel starts, waits for its loads, reduces, stores and leaves; a prior.
CTA_CLK = 600.0
#: Filling and draining the device around a kernel of this kind; a prior.
DEVICE_FLOOR_US = 1.5
#: Instructions an element: load and widen 1, amax 2, divide 5, store 1; the cast comes on top.
BASE_INSTRUCTIONS = 9.0
INT8_CAST, FLOAT8_CAST, SOFTWARE_CAST = 2.0, 1.0, 14.0
#: Registers a thread beside the elements that it holds.
BASE_REGISTERS = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a row of any quantisation family means to memory, one entry a configuration."""

    warps: I64
    held: I64  #: elements that a CTA holds at once
    ctas: I64
    vector: F64  #: elements that a thread fetches by one instruction
    passes: F64  #: times that the input is read
    reread_bytes: F64  #: bytes that a CTA reads before it reads the first of them again; 0: never
    launches: int
    instructions: F64  #: an element


def quantize_traits(problem: Quantize, table: ConfigTable, gpu: Gpu) -> Traits:
    """Read the columns ``block_rows block_cols num_warps`` or ``threads vector blocks_per_cta``.

    Row and large-block scaling reads twice when a CTA does not hold its region at once; scaling a
    whole tensor reads twice, in two launches.
    """
    columns = table.columns
    one = np.ones(len(table), np.int64)
    scaling = problem.target.scaling
    assert scaling is not None  # a Quantize problem without scaling cannot be made
    rows, cols = problem.rows, problem.cols
    region_rows = min(scaling.rows or rows, rows)
    region_cols = min(scaling.cols or cols, cols)
    region = region_rows * region_cols
    size = problem.source_element.bits // 8
    threads = columns.get("threads", columns.get("num_warps", 4 * one) * gpu.warp_threads)
    whole_tensor = scaling.rows is None and scaling.cols is None
    if "block_rows" in columns or "block_cols" in columns:
        held = columns.get("block_rows", one) * columns.get("block_cols", one)
        if "num_warps" in columns:
            # Triton gives every thread 16 bytes, or its share of a smaller tile.
            vector = np.clip(held / threads, 1, 16 // size)
        else:
            vector = columns.get("vector", one * (16 // size)).astype(np.float64)
    else:
        vector = columns.get("vector", one * (16 // size)).astype(np.float64)
        held = columns.get("blocks_per_cta", one) * region
    # More than 64 elements a thread do not fit its registers: the kernel walks in steps.
    held = np.minimum(held, 64 * threads)
    if whole_tensor:
        passes, reread, launches = 2.0 * one, one * float(rows * cols * size), 2
        ctas = -(-(rows * cols) // held)
    else:
        walks = held < region
        if scaling.rows == 1 and scaling.cols is None:
            # Rows keep their own scales, so a tile of several rows must hold each of them whole.
            walks = columns.get("block_cols", held) < cols
        launches = 1
        passes = np.where(walks, 2.0, 1.0)
        reread = np.where(walks, float(region * size), 0.0)
        blocks = -(-rows // region_rows) * -(-cols // region_cols)
        ctas = np.where(walks, blocks, -(-(blocks * region) // held))
        held = np.where(walks, np.minimum(held, region), held)
    if isinstance(problem.target.element, IntElement):
        cast = INT8_CAST * one
    else:
        software = columns.get("software_cast", np.zeros(len(table), np.bool_))
        cast = np.where(software, SOFTWARE_CAST, FLOAT8_CAST)
    return Traits(
        warps=np.maximum(threads // gpu.warp_threads, 1),
        held=np.maximum(held, 1),
        ctas=np.maximum(ctas, 1),
        vector=vector,
        passes=passes.astype(np.float64),
        reread_bytes=reread.astype(np.float64),
        launches=launches,
        instructions=BASE_INSTRUCTIONS + cast + 2 * (passes - 1),
    )


def quantize_cost(problem: Quantize, table: ConfigTable, gpu: Gpu) -> Cost:
    """Price every configuration of a quantisation family."""
    traits = quantize_traits(problem, table, gpu)
    elements = problem.rows * problem.cols
    size = problem.source_element.bits // 8
    read_once = float(elements * size)
    written = float(problem.min_bytes - elements * size)
    clock_ghz = gpu.max_clock_mhz / 1e3  # streaming draws far less than the power limit

    per_thread = traits.held // (traits.warps * gpu.warp_threads)
    occupancy = ctas_per_sm(
        gpu,
        registers=BASE_REGISTERS + 2 * per_thread,
        smem_bytes=np.full(len(table), 1024),
        warps=traits.warps,
    )
    spread = waves(traits.ctas, occupancy, gpu.sm_count)
    resident = np.minimum(spread.capacity, traits.ctas)
    # Every resident CTA streams its own region, so all of them stand between two reads.
    between = traits.reread_bytes * (1.0 if traits.launches > 1 else resident)
    again = (traits.passes - 1) * read_once
    dram_read = read_once + again * miss_share(between, gpu.l2_bytes)
    l2_read = read_once * traits.passes
    in_flight = (resident * traits.held * size).astype(np.float64)
    busy = saturation(in_flight, gpu.dram_copy_gb_per_s, gpu.dram_latency_ns)
    # The last wave leaves SMs idle, and so do the few CTAs of a small problem.
    active = np.minimum(traits.ctas, gpu.sm_count)
    idle = spread.count * spread.capacity / traits.ctas
    tail = np.where(spread.full > 0, 1 + (idle - 1) / 2, 1.0)
    dram = (dram_read + written) / (gpu.dram_copy_gb_per_s * busy) * tail
    l2 = l2_ns(
        gpu, bytes_per_sm=(l2_read + written) / active, active_sms=active, clock_ghz=clock_ghz
    )
    per_sm_elements = elements * traits.passes / active
    # One load or store instruction a vector, issued for a quarter of the lanes a clock.
    issue = traits.instructions / ISSUE_LANES + 2 / (traits.vector * (ISSUE_LANES / 4))
    cuda_cores = per_sm_elements * issue / clock_ghz * tail
    ends = (gpu.dram_latency_ns + CTA_CLK / clock_ghz) * traits.launches
    turns = spread.count.astype(np.float64) * (CTA_CLK / clock_ghz * traits.launches)
    launch_us = traits.launches * (gpu.graph_launch_us + DEVICE_FLOOR_US)
    main = overlap(dram, l2, cuda_cores, turns)
    terms = {
        "dram": dram / 1e3,
        "l2": l2 / 1e3,
        "cuda_cores": cuda_cores / 1e3,
        "latency": turns / 1e3,
        "prologue_epilogue": np.full(len(table), ends / 1e3),
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=(main + ends) / 1e3 + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), written),
        l2_read_bytes=l2_read,
    )
