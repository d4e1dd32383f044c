"""What a configuration of a quantisation family means to memory and arithmetic.

Families name their columns differently.  Two kinds are known: with a column ``lanes``, threads
share a quantisation block; without one, a CTA holds a tile.  A column that a table lacks takes the
value that does least harm, so that families may grow and shrink fields.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cta_turns import blocks_of_thread
from sim.gpu import Gpu
from sim.pipes import WIDE_MULTIPLY_SLOTS
from tiles.formats import IntElement
from tiles.formats.rounding import Rounding
from tiles.kernels import ConfigTable
from tiles.problems import Quantize

__all__ = ["Traits", "quantize_traits"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Triton, counted in SASS for sm_90 (Triton 3.7.1): of a thread, of an element that is widened,
#: compared, divided, rounded and stored, and of a block that a thread has elements of.
TILE_THREAD, TILE_BLOCK = 131.0, 7.6
TILE_ELEMENT, TILE_INTEGER, SOFTWARE_CAST = 10.5, 2.1, 13.0
#: Of an element that is read a second time, and of a step through a block larger than the tile:
#: bounds and addresses of both passes, more in a further row of tiles, and where loads pass through
#: a ring in shared memory.
REREAD, STEP, DOWN_STEP = 4.0, 22.0, 31.0
RING_STEP, RING_DOWN_STEP = 45.0, 100.0
#: Finding a tensor's largest value: of a thread, of an element.
AMAX_THREAD, AMAX = 54.0, 2.9
#: CUDA C++, counted likewise (NVRTC 13.0): of a block, more where several warps share it, of a
#: vector of adjacent elements, of an element.
LANE_BLOCK, WARPS_BLOCK, LANE_VECTOR = 62.0, 35.0, 11.0
LANE_ELEMENT, LANE_INTEGER = 5.1, 0.8
#: In place of the cast to int8: half a Philox word, the sum that it decides, the sign of the code.
STOCHASTIC_CAST = 8.0
#: Of them, the Philox counter that eight elements share, with its wide multiplications; narrower
#: vectors compute it again.
PHILOX, PHILOX_MULTIPLIES = 4.4, 2.4
PHILOX_ELEMENTS = 8
#: Of a transposed copy: of a thread, an element (permutations, shared memory, 16 bytes at once).
TURNED_THREAD, TURNED = 50.0, 1.5
#: Steps across that the compiler unrolls, their loads under way together.
UNROLLED_STEPS = 4
#: Bytes that a thread which walks through its block has under way: eight loads of 16 bytes in the
#: first pass and two in the second one (SASS), whose harmonic mean counts; of narrow vectors as
#: much.
WALKED_BYTES = 51
SECTOR_BYTES = 32
#: 4-byte words of a block that a thread keeps in registers; longer blocks are read twice.
KEPT_WORDS = 64
#: Addresses of a ring, where a thread asks for 16 bytes and more at once.
RING_REGISTERS, RING_ELEMENTS = 80, 8
#: Elements that a thread of a tile kernel holds before the tile no longer fits its registers.
KEPT_ELEMENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """One entry a configuration, except ``launches``."""

    warps: I64
    registers: I64  #: a thread
    smem_bytes: I64  #: a CTA
    ctas: I64
    in_flight_bytes: F64  #: input bytes that a CTA asks for before it waits
    segment_elements: F64  #: contiguous elements that a warp's access covers
    row_elements: F64  #: contiguous elements that a CTA reads and writes of a row
    passes: F64  #: times that the input is read
    reread_bytes: F64  #: input bytes a CTA reads before it comes back to the first; 0: never
    thread_instructions: F64  #: of a thread, all launches together
    waits: F64  #: times that a CTA waits for loads before it can go on, a launch
    launches: int


def quantize_traits(problem: Quantize, table: ConfigTable, gpu: Gpu) -> Traits:
    """Read a table's columns.

    The input is read twice where a CTA does not hold what lies under one scale; scaling a whole
    tensor reads twice, in two launches.
    """
    one = np.ones(len(table), np.int64)
    if "lanes" in table.columns:
        return _by_lanes(problem, table.columns, gpu, one)
    return _by_tiles(problem, table.columns, gpu, one)


def _region(problem: Quantize) -> tuple[int, int]:
    """Rows and columns under one scale, clipped to the matrix."""
    scaling = problem.target.scaling
    assert scaling is not None  # a Quantize problem without scaling cannot be made
    return (
        min(scaling.rows or problem.rows, problem.rows),
        min(scaling.cols or problem.cols, problem.cols),
    )


def _by_tiles(problem: Quantize, columns: dict[str, I64], gpu: Gpu, one: I64) -> Traits:
    """Columns ``block_rows block_cols num_warps num_stages``: a CTA holds a tile."""
    size = problem.source_element.bits // 8
    rows, cols = problem.rows, problem.cols
    region_rows, region_cols = _region(problem)
    tile_rows = columns.get("block_rows", one * min(region_rows, 32))
    tile_cols = columns.get("block_cols", one * min(region_cols, 128))
    warps = columns.get("num_warps", 4 * one)
    stages = columns.get("num_stages", one)
    threads = warps * gpu.warp_threads
    tile = tile_rows * tile_cols
    scaling = problem.target.scaling
    assert scaling is not None
    steps_down, steps_across = one, one
    if scaling.rows is None and scaling.cols is None:
        walks = np.zeros(len(one), np.bool_)
        ctas = -(-rows * cols // tile)
        region_bytes = one * (rows * cols * size)
        launches = 2
    else:
        launches = 1
        own_rows = tile_rows if scaling.rows == 1 and scaling.cols is None else one * region_rows
        walks = (tile_cols < region_cols) | (tile_rows < own_rows)
        # A tile of whole blocks covers several; otherwise a CTA takes one region at a time.
        across = np.where(walks, region_cols, np.maximum(tile_cols, region_cols))
        down = np.where(walks, own_rows, np.maximum(tile_rows, own_rows))
        ctas = -(-rows // down) * -(-cols // across)
        region_bytes = own_rows * region_cols * size
        steps_down = np.where(walks, -(-own_rows // tile_rows), 1)
        steps_across = np.where(walks, -(-region_cols // tile_cols), 1)
    twice = walks | (launches > 1)
    held = np.minimum(tile, rows * cols)
    per_thread = -(-tile // threads)
    deep = np.where(walks, stages, 1)
    element = TILE_ELEMENT + SOFTWARE_CAST * columns.get("software_cast", np.zeros(len(one)))
    if isinstance(problem.target.element, IntElement):
        element = element + TILE_INTEGER
    blocks = blocks_of_thread(tile_rows, tile_cols, threads, (region_rows, region_cols), size)
    # A ring takes words: narrower loads go through registers whatever is asked for.
    ring = (deep > 1) & (per_thread * size >= 4)
    step = np.where(ring, RING_STEP, STEP) + (element + REREAD) * per_thread
    walk = steps_down * (steps_across * step + np.where(ring, RING_DOWN_STEP, DOWN_STEP))
    count = TILE_THREAD + np.where(walks, walk, element * per_thread + TILE_BLOCK * blocks)
    if launches > 1:
        count = count + AMAX_THREAD + AMAX * per_thread
    # A ring of stages starts anew with every row of tiles; so do loops that are unrolled.
    rounds = steps_down * -(-steps_across // np.where(ring, deep, UNROLLED_STEPS))
    return Traits(
        warps=warps,
        registers=np.maximum(
            np.maximum(32, 24 + 3 * np.minimum(per_thread, KEPT_ELEMENTS) // 2),
            np.where(ring & (per_thread >= RING_ELEMENTS), RING_REGISTERS, 0),
        ),
        smem_bytes=np.where(deep > 1, deep * tile * size, 0),
        ctas=ctas,
        in_flight_bytes=(held * deep * size).astype(np.float64),
        segment_elements=np.minimum(tile_cols, cols).astype(np.float64),
        row_elements=np.minimum(tile_cols, cols).astype(np.float64),
        passes=np.where(twice, 2.0, 1.0),
        reread_bytes=np.where(twice, region_bytes, 0).astype(np.float64),
        thread_instructions=count,
        waits=np.where(walks, 2.0 * rounds, 1.0),
        launches=launches,
    )


def _by_lanes(problem: Quantize, columns: dict[str, I64], gpu: Gpu, one: I64) -> Traits:
    """Columns ``threads lanes vector unroll``: ``lanes`` threads share a quantisation block."""
    size = problem.source_element.bits // 8
    region_rows, region_cols = _region(problem)
    threads = columns.get("threads", 256 * one)
    lanes = np.maximum(columns["lanes"], 1)
    vector = np.maximum(columns.get("vector", one * (16 // size)), 1)
    unroll = columns.get("unroll", one)
    vectors = -(-region_rows * -(-region_cols // vector) // lanes)  # of a block, a thread
    words = vectors * np.maximum(vector * size // 4, 1)
    walks = words > KEPT_WORDS
    blocks = -(-problem.rows // region_rows) * -(-problem.cols // region_cols)
    own_blocks = np.maximum(threads // lanes * unroll, 1)
    ctas = -(-blocks // own_blocks)
    # Its blocks lie side by side; those of a tile that is turned, in a square.
    beside = np.ceil(np.sqrt(own_blocks)) if problem.transposed else own_blocks
    # One that keeps its block has all of it under way.
    walked = np.maximum(vector * size, WALKED_BYTES)
    per_thread = np.where(walks, walked, vectors * vector * unroll * size)
    brought = np.minimum(lanes * vector * size / SECTOR_BYTES, 1.0)
    smem = np.where(lanes > gpu.warp_threads, 128, 0)
    element = LANE_ELEMENT * one
    if problem.target.rounding is Rounding.STOCHASTIC:
        again = PHILOX_ELEMENTS / np.minimum(vector, PHILOX_ELEMENTS)
        philox = PHILOX + PHILOX_MULTIPLIES * (WIDE_MULTIPLY_SLOTS - 1)
        element = element + LANE_INTEGER + STOCHASTIC_CAST - PHILOX + philox * again
    elif isinstance(problem.target.element, IntElement):
        element = element + LANE_INTEGER
    once = LANE_BLOCK + WARPS_BLOCK * (lanes > gpu.warp_threads)
    count = unroll * (once + vectors * (LANE_VECTOR + element * vector))
    count = count + np.where(walks, vectors * (LANE_VECTOR + REREAD * vector), 0.0)
    if problem.transposed:  # a CTA's blocks lie in a tile of bytes
        smem = smem + threads // lanes * unroll * region_rows * region_cols
        count = count + TURNED_THREAD + unroll * vectors * vector * TURNED
    return Traits(
        warps=np.maximum(threads // gpu.warp_threads, 1),
        registers=40 + np.where(walks, 8, words * unroll),
        smem_bytes=smem,
        ctas=ctas,
        in_flight_bytes=(threads * per_thread / np.where(walks, brought, 1.0)).astype(np.float64),
        segment_elements=np.minimum(lanes * vector, region_cols).astype(np.float64),
        row_elements=np.minimum(beside * region_cols, problem.cols).astype(np.float64),
        passes=np.where(walks, 2.0, 1.0),
        reread_bytes=np.where(walks, region_rows * region_cols * size * threads // lanes, 0).astype(
            np.float64
        ),
        thread_instructions=count,
        waits=np.where(walks, 2.0 * np.ceil(vectors * vector * size / walked), 1.0),
        launches=1,
    )
