"""What a configuration of a quantisation family means to memory and arithmetic.

Families name their columns differently.  Two kinds are known: with a column ``lanes``, threads
share a quantisation block; without one, a CTA holds a tile.  A column that a table lacks takes the
value that does least harm, so that families may grow and shrink fields.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from tiles.formats import IntElement
from tiles.formats.rounding import Rounding
from tiles.kernels import ConfigTable
from tiles.problems import Quantize

__all__ = ["Traits", "quantize_traits"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

#: Instructions an element: load and widen 1, amax 2, divide 5, store 1; the cast comes on top.
BASE_INSTRUCTIONS = 9.0
INT8_CAST, FLOAT8_CAST, SOFTWARE_CAST = 2.0, 1.0, 14.0
#: In place of the cast to int8: half a Philox word, the sum that it decides, the sign of the code.
#: Counted in SASS for sm_90 (NVRTC 13.5) at 32 elements a thread, 16.5 an element in all.
STOCHASTIC_CAST = 7.5
#: Of them, the Philox counter that eight elements share; narrower vectors compute it again.
PHILOX = 4.4
PHILOX_ELEMENTS = 8
#: Instructions an element of the transposed copy: permutations, shared memory, 16 bytes at once.
TURNED = 3.0
#: Instructions an element of reading it a second time: load and widen, address.
REREAD_INSTRUCTIONS = 2.0
#: 4-byte words of a block that a thread keeps in registers; longer blocks are read twice.
KEPT_WORDS = 64
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
    passes: F64  #: times that the input is read
    reread_bytes: F64  #: input bytes a CTA reads before it comes back to the first; 0: never
    instructions: F64  #: an element, all passes together
    launches: int


def quantize_traits(problem: Quantize, table: ConfigTable, gpu: Gpu) -> Traits:
    """Read a table's columns.

    The input is read twice where a CTA does not hold what lies under one scale; scaling a whole
    tensor reads twice, in two launches.
    """
    one = np.ones(len(table), np.int64)
    columns = table.columns
    if problem.target.rounding is Rounding.STOCHASTIC:
        cast = STOCHASTIC_CAST * one
    elif isinstance(problem.target.element, IntElement):
        cast = INT8_CAST * one
    else:
        software = columns.get("software_cast", np.zeros(len(table), np.bool_))
        cast = np.where(software, SOFTWARE_CAST, FLOAT8_CAST)
    instructions = (BASE_INSTRUCTIONS + cast).astype(np.float64)
    if problem.transposed:
        instructions = instructions + TURNED
    if "lanes" in columns:
        return _by_lanes(problem, columns, gpu, one, instructions)
    return _by_tiles(problem, columns, gpu, one, instructions)


def _region(problem: Quantize) -> tuple[int, int]:
    """Rows and columns under one scale, clipped to the matrix."""
    scaling = problem.target.scaling
    assert scaling is not None  # a Quantize problem without scaling cannot be made
    return (
        min(scaling.rows or problem.rows, problem.rows),
        min(scaling.cols or problem.cols, problem.cols),
    )


def _by_tiles(
    problem: Quantize, columns: dict[str, I64], gpu: Gpu, one: I64, instructions: F64
) -> Traits:
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
    twice = walks | (launches > 1)
    held = np.minimum(tile, rows * cols)
    per_thread = -(-tile // threads)
    deep = np.where(walks, stages, 1)
    return Traits(
        warps=warps,
        registers=np.maximum(32, 2 * np.minimum(per_thread, KEPT_ELEMENTS)) + 8,
        smem_bytes=np.where(deep > 1, deep * tile * size, 0),
        ctas=ctas,
        in_flight_bytes=(held * deep * size).astype(np.float64),
        segment_elements=np.minimum(tile_cols, cols).astype(np.float64),
        passes=np.where(twice, 2.0, 1.0),
        reread_bytes=np.where(twice, region_bytes, 0).astype(np.float64),
        instructions=instructions + np.where(twice, REREAD_INSTRUCTIONS, 0.0),
        launches=launches,
    )


def _by_lanes(
    problem: Quantize, columns: dict[str, I64], gpu: Gpu, one: I64, instructions: F64
) -> Traits:
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
    ctas = -(-blocks // np.maximum(threads // lanes * unroll, 1))
    # A walking thread has a few vectors under way; one that keeps its block has all of them.
    per_thread = np.where(walks, 4 * vector, vectors * vector * unroll) * size
    shuffles = 2 * np.log2(lanes) / (vectors * vector)
    smem = np.where(lanes > gpu.warp_threads, 128, 0)
    if problem.target.rounding is Rounding.STOCHASTIC:
        instructions = instructions + PHILOX * (PHILOX_ELEMENTS / np.minimum(vector, 8) - 1)
    if problem.transposed:  # a CTA's blocks lie in a tile of bytes
        smem = smem + threads // lanes * unroll * region_rows * region_cols
    return Traits(
        warps=np.maximum(threads // gpu.warp_threads, 1),
        registers=40 + np.where(walks, 8, words * unroll),
        smem_bytes=smem,
        ctas=ctas,
        in_flight_bytes=(threads * per_thread).astype(np.float64),
        segment_elements=np.minimum(lanes * vector, region_cols).astype(np.float64),
        passes=np.where(walks, 2.0, 1.0),
        reread_bytes=np.where(walks, region_rows * region_cols * size * threads // lanes, 0).astype(
            np.float64
        ),
        instructions=instructions + shuffles + np.where(walks, REREAD_INSTRUCTIONS, 0.0),
        launches=1,
    )
