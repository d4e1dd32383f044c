"""Scales that lie beside 8-bit codes in a checkpoint, as a tensor of their own."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["SCALE_SUFFIXES", "scale_blocks", "times_scales"]

F32 = NDArray[np.float32]

#: After the name of the codes: DeepSeek-V3's spelling, whose numbers multiply in spite of it, and
#: that of compressed-tensors.
SCALE_SUFFIXES = ("_scale_inv", "_scale")
#: Rows and columns under a scale of DeepSeek-V3, whose last blocks may be ragged.
_BLOCK = 128


def scale_blocks(rows: int, cols: int, grid: tuple[int, ...]) -> tuple[int, int] | None:
    """Rows and columns under each scale of a ``grid`` beside (rows, cols) codes.

    Blocks of 128 x 128, ragged at the end, or blocks of one size that fill the matrix: one scale a
    tensor or a row is among them.  ``None``: the grid is neither.
    """
    if len(grid) <= 1:
        grid = (*grid, 1)[:2] if grid else (1, 1)
    if len(grid) != 2:
        return None
    high, wide = grid
    if (high, wide) == (-(-rows // _BLOCK), -(-cols // _BLOCK)):
        return _BLOCK, _BLOCK
    if high < 1 or wide < 1 or rows % high or cols % wide:
        return None
    return rows // high, cols // wide


def times_scales(codes: F32, scales: F32, block: tuple[int, int], first: int) -> F32:
    """What (rows, cols) codes stand for, rows from ``first`` on of the whole matrix.

    Args:
        scales: the whole matrix's grid.
        block: rows and columns under a scale.
    """
    high, wide = block
    rows = np.arange(first, first + len(codes)) // high
    columns = np.arange(codes.shape[1]) // wide
    return codes * scales[rows][:, columns]
