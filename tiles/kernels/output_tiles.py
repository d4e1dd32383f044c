"""An output in tiles of 128 x 128: means of each, and rows in chunks of whole tiles."""

import torch

__all__ = ["TILE", "row_slices", "tile_counts", "tile_means"]

TILE = 128
#: Rows of a tile times this many go through fp64 at once; keeps temporaries below 2 GiB.
_CHUNK_ELEMENTS = 2**25


def tile_means(values: torch.Tensor) -> torch.Tensor:
    """Mean of every 128 x 128 tile, ragged edge tiles over the elements they have.

    Returns:
        (ceil(M / 128), ceil(N / 128)) float64.
    """
    return _tile_sums(values) / tile_counts(values.shape[0], values.shape[1], values)


def _tile_sums(values: torch.Tensor) -> torch.Tensor:
    rows, cols = values.shape
    padded = torch.nn.functional.pad(values, (0, -cols % TILE, 0, -rows % TILE))
    tiles = padded.view(padded.shape[0] // TILE, TILE, padded.shape[1] // TILE, TILE)
    return tiles.sum(dim=(1, 3), dtype=torch.float64)


def tile_counts(rows: int, cols: int, like: torch.Tensor) -> torch.Tensor:
    """Elements of every tile of a (rows, cols) output, float64 on ``like``'s device."""

    def extents(total: int) -> torch.Tensor:
        starts = torch.arange(0, total, TILE, device=like.device)
        return torch.clamp(total - starts, max=TILE).to(torch.float64)

    return torch.outer(extents(rows), extents(cols))


def row_slices(rows: int, cols: int) -> list[slice]:
    """Rows in chunks of whole tiles, so that no temporary is as large as an operand or output."""
    step = max(1, _CHUNK_ELEMENTS // (cols * TILE)) * TILE
    return [slice(row, min(row + step, rows)) for row in range(0, rows, step)]
