"""The cost of kernels that move a matrix through tiles once: quantise, dequantise, transpose.

Bytes over the bandwidth that the accesses in flight reach, against issue slots and, for transposes,
the integer pipe, which selections, shifts, permutes, minima and logic share.  Instructions were
counted in SASS compiled for sm_90 (Triton 3.7.1), in tiles of 4 to 128 elements a thread, branches
that are rarely taken left out.  How CTAs share an SM is :mod:`sim.cta_turns`'s; the maximum that
all programs share was set on sweeps of 8192 x 8192 (``data/h200/sweeps``).

Left out: bank conflicts of transposed tiles, tables of scales beside their sectors, DRAM
read-write turnaround beyond the measured copy, and spills.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.compiled import Compiled
from sim.cost import Cost
from sim.cta_turns import blocks_of_thread, issue_ns, turns_ns
from sim.gpu import Gpu
from sim.memory import l2_ns, saturation, segment_share
from sim.memory_bound import lsu_clk
from sim.occupancy import ctas_per_sm
from sim.parameters import TURNS, TurnParameters
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

#: Instructions of a thread before and behind its elements: addresses, masks, bounds, reductions.
QUANTIZE_THREAD, DEQUANTIZE_THREAD, TRANSPOSE_THREAD, AMAX_THREAD = 80.0, 64.0, 80.0, 54.0
#: More where a block has several rows, over which lanes and warps compare once more.
ROWS_THREAD = 35.0
#: Of these instructions an element: widening, amax, addresses and stores; a multiplication by a
#: power of two; the further ones of a correctly rounded quotient; casts; narrow codes and packing.
MOVE = 1.0
E8M0_QUOTIENT, QUOTIENT, LONG_QUOTIENT = 0.2, 6.0, 7.5
HARDWARE_CAST, INTEGER_CAST, SOFTWARE_CAST = 0.8, 3.3, 9.0
PACKING = {4: 3.3, 6: 6.0, 8: 0.0}
NARROW_FLOAT = {4: 5.8, 6: 0.0, 8: 0.0}
#: The second level of scales.
TWO_LEVEL = 3.0
#: Half a Philox word and the carry that it decides, in place of the cast; of integers, half
#: as many instructions as of floats.  Of them, wide multiplications.
STOCHASTIC, STOCHASTIC_INTEGER = 25.0, 13.8
STOCHASTIC_MULTIPLIES = 2.5
#: Instructions of a thread for each block it has elements of: lanes compare, a division or an
#: exponent, the store of the scale.
BLOCK_SCALE, BLOCK_EXPONENT = 13.0, 26.0
#: The second launch of a scale for the tensor; the first one's reads and maxima, an element.
AMAX = 2.9
#: By bits of a code; integers are converted one by one.
DECODE = {4: 9.3, 6: 12.5, 8: 3.8}
DECODE_INTEGER = 1.7
DECODE_BLOCK = 8.0
#: Transposing a byte: a permute, a byte out of shared memory, a part of a wide access.
TRANSPOSE, TRANSPOSE_INTEGER = 3.5, 2.7
#: A second, turned copy of codes.
TURN = 4.8
#: An atomic maximum of a word that all CTAs share: set on two-level quantisation of 8192 x 8192 in
#: tiles of 1024 elements, 65 536 CTAs.
ATOMIC_NS = 1.35
#: Registers beside those of the elements.
BASE_REGISTERS = 24
#: A store that covers a part of a sector still writes all of it.
SECTOR_BYTES = 32
#: Of a thread's widest load.
RUN_BYTES = 16
WARP_THREADS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a problem asks of memory and of an element's thread; scalars or one a configuration."""

    read_bytes: float  #: once through the input
    written_bytes: float
    passes: int  #: times that the input is read, a launch each
    read_bits: float  #: of an input element
    write_bits: float  #: of an output element, all copies together
    instructions: F64  #: of a thread, without those of a first launch for the largest value
    integer_instructions: F64  #: of them on the integer pipe, where that is the busiest
    smem_accesses: float  #: of bytes in shared memory, an element
    narrow_stores: F64  #: stores of a part of a sector, in all


def _block(target: TensorFormat, shape: tuple[int, int]) -> tuple[int, int]:
    assert target.scaling is not None
    return target.scaling.rows or shape[0], target.scaling.cols or shape[1]


def _each(table: ConfigTable) -> F64:
    """Elements of a thread: one at least, which its neighbours may have as well."""
    tile = table["block_rows"] * table["block_cols"]
    each: F64 = np.maximum(tile / (WARP_THREADS * table["num_warps"]), 1.0)
    return each


def _element_instructions(problem: Quantize) -> float:
    """Instructions of one element, its scale known; a software cast comes on top."""
    target = problem.target
    assert target.scaling is not None
    count = MOVE + PACKING[target.element.bits]
    if target.scaling.stored.name == "e8m0fnu":
        count += E8M0_QUOTIENT
    else:
        count += LONG_QUOTIENT if problem.source == "fp32" else QUOTIENT
    count += TWO_LEVEL * target.scaling.two_level
    integer = isinstance(target.element, IntElement)
    if target.rounding is Rounding.STOCHASTIC:
        count += STOCHASTIC_INTEGER if integer else STOCHASTIC
        count += STOCHASTIC_MULTIPLIES * (WIDE_MULTIPLY_SLOTS - 1)
    elif integer:
        count += INTEGER_CAST
    else:
        count += HARDWARE_CAST + NARROW_FLOAT[target.element.bits]
    return count


def _narrow_stores(problem: Quantize, table: ConfigTable) -> F64:
    """Stores of one-byte scales that cover a part of a sector: one a row of a tile's scales."""
    scaling = problem.target.scaling
    assert scaling is not None
    _, cols = _block(problem.target, problem.shape)
    beside = np.maximum(table["block_cols"] // cols, 1)
    stores = problem.target.scale_count(problem.rows, problem.cols) / beside
    narrow = scaling.stored.bits == 8 and not problem.swizzled
    return np.where(narrow & (beside < SECTOR_BYTES), stores, 0.0)


def _quantize_work(problem: Quantize, table: ConfigTable) -> Work:
    target, scaling = problem.target, problem.target.scaling
    assert scaling is not None
    size = problem.rows * problem.cols * problem.source_element.bits / 8
    element_count = _element_instructions(problem) + SOFTWARE_CAST * table["software_cast"]
    each = _each(table)
    tile_rows, tile_cols = table["block_rows"], table["block_cols"]
    threads = WARP_THREADS * table["num_warps"]
    block = _block(target, problem.shape)
    bytes_each = problem.source_element.bits // 8
    own = BLOCK_EXPONENT if scaling.stored.name == "e8m0fnu" else BLOCK_SCALE
    blocks = blocks_of_thread(tile_rows, tile_cols, threads, block, bytes_each)
    once = QUANTIZE_THREAD + ROWS_THREAD * (block[0] > 1)
    count = once + element_count * each + own * blocks
    smem = 0.0
    if problem.transposed and problem.shared_scales:
        count, smem = count + TURN * each, 1.0
    elif problem.transposed:
        # Of the transpose a thread has a column of each place of its run.
        runs = np.minimum(each, RUN_BYTES // bytes_each) * np.maximum(
            1, each / RUN_BYTES * bytes_each / block[1]
        )
        count, smem = count + (element_count + TURN) * each + own * runs, 2.0
    write_bits = target.element.bits * (2.0 if problem.transposed else 1.0)
    return Work(
        read_bytes=size,
        written_bytes=problem.min_bytes - size,
        passes=2 if scaling.two_level or scaling.rows is None else 1,
        read_bits=problem.source_element.bits,
        write_bits=write_bits,
        instructions=count,
        integer_instructions=0.0 * each,
        smem_accesses=smem,
        narrow_stores=_narrow_stores(problem, table),
    )


def work(problem: Quantize | Dequantize | Transpose, table: ConfigTable) -> Work:
    """Bytes and instructions of a problem under each configuration."""
    if isinstance(problem, Quantize):
        return _quantize_work(problem, table)
    each = _each(table)
    if isinstance(problem, Transpose):
        size = float(problem.rows * problem.cols)
        return Work(
            read_bytes=size,
            written_bytes=size,
            passes=1,
            read_bits=8,
            write_bits=8,
            instructions=TRANSPOSE_THREAD + TRANSPOSE * each,
            integer_instructions=TRANSPOSE_INTEGER * each,
            smem_accesses=1.0,
            narrow_stores=0.0 * each,
        )
    source = problem.source
    count = DECODE[source.element.bits] + DECODE_INTEGER * isinstance(source.element, IntElement)
    size = float(source.storage_bytes(problem.rows, problem.cols))
    blocks = blocks_of_thread(
        table["block_rows"],
        table["block_cols"],
        WARP_THREADS * table["num_warps"],
        _block(source, problem.shape),
        element(problem.out).bits // 8,
    )
    return Work(
        read_bytes=size,
        written_bytes=problem.min_bytes - size,
        passes=1,
        read_bits=source.element.bits,
        write_bits=element(problem.out).bits,
        instructions=DEQUANTIZE_THREAD
        + (count + 5.0 * table["software_cast"]) * each
        + DECODE_BLOCK * blocks,
        integer_instructions=0.0 * each,
        smem_accesses=0.0,
        narrow_stores=0.0 * each,
    )


def tile_stream_cost(
    problem: Quantize | Dequantize | Transpose,
    _: NumericPath,
    table: ConfigTable,
    gpu: Gpu,
    compiled: Compiled,
    parameters: TurnParameters = TURNS,
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
    again = (needs.passes - 1) * needs.read_bytes  # by a launch before
    # The second launch goes backwards: it finds what the cache still holds.
    kept = min(1.0, gpu.l2_bytes / max(needs.read_bytes, 1.0)) if needs.passes > 1 else 0.0
    between = np.full(len(table), needs.read_bytes)
    missed = np.minimum(1.0 - 0.5 * kept, miss_share(between, gpu.l2_bytes))
    if needs.passes == 1:
        missed = np.ones(len(table))
    dram_read = needs.read_bytes * missed + again
    in_flight_tile = np.minimum(tile, rows * cols) * (needs.read_bits / 8)
    read_gb_per_s = min(gpu.dram_read_gb_per_s, gpu.dram_copy_gb_per_s)
    in_flight = np.minimum(spread.capacity, ctas) * in_flight_tile
    busy = saturation(in_flight, read_gb_per_s, gpu.dram_latency_ns)
    read_row = np.minimum(tile_cols, cols) * needs.read_bits / 8
    across = np.minimum(tile_cols, cols)
    turned = isinstance(problem, Transpose) or (
        isinstance(problem, Quantize) and problem.transposed
    )
    if turned:
        across = np.minimum(across, np.minimum(tile_rows, rows))
    write_row = across * needs.write_bits / 8
    # Nanoseconds a byte.
    read_cost = 1 / (segment_share(read_row, of.request_bytes) * read_gb_per_s * busy)
    written = needs.written_bytes / segment_share(write_row, of.request_bytes)
    written = written + needs.narrow_stores * SECTOR_BYTES
    own_reads = dram_read - again
    dram = (own_reads * read_cost + written / gpu.dram_copy_gb_per_s) / of.dram_share

    # What the fullest SM does.
    sm_share = (spread.full * occupancy + spread.tail_per_sm) / ctas
    moved = needs.read_bytes * needs.passes + needs.written_bytes
    l2 = l2_ns(
        gpu,
        bytes_per_sm=moved * sm_share,
        bytes_total=np.full(len(table), moved),
        clock_ghz=clock_ghz,
    )
    on_sm = ctas * sm_share
    issue = issue_ns(
        of,
        gpu,
        warps_per_sm=on_sm * warps,
        thread_instructions=needs.instructions,
        clock_ghz=clock_ghz,
    )
    threads = on_sm * warps * gpu.warp_threads
    integer = threads * needs.integer_instructions / gpu.int_per_clk / clock_ghz
    cuda_cores = np.maximum(issue, integer)
    per_sm = elements * sm_share
    load_store = (
        lsu_clk(per_sm * needs.read_bits / 8 * needs.passes, read_row)
        + lsu_clk(per_sm * needs.write_bits / 8, write_row)
        + per_sm * needs.smem_accesses / gpu.warp_threads
    ) / clock_ghz
    main, latency = turns_ns(
        of,
        dram=dram,
        pipes=(l2, cuda_cores, load_store),
        chain=own_reads / read_gb_per_s
        + cuda_cores
        + on_sm * (of.cta_clk / clock_ghz)
        + (load_store if turned else 0.0),
        ctas=ctas,
        resident=np.clip(ctas / gpu.sm_count, 1, occupancy),
    )
    if needs.passes > 1:
        first = again * read_cost / of.dram_share
        compared = issue_ns(
            of,
            gpu,
            warps_per_sm=on_sm * warps,
            thread_instructions=AMAX_THREAD + AMAX * _each(table),
            clock_ghz=clock_ghz,
        )
        scanned, started = turns_ns(
            of,
            dram=first,
            pipes=(compared,),
            chain=again / read_gb_per_s + compared + on_sm * (of.cta_clk / clock_ghz),
            ctas=ctas,
            resident=np.clip(ctas / gpu.sm_count, 1, occupancy),
        )
        # It ends when every CTA has told its largest value to one word of memory.
        main, latency = main + np.maximum(scanned, ctas * ATOMIC_NS), latency + started
        dram, cuda_cores = dram + first, cuda_cores + compared
    ends_us = (gpu.dram_latency_ns + of.cta_clk / clock_ghz) * needs.passes / 1e3
    launch_us = needs.passes * gpu.graph_launch_us
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
        dram_write_bytes=np.full(len(table), needs.written_bytes),
        l2_read_bytes=np.full(len(table), needs.read_bytes * needs.passes),
    )
