"""The cost of kernels that move a matrix through tiles once: quantise, dequantise, transpose.

Bytes over the bandwidth that the accesses in flight reach, against issue slots and the integer
pipe, which selections, shifts, permutes, minima and logic share.  Instructions an element were
counted in SASS compiled for sm_90 (Triton 3.7.1), at 32 elements a thread and with divisions that
take the fast path.  Latency and the gaps between CTAs are those of the block quantisation
(:mod:`sim.memory_bound`); the share of the bandwidth, what random bits cost and the maximum that
all programs share were set on sweeps of 8192 x 8192 (``data/h200/sweeps``).

Left out: bank conflicts of transposed tiles, partial sectors of narrow rows beyond their share of
a line, DRAM read-write turnaround beyond the measured copy, and spills.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap, saturation
from sim.memory_bound import lsu_clk
from sim.occupancy import ctas_per_sm
from sim.parameters import STREAM, StreamParameters
from sim.pipes import WIDE_MULTIPLY_SLOTS
from sim.traffic import miss_share
from sim.waves import waves
from tiles.formats import IntElement, TensorFormat, element
from tiles.formats.rounding import Rounding
from tiles.kernels import ConfigTable, NumericPath
from tiles.problems import Dequantize, Quantize, Transpose

__all__ = ["Work", "tile_stream_cost", "work"]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

#: Of these instructions an element (all, on the integer pipe): widen, amax, scale of E8M0; the
#: further ones of a correctly rounded quotient; casts; the packing of narrow codes.
E8M0_QUOTIENT, QUOTIENT, LONG_QUOTIENT = (4.0, 2.0), (7.0, 2.0), (9.5, 2.5)
HARDWARE_CAST, INTEGER_CAST, SOFTWARE_CAST = (1.0, 1.0), (4.5, 3.0), (12.0, 9.0)
PACKING = {4: (11.0, 6.5), 6: (12.0, 7.5), 8: (0.0, 0.0)}
#: Half a Philox word and the carry that it decides, in place of the cast; of integers, half
#: as many instructions as of floats.  Of them, wide multiplications.
STOCHASTIC, STOCHASTIC_INTEGER = (25.0, 17.0), (12.0, 6.5)
STOCHASTIC_MULTIPLIES = 2.5
#: Addresses, masks, loads and stores.
MOVE = (2.0, 1.0)
#: Scales of a block in one thread: two divisions, or exponents.
BLOCK_SCALE, BLOCK_EXPONENT = (40.0, 20.0), (25.0, 20.0)
#: A thread's loads run along a row of this many elements at most.
THREAD_RUN = 16
DECODE = {4: (11.0, 3.5), 6: (12.5, 4.0), 8: (7.5, 2.0)}
#: Transposing a byte: a permute, a byte out of shared memory, a part of a wide access.
TRANSPOSE = (5.5, 3.5)
#: An atomic maximum of a word that all CTAs share: set on two-level quantisation of 8192 x 8192 in
#: tiles of 1024 elements, 65 536 CTAs.
ATOMIC_NS = 1.6
#: Registers beside those of the elements.
BASE_REGISTERS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a problem asks of memory and of an element's thread; scalars or one a configuration."""

    read_bytes: float  #: once through the input
    written_bytes: float
    passes: int  #: times that the input is read, a launch each
    read_bits: float  #: of an input element
    write_bits: float  #: of an output element, all copies together
    instructions: F64  #: an element
    integer_instructions: F64  #: of them on the integer pipe
    smem_accesses: float  #: of bytes in shared memory, an element


def _block(target: TensorFormat, shape: tuple[int, int]) -> tuple[int, int]:
    assert target.scaling is not None
    return target.scaling.rows or shape[0], target.scaling.cols or shape[1]


def _quantize_work(problem: Quantize, table: ConfigTable) -> Work:
    target, scaling = problem.target, problem.target.scaling
    assert scaling is not None
    size = problem.rows * problem.cols * problem.source_element.bits / 8
    exponent = scaling.stored.name == "e8m0fnu"
    if exponent:
        parts = [E8M0_QUOTIENT]
    else:
        parts = [LONG_QUOTIENT if problem.source == "fp32" else QUOTIENT]
    if target.rounding is Rounding.STOCHASTIC:
        parts.append(STOCHASTIC_INTEGER if isinstance(target.element, IntElement) else STOCHASTIC)
        parts.append((STOCHASTIC_MULTIPLIES * (WIDE_MULTIPLY_SLOTS - 1), 0.0))
    elif isinstance(target.element, IntElement):
        parts.append(INTEGER_CAST)
    else:
        parts.append(HARDWARE_CAST)
    parts += [PACKING[target.element.bits], MOVE]
    every = np.full(len(table), sum(part[0] for part in parts))
    integer = np.full(len(table), sum(part[1] for part in parts))
    software = np.asarray(table["software_cast"], np.float64)
    every = every + software * SOFTWARE_CAST[0]
    integer = integer + software * SOFTWARE_CAST[1]

    rows, cols = _block(target, problem.shape)
    each = np.maximum(table["block_rows"] * table["block_cols"] // (32 * table["num_warps"]), 1)
    own = BLOCK_EXPONENT if exponent else BLOCK_SCALE
    # Blocks that one thread has elements of; all its lanes compute their scales alike.
    blocks = np.maximum(1, np.minimum(each, THREAD_RUN) / cols) * np.maximum(
        1, each / THREAD_RUN / rows
    )
    copies = 1.0
    smem = 0.0
    if problem.transposed:
        copies = 1.5 if problem.shared_scales else 2.0
        smem = 1.0 if problem.shared_scales else 2.0
        if not problem.shared_scales:
            # Of the transpose a thread has a column of each place of its run.
            blocks = blocks + np.minimum(each, THREAD_RUN) * np.maximum(1, each / THREAD_RUN / cols)
    write_bits = target.element.bits * (2.0 if problem.transposed else 1.0)
    return Work(
        read_bytes=size,
        written_bytes=problem.min_bytes - size,
        passes=2 if scaling.two_level or scaling.rows is None else 1,
        read_bits=problem.source_element.bits,
        write_bits=write_bits,
        instructions=every * copies + own[0] * blocks / each,
        integer_instructions=integer * copies + own[1] * blocks / each,
        smem_accesses=smem,
    )


def work(problem: Quantize | Dequantize | Transpose, table: ConfigTable) -> Work:
    """Bytes and instructions of a problem under each configuration."""
    one = np.ones(len(table))
    if isinstance(problem, Quantize):
        return _quantize_work(problem, table)
    if isinstance(problem, Transpose):
        size = float(problem.rows * problem.cols)
        return Work(
            read_bytes=size,
            written_bytes=size,
            passes=1,
            read_bits=8,
            write_bits=8,
            instructions=TRANSPOSE[0] * one,
            integer_instructions=TRANSPOSE[1] * one,
            smem_accesses=1.0,
        )
    every, integer = DECODE[problem.source.element.bits]
    software = np.asarray(table["software_cast"], np.float64)
    size = float(problem.source.storage_bytes(problem.rows, problem.cols))
    return Work(
        read_bytes=size,
        written_bytes=problem.min_bytes - size,
        passes=1,
        read_bits=problem.source.element.bits,
        write_bits=element(problem.out).bits,
        instructions=every + 5.0 * software,
        integer_instructions=integer + 4.0 * software,
        smem_accesses=0.0,
    )


def tile_stream_cost(
    problem: Quantize | Dequantize | Transpose,
    _: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: StreamParameters = STREAM,
) -> Cost:
    """Price every configuration of a family whose programs hold a tile each."""
    of = parameters
    needs = work(problem, table)
    rows, cols = problem.shape
    tile_rows, tile_cols, warps = table["block_rows"], table["block_cols"], table["num_warps"]
    ctas: I64 = -(-rows // tile_rows) * -(-cols // tile_cols)
    tile = tile_rows * tile_cols
    each = -(-tile // (warps * gpu.warp_threads))
    # Bytes stay bytes where nothing is computed with them.
    words = each / 4 if isinstance(problem, Transpose) else each.astype(np.float64)
    registers = np.minimum(BASE_REGISTERS + np.ceil(1.25 * words), 255).astype(np.int64)
    smem = np.where(needs.smem_accesses > 0, tile, 0).astype(np.int64)
    occupancy = ctas_per_sm(
        gpu, registers=compiled.registers(registers), smem_bytes=compiled.smem(smem), warps=warps
    )
    spread = waves(ctas, occupancy, gpu.sm_count)
    clock_ghz = gpu.max_clock_mhz / 1e3

    # Tiles over the edge are computed whole and moved in part.
    elements = (ctas * tile).astype(np.float64)
    again = (needs.passes - 1) * needs.read_bytes
    # The second launch goes backwards: it finds what the cache still holds.
    kept = min(1.0, gpu.l2_bytes / max(needs.read_bytes, 1.0)) if needs.passes > 1 else 0.0
    between = np.full(len(table), needs.read_bytes)
    missed = np.minimum(1.0 - 0.5 * kept, miss_share(between, gpu.l2_bytes))
    dram_read = needs.read_bytes + again * missed
    in_flight_tile = np.minimum(tile, rows * cols) * (needs.read_bits / 8)
    read_gb_per_s = min(gpu.dram_read_gb_per_s, gpu.dram_copy_gb_per_s)
    in_flight = np.minimum(spread.capacity, ctas) * in_flight_tile
    busy = saturation(in_flight, read_gb_per_s, gpu.dram_latency_ns)
    dram = dram_read / read_gb_per_s / busy + needs.written_bytes / gpu.dram_copy_gb_per_s
    dram = dram / of.dram_share

    # What the fullest SM does.
    sm_share = (spread.full * occupancy + spread.tail_per_sm) / ctas
    moved = needs.read_bytes * needs.passes + needs.written_bytes
    l2 = l2_ns(
        gpu,
        bytes_per_sm=moved * sm_share,
        bytes_total=np.full(len(table), moved),
        clock_ghz=clock_ghz,
    )
    per_sm = elements * sm_share
    counted = of.instruction_share * per_sm
    issue = counted * needs.instructions / gpu.issue_per_clk
    integer = counted * needs.integer_instructions / gpu.int_per_clk
    cuda_cores = np.maximum(issue, integer) / clock_ghz
    read_segment = np.minimum(tile_cols, cols) * needs.read_bits / 8
    across = np.minimum(tile_cols, cols)
    if isinstance(problem, Transpose) or (isinstance(problem, Quantize) and problem.transposed):
        across = np.minimum(across, np.minimum(tile_rows, rows))
    write_segment = across * needs.write_bits / 8
    load_store = (
        lsu_clk(per_sm * needs.read_bits / 8 * needs.passes, read_segment)
        + lsu_clk(per_sm * needs.write_bits / 8, write_segment)
        + per_sm * needs.smem_accesses / gpu.warp_threads
    ) / clock_ghz
    turns = spread.count.astype(np.float64) * (of.cta_clk / clock_ghz * needs.passes)
    ends_us = (gpu.dram_latency_ns + of.cta_clk / clock_ghz) * needs.passes / 1e3
    launch_us = needs.passes * gpu.graph_launch_us
    # A CTA loads, computes and stores one after the other; co-resident ones fill its gaps.
    together = overlap(dram, l2, cuda_cores, load_store, turns, exponent=of.overlap_exponent)
    apart = dram + np.maximum(cuda_cores, load_store)
    resident = np.clip(ctas / gpu.sm_count, 1, occupancy)
    main = together + np.maximum(apart - together, 0.0) / resident
    if needs.passes > 1:
        # The first pass ends when every CTA has told its largest value to one word of memory.
        main = main + np.maximum(ctas * ATOMIC_NS - main / needs.passes, 0.0)
    terms = {
        "dram": dram / 1e3,
        "l2": l2 / 1e3,
        "cuda_cores": cuda_cores / 1e3,
        "load_store": load_store / 1e3,
        "latency": turns / 1e3,
        "prologue_epilogue": np.full(len(table), ends_us),
        "launch": np.full(len(table), launch_us),
    }
    return Cost(
        time_us=main / 1e3 + ends_us + launch_us,
        terms_us=terms,
        dram_read_bytes=np.asarray(dram_read, np.float64),
        dram_write_bytes=np.full(len(table), needs.written_bytes),
        l2_read_bytes=np.full(len(table), needs.read_bytes * needs.passes),
    )
