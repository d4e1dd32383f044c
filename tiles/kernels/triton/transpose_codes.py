"""Transpose a matrix of one-byte codes: whole sectors are read and whole sectors written."""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .launch_checks import (
    check_fields,
    check_given,
    check_matrix,
    check_memory,
    check_power_of_two,
)
from .tile_checks import check_reach

__all__ = ["launch", "precompile"]

FIELDS = ("block_rows", "block_cols", "num_warps")


@triton.jit
def _transpose_codes(
    codes_ptr, out_ptr, rows, cols, tiles_across, EVEN: tl.constexpr, TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
):  # fmt: skip
    """A program moves one tile."""
    tile = tl.program_id(0)
    first_row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tile % tiles_across).to(tl.int64) * TILE_COLS
    row = tl.arange(0, TILE_ROWS)
    col = tl.arange(0, TILE_COLS)
    source = codes_ptr + (first_row * cols + first_col) + (row[:, None] * cols + col[None, :])
    target = out_ptr + (first_col * rows + first_row) + (col[:, None] * rows + row[None, :])
    if EVEN:
        tl.store(target, tl.trans(tl.load(source)))
    else:
        inside = (row[:, None] < rows - first_row) & (col[None, :] < cols - first_col)
        codes = tl.trans(tl.load(source, mask=inside, other=0))
        tl.store(target, codes, mask=tl.trans(inside))


def _call(codes: torch.Tensor, out: torch.Tensor, config: Mapping[str, int | bool]):
    """Kernel, number of programs, arguments and constants of a launch."""
    check_fields(config, FIELDS)
    for name in FIELDS:
        check_power_of_two(name, config[name])
    for name, tensor in (("codes", codes), ("out", out)):
        check_given(name, tensor)
        if tensor.element_size() != 1 or tensor.dtype == torch.bool:
            raise TypeError(f"{name} has dtype {tensor.dtype}: it must be a one-byte dtype")
        check_matrix(name, tensor)
    if codes.dtype != out.dtype:
        raise TypeError(f"out has dtype {out.dtype}: codes have {codes.dtype}")
    rows, cols = codes.shape
    if tuple(out.shape) != (cols, rows):
        raise ValueError(f"out has shape {tuple(out.shape)}: it must be {(cols, rows)}")
    check_memory({"out": out}, {"codes": codes})
    tile_rows, tile_cols = config["block_rows"], config["block_cols"]
    check_reach((tile_rows, tile_cols), (rows, cols), transposed=True)
    across = triton.cdiv(cols, tile_cols)
    programs = triton.cdiv(rows, tile_rows) * across
    constants = {
        "EVEN": rows % tile_rows == 0 and cols % tile_cols == 0,
        "TILE_ROWS": tile_rows,
        "TILE_COLS": tile_cols,
        "num_warps": config["num_warps"],
    }
    arguments = (codes.view(torch.uint8), out.view(torch.uint8), rows, cols, across)
    return programs, arguments, constants


def launch(codes: torch.Tensor, out: torch.Tensor, *, config: Mapping[str, int | bool]) -> None:
    """Write the transpose of ``codes`` to ``out`` on the current stream.

    Args:
        codes: (R, C) of a one-byte dtype, contiguous.
        out: (C, R) of the same dtype, contiguous; written.
        config: the fields of ``TritonTransposeConfig``.
    Raises:
        ValueError: shapes, strides, devices, overlap or the configuration do not fit; TypeError:
            dtypes.
    """
    programs, arguments, constants = _call(codes, out, config)
    _transpose_codes[(programs,)](*arguments, **constants)


def precompile(codes: torch.Tensor, out: torch.Tensor, *, config: Mapping[str, int | bool]) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    programs, arguments, constants = _call(codes, out, config)
    _transpose_codes.warmup(*arguments, grid=(programs,), **constants)
