"""Legality rules and facts of the templates that the one-pass tile kernels share."""

import numpy as np
from numpy.typing import NDArray

from tiles.kernels.base import Limits
from tiles.kernels.table import ConfigTable, Rule

__all__ = ["CAST_CAPABILITY", "ELEMENTS", "WORD_CODES", "next_power_of_two", "tile_rules"]

#: Elements that the templates know.
ELEMENTS = ("int8", "mxint8", "int4", "e4m3fn", "e5m2", "e3m2fn", "e2m3fn", "e2m1fn")
#: First NVIDIA capability with conversion instructions for 8-bit floats.
CAST_CAPABILITY = 89
#: Codes that fill whole 4-byte words, by their width.
WORD_CODES = {4: 8, 6: 16}
MAX_THREADS = 1024
MAX_PROGRAMS = 2**31 - 1
#: Elements of a tile that a thread holds: fewer leave lanes idle, more spill (compiled for sm_90).
MIN_THREAD_ELEMENTS, MAX_THREAD_ELEMENTS = 4, 64


def next_power_of_two(extent: int) -> int:
    """The smallest power of two not below ``extent``."""
    return 1 << (extent - 1).bit_length()


def tile_rules(
    table: ConfigTable,
    limits: Limits,
    *,
    shape: tuple[int, int],
    transposed: bool,
    least: tuple[int, int] = (1, 1),
    thread_elements: tuple[int, int] = (MIN_THREAD_ELEMENTS, MAX_THREAD_ELEMENTS),
) -> list[Rule]:
    """Rules on ``block_rows``, ``block_cols`` and ``num_warps`` of a tile of a matrix.

    Args:
        shape: rows and columns of the matrix.
        transposed: tiles of the transposed matrix are written as well.
        least: rows and columns that a tile has at least, for packed codes.
        thread_elements: least and most elements of a tile a thread.
    """
    rows, cols, warps = table["block_rows"], table["block_cols"], table["num_warps"]
    elements = rows * cols
    threads = warps * limits.warp_threads
    each = elements / np.maximum(threads, 1)
    powers: NDArray[np.bool_] = np.ones(len(table), np.bool_)
    for column in (rows, cols, warps):
        powers &= (column > 0) & (column & (column - 1) == 0)
    programs = -(-shape[0] // np.maximum(rows, 1)) * -(-shape[1] // np.maximum(cols, 1))
    spans = rows * np.maximum(shape[1], cols)
    if transposed:
        spans = np.maximum(spans, cols * np.maximum(shape[0], rows))
    fewest, most = thread_elements
    return [
        Rule(
            "powers of two",
            ~powers,
            lambda i: (
                f"block_rows {rows[i]}, block_cols {cols[i]}, num_warps {warps[i]}: each must be a "
                "power of two"
            ),
        ),
        Rule(
            "threads",
            threads > MAX_THREADS,
            lambda i: f"{warps[i]} warps are {threads[i]} threads > {MAX_THREADS}",
        ),
        Rule(
            "packed codes",
            (rows < least[0]) | (cols < least[1]),
            lambda i: f"tile {rows[i]}x{cols[i]}: packed codes take at least {least[0]}x{least[1]}",
        ),
        Rule(
            "elements a thread",
            (each < fewest) | (each > most),
            lambda i: (
                f"{elements[i]} elements for {threads[i]} threads: {fewest} to {most} each stay in "
                "registers"
            ),
        ),
        Rule(
            "programs",
            (programs > MAX_PROGRAMS) | (spans >= 2**31),
            lambda i: f"{programs[i]} programs, tiles that span {spans[i]}: below 2^31 each",
        ),
    ]
