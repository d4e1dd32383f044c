"""How a matrix is cut into pieces of bounded size that fit its scale blocks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from tiles.formats.scaling import Scaling
from tiles.formats.torch_constants import held_tensor

__all__ = ["Band", "Piece", "bands"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rectangle of a matrix: whole blocks (ragged last ones included), or part of one block.

    Its elements lie one behind another in the row-major matrix.
    """

    rows: slice
    cols: slice
    grid_rows: slice  #: its blocks' rows in the scale grid of its band
    grid_cols: slice
    block: tuple[int, int]  #: rows and columns of a block, or of the part of one

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start

    @property
    def _missing(self) -> tuple[int, int]:
        """Rows and columns that ragged last blocks lack."""
        return -self.shape[0] % self.block[0], -self.shape[1] % self.block[1]

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """The piece of matrix ``x``."""
        return x[self.rows, self.cols]

    def in_blocks(self, piece: torch.Tensor, fill: float = 0) -> torch.Tensor:
        """The piece as (grid rows, block rows, grid columns, block columns), ragged blocks filled.

        For reductions over blocks: dimensions 1 and 3.
        """
        down, across = self._missing
        if down or across:
            piece = torch.nn.functional.pad(piece, (0, across, 0, down), value=fill)
        high, wide = self.block
        return piece.reshape(piece.shape[0] // high, high, -1, wide)

    def spread(self, grid: torch.Tensor) -> torch.Tensor:
        """A band's scale grid, so that it broadcasts against :meth:`in_blocks`."""
        return grid[self.grid_rows, self.grid_cols][:, None, :, None]

    def with_scales(
        self,
        combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        piece: torch.Tensor,
        grid: torch.Tensor,
    ) -> torch.Tensor:
        """``combine(element, its block's scale)`` for every element of the piece."""
        if not any(self._missing):
            return combine(self.in_blocks(piece), self.spread(grid)).reshape(self.shape)
        # By tables: what a compiler makes of blocks that are cut off is not always right (inductor
        # for CPUs splits the loop at the block length and forgets the rest of the row).
        rows, cols = (
            _block_indices(extent, block, grid.device)
            for extent, block in zip(self.shape, self.block, strict=True)
        )
        grid = grid[self.grid_rows, self.grid_cols]
        return combine(piece, grid.index_select(0, rows).index_select(1, cols))


def _block_indices(extent: int, block: int, device: torch.device) -> torch.Tensor:
    """The block that each of so many elements lies in."""
    # Held in graphs alone: their shapes are few, those of eager calls may be new every time.
    if torch.compiler.is_compiling():
        return _held_block_indices(extent, block, device)
    return torch.arange(extent, device=device) // block


@held_tensor
def _held_block_indices(extent: int, block: int, device: torch.device) -> torch.Tensor:
    return torch.arange(extent, device=device) // block


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """Whole rows of blocks: one piece, or one row of blocks in several pieces."""

    grid_rows: slice  #: rows of the matrix's scale grid
    grid_shape: tuple[int, int]  #: of the band's own scale grid
    extent: tuple[int, int]  #: rows and columns of elements
    block: tuple[int, int]  #: rows and columns of a whole block
    pieces: tuple[Piece, ...]

    def reduce(
        self,
        part: Callable[[Piece], torch.Tensor],
        combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        neutral: float,
    ) -> torch.Tensor:
        """Combine what ``part`` says of each piece's blocks into a grid of the band."""
        first, *others = self.pieces
        found = part(first)
        if not others:
            return found
        grid = torch.full(self.grid_shape, neutral, dtype=found.dtype, device=found.device)
        grid[first.grid_rows, first.grid_cols] = found
        for piece in others:
            place = grid[piece.grid_rows, piece.grid_cols]
            place.copy_(combine(place, part(piece)))
        return grid

    def by_size(self, value: Callable[[int], float], like: torch.Tensor) -> torch.Tensor:
        """A grid of ``value(elements of the block)``; ragged blocks are smaller."""
        (rows, cols), (high, wide) = self.extent, self.block
        last_high, last_wide = (rows - 1) % high + 1, (cols - 1) % wide + 1
        grid = torch.full(self.grid_shape, value(high * wide), dtype=like.dtype, device=like.device)
        grid[:, -1] = value(high * last_wide)
        grid[-1] = value(last_high * wide)
        grid[-1, -1] = value(last_high * last_wide)
        return grid


def _cuts(extent: int, block: int, limit: int) -> Iterator[tuple[slice, slice, int]]:
    """Elements, blocks, block length of each cut: whole blocks up to a limit, or parts of one."""
    if block <= limit:
        step = extent if extent <= limit else limit // block * block
        for start in range(0, extent, step):
            stop = min(start + step, extent)
            yield slice(start, stop), slice(start // block, -(-stop // block)), block
        return
    for index, first in enumerate(range(0, extent, block)):
        end = min(first + block, extent)
        for start in range(first, end, limit):
            stop = min(start + limit, end)
            yield slice(start, stop), slice(index, index + 1), stop - start


def bands(rows: int, cols: int, scaling: Scaling | None, limit: int | None) -> Iterator[Band]:
    """Cut a ``rows`` x ``cols`` matrix into bands of pieces of at most ``limit`` elements.

    Args:
        scaling: blocks to keep to; ``None``: any.
        limit: elements of a piece; ``None``: the matrix is one piece.
    """
    limit = rows * cols if limit is None else limit
    high = 1 if scaling is None else min(scaling.rows or rows, rows)
    wide = cols if scaling is None else min(scaling.cols or cols, cols)
    tall = max(high, limit // (cols * high) * high)
    widths = list(_cuts(cols, wide, min(cols, limit)))
    for top in range(0, rows, tall):
        bottom = min(top + tall, rows)
        # Pieces cut within rows are one row high.
        height = max(1, limit // cols) if len(widths) == 1 else 1
        pieces = tuple(
            Piece(
                rows=slice(top + down.start, top + down.stop),
                cols=across,
                grid_rows=grid_rows,
                grid_cols=grid_cols,
                block=(block_rows, block_cols),
            )
            for down, grid_rows, block_rows in _cuts(bottom - top, high, height)
            for across, grid_cols, block_cols in widths
        )
        yield Band(
            grid_rows=slice(top // high, -(-bottom // high)),
            grid_shape=(-(-(bottom - top) // high), -(-cols // wide)),
            extent=(bottom - top, cols),
            block=(high, wide),
            pieces=pieces,
        )
