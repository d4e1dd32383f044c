"""The cost of quantisation kernels: bytes over the bandwidth that their accesses in flight reach.

``sim.quantize_traits`` reads a family's columns; nothing here knows a family.  How CTAs that load,
compute and store in turn share an SM is :mod:`sim.cta_turns`'s.  The start and the end were set on
35 timings of Triton kernels on an H200 at 4096 x 4096 and 61 at 16 x 4096, of one session.

Left out: the spread of a tile over the lanes of a warp beyond its contiguous segments, DRAM
read-write turnaround beyond the measured copy, and the order in which CTAs drift.
"""

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.cta_turns import issue_ns, turns_ns
from sim.gpu import Gpu
from sim.memory import l2_ns, saturation, segment_share
from sim.occupancy import ctas_per_sm
from sim.parameters import TURNS, TurnParameters
from sim.quantize_traits import quantize_traits
from sim.traffic import miss_share
from sim.waves import waves
from tiles.kernels import ConfigTable
from tiles.problems import Quantize

__all__ = ["lsu_clk", "quantize_cost"]

F64 = NDArray[np.float64]

#: Filling and draining the device around a kernel of this kind, beyond its first load and its last
#: CTA: none.  Measured on an H200 by this project, November 2026: 16 x 4096 in 1.8-2.4 us.
DEVICE_FLOOR_US = 0.0
#: Bytes of a line, and clocks of the load-store unit for each line that an access touches: it is
#: looked up when it is asked for and again when it arrives.  Set on accesses of 8 to 64 bytes of
#: quantisation at 8192 x 8192.
LINE_BYTES, LINE_CLK = 128, 2.0


def lsu_clk(moved_bytes: F64, segment_bytes: F64) -> F64:
    """Clocks of an SM's load-store unit for bytes that lie in contiguous segments of a warp."""
    clk: F64 = LINE_CLK * moved_bytes / np.clip(segment_bytes, 1, LINE_BYTES)
    return clk


def quantize_cost(
    problem: Quantize,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: TurnParameters = TURNS,
) -> Cost:
    """Price every configuration of a quantisation family."""
    of = parameters
    traits = quantize_traits(problem, table, gpu)
    elements = problem.rows * problem.cols
    size = problem.source_element.bits // 8
    read_once = float(elements * size)
    written = float(problem.min_bytes - elements * size)
    clock_ghz = gpu.max_clock_mhz / 1e3  # streaming draws far less than the power limit

    occupancy = ctas_per_sm(
        gpu,
        registers=compiled.registers(traits.registers),
        smem_bytes=compiled.smem(traits.smem_bytes),
        warps=traits.warps,
    )
    spread = waves(traits.ctas, occupancy, gpu.sm_count)

    # Every resident CTA streams its own region, so all of them stand between two reads of one.
    resident = np.minimum(spread.capacity, traits.ctas)
    between = traits.reread_bytes * (1 if traits.launches > 1 else resident)
    again = (traits.passes - 1) * read_once
    missed = miss_share(between, gpu.l2_bytes)
    dram_read = read_once + again * missed
    l2_read = read_once * traits.passes
    # Full waves and the partial one keep different numbers of bytes in flight.
    tail_share = spread.tail_ctas / traits.ctas
    read_gb_per_s = min(gpu.dram_read_gb_per_s, gpu.dram_copy_gb_per_s)
    full_bytes = dram_read * (spread.capacity / traits.ctas)
    tail_bytes = dram_read * tail_share
    in_flight = np.minimum(spread.capacity * traits.in_flight_bytes, full_bytes)
    tail_in_flight = np.minimum(spread.tail_ctas * traits.in_flight_bytes, tail_bytes)
    busy = saturation(in_flight, read_gb_per_s, gpu.dram_latency_ns)
    tail_busy = saturation(tail_in_flight, read_gb_per_s, gpu.dram_latency_ns)
    row = traits.row_elements
    reading = dram_read / segment_share(row * size, of.request_bytes) / read_gb_per_s
    dram = reading * ((1 - tail_share) / busy + tail_share / tail_busy)
    # Nobody waits for a write.  Codes take a byte each.
    dram += written / segment_share(row, of.request_bytes) / gpu.dram_copy_gb_per_s
    dram = dram / of.dram_share

    # What the fullest SM does.
    sm_share = (spread.full * occupancy + spread.tail_per_sm) / traits.ctas
    on_sm = traits.ctas * sm_share
    through_l2 = l2_read + written
    l2 = l2_ns(gpu, bytes_per_sm=through_l2 * sm_share, bytes_total=through_l2, clock_ghz=clock_ghz)
    cuda_cores = issue_ns(
        of,
        gpu,
        warps_per_sm=on_sm * traits.warps,
        thread_instructions=traits.thread_instructions,
        clock_ghz=clock_ghz,
    )
    segment = traits.segment_elements
    load_store = (
        lsu_clk(l2_read * sm_share, segment * size)
        + lsu_clk(float(elements) * sm_share, segment)  # codes take a byte each
    ) / clock_ghz
    if problem.transposed:
        # A word into shared memory for four codes, and rows as long as the tile has rows.
        down = np.sqrt(traits.smem_bytes)
        load_store = (
            load_store
            + (
                elements * sm_share / 4 / gpu.warp_threads
                + lsu_clk(float(elements) * sm_share, down)
            )
            / clock_ghz
        )
    # What a CTA does alone: it starts, waits for its loads, computes and leaves; in a walk through
    # a block it waits again and again, wherever the second pass finds its bytes.
    waiting = of.cta_clk / clock_ghz * traits.launches + (traits.waits - 1) * gpu.dram_latency_ns
    own_reads = (dram_read if traits.launches > 1 else l2_read) / read_gb_per_s
    main, latency = turns_ns(
        of,
        dram=dram,
        pipes=(l2, cuda_cores, load_store),
        chain=own_reads + cuda_cores + on_sm * waiting,
        ctas=traits.ctas * traits.launches,
        resident=np.clip(traits.ctas / gpu.sm_count, 1, occupancy),
    )
    if traits.launches == 1:
        # All resident CTAs turn to their second pass at about the same time: DRAM rests for as long
        # as the L2 serves what it still has.
        main = main + again * (1.0 - missed) / gpu.l2_read_gb_per_s
    ends_us = (gpu.dram_latency_ns + of.cta_clk / clock_ghz) * traits.launches / 1e3
    launch_us = traits.launches * (gpu.graph_launch_us + DEVICE_FLOOR_US)
    terms = {
        "dram": dram / 1e3,
        "l2": l2 / 1e3,
        "cuda_cores": cuda_cores / 1e3,
        "load_store": load_store / 1e3,
        "latency": latency / 1e3,
        "prologue_epilogue": np.full(len(table), ends_us),
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=main / 1e3 + ends_us + launch_us,
        terms_us=terms,
        dram_read_bytes=dram_read,
        dram_write_bytes=np.full(len(table), written),
        l2_read_bytes=l2_read,
    )
