"""Instructions of the dataflow kernels, an element: counted in machine code, to within 13 %.

8-bit floats are a difference, to within 20 %.

Counts were read off the SASS of 32 x 32 blocks, compiled for sm_90 (``python -m bench.sass``,
NVRTC 13.x) with one, two and four vectors a thread: what grows with the elements of a thread stands
an element, the rest once a block and thread.
"""

import numpy as np
from numpy.typing import NDArray

from tiles.formats import IntElement, Rounding
from tiles.kernels import ConfigTable
from tiles.kernels.dataflow_blocks import BLOCK_OPS, TABLED_ELEMENTS, blocks_at_once, line_bytes
from tiles.kernels.dataflow_family import LINE_VECTORS, VECTOR, WARP, block_of, items
from tiles.kernels.dataflow_rows import row_steps
from tiles.problems import Dataflow

__all__ = [
    "instructions",
    "moves_lines",
    "special_functions",
    "tabled",
    "wide_multiplies",
]

F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: Instructions an element rounded to nearest, without what is done once a block and thread.  Of
#: activations: looked up in a table (TABLED), worked out (the others).
ELEMENT_INSTRUCTIONS = {
    "gelu": 12.2, "gelu-bwd": 18.4, "silu": 8.0, "silu-bwd": 13.0, "relu": 4.0, "relu-bwd": 6.5,
    "dropout": 11.4, "residual": 7.3, "layernorm": 7.6, "layernorm-apply": 6.8,
    "layernorm-bwd": 19.6, "rmsnorm": 7.5, "rmsnorm-apply": 6.5, "rmsnorm-bwd": 16.8,
}  # fmt: skip
TABLED = {"gelu": 7.6, "gelu-bwd": 10.0, "silu": 7.0, "silu-bwd": 9.4}
#: Operators that multiply codes by one number.
LINEAR = ("relu", "relu-bwd", "dropout")
#: Special functions an element that is not looked up.
SPECIAL_FUNCTIONS = {"gelu": 2, "gelu-bwd": 3, "silu": 2, "silu-bwd": 2}
#: int8 codes an element that the special-function pipe converts to floats, likewise.
CONVERSIONS = {
    "gelu": 1, "gelu-bwd": 2, "silu": 1, "silu-bwd": 2, "residual": 2, "layernorm": 1,
    "layernorm-apply": 1, "layernorm-bwd": 2, "rmsnorm": 1, "rmsnorm-apply": 1, "rmsnorm-bwd": 2,
}  # fmt: skip
TABLED_CONVERSIONS = {"gelu-bwd": 1, "silu-bwd": 1}
#: Once a thread and block: places, scales, the largest value over the lanes.  Once a thread.
BLOCK_INSTRUCTIONS, THREAD_INSTRUCTIONS = 105.0, 85.0
#: Once a block where a warp moves lines: places are worked out once a tile.
LINED_INSTRUCTIONS = 70.0
#: Once a thread and block of the row kernel, whose sums are taken beside, and where warps move
#: lines.  Once a thread and row group: sums over its lanes, warps and CTAs.
ROW_BLOCK_INSTRUCTIONS, ROW_LINED_INSTRUCTIONS, ROW_INSTRUCTIONS = 155.0, 130.0, 500.0
#: Philox, 40 for eight elements, and what rounding takes beyond the addition to nearest.
STOCHASTIC_INSTRUCTIONS = 6.0
#: More of them where floats of both signs are rounded: a second addition, random bits that are
#: inverted with the sign.  Codes that one number multiplies, and looked-up magnitudes, lack both.
SIGNED_STOCHASTIC = 2.0
#: Wide multiplications an element, see ``sim.pipes``.
STOCHASTIC_MULTIPLIES = 2.25
#: e4m3fn beyond int8: decoding, and random bits below each code's own exponent.
FLOAT8_INSTRUCTIONS, FLOAT8_STOCHASTIC = 0.8, 6.0


def tabled(problem: Dataflow) -> bool:
    """Whether activations are looked up: blocks are large enough to fill a table for each."""
    rows, cols = block_of(problem)
    return problem.op in TABLED and rows * cols >= TABLED_ELEMENTS


def moves_lines(problem: Dataflow, table: ConfigTable) -> Bool:
    """Where a warp has blocks to itself, moves whole lines and waits for no other warp."""
    if problem.op in BLOCK_OPS:
        return line_bytes(problem, table) > 0
    rows, cols = block_of(problem)
    line = LINE_VECTORS * VECTOR
    beside = np.maximum(table["threads"] // np.maximum(table["lanes"], 1), 1)
    fits = (problem.cols % (table["splits"] * beside * line) == 0) & (
        problem.rows % table["rows"] == 0
    )
    alone = (table["lanes"] == WARP) & (table["rows"] == rows) & fits
    lined: Bool = alone & (rows * cols >= WARP * VECTOR) & (cols < line)
    return lined


def special_functions(problem: Dataflow) -> int:
    """Of the special-function pipe, an element: functions, and conversions of int8 codes."""
    looked_up = tabled(problem)
    functions = 0 if looked_up else SPECIAL_FUNCTIONS.get(problem.op, 0)
    if not isinstance(problem.target.element, IntElement):
        return functions
    return functions + (TABLED_CONVERSIONS if looked_up else CONVERSIONS).get(problem.op, 0)


def wide_multiplies(problem: Dataflow) -> float:
    """Wide multiplications an element: Philox, once more for the mask of dropout."""
    stochastic = problem.target.rounding is Rounding.STOCHASTIC
    return STOCHASTIC_MULTIPLIES * (stochastic + (problem.op == "dropout"))


def _signed_floats(problem: Dataflow) -> bool:
    """Whether what is rounded are floats of both signs."""
    magnitudes = tabled(problem) and not problem.op.endswith("-bwd")
    return problem.op not in LINEAR and not magnitudes


def instructions(problem: Dataflow, table: ConfigTable) -> F64:
    """Instructions an element, everything included."""
    count = TABLED[problem.op] if tabled(problem) else ELEMENT_INSTRUCTIONS[problem.op]
    stochastic = problem.target.rounding is Rounding.STOCHASTIC
    if stochastic:
        count += STOCHASTIC_INSTRUCTIONS + SIGNED_STOCHASTIC * _signed_floats(problem)
    if not isinstance(problem.target.element, IntElement):
        count += FLOAT8_INSTRUCTIONS + FLOAT8_STOCHASTIC * stochastic
    each = 16.0 * items(problem, table)
    lines = moves_lines(problem, table)
    if problem.op in BLOCK_OPS:
        side = blocks_at_once(problem, table)
        once = np.where(lines, LINED_INSTRUCTIONS, BLOCK_INSTRUCTIONS)
        once = once + THREAD_INSTRUCTIONS / (table["steps"] * side)
    else:
        once = np.where(lines, ROW_LINED_INSTRUCTIONS, ROW_BLOCK_INSTRUCTIONS)
        once = once + ROW_INSTRUCTIONS / row_steps(problem, table)
    return np.asarray(count + once / each, np.float64)
