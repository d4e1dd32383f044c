"""Transpose a matrix of one-byte codes: whole sectors are read and whole sectors written."""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .tile_checks import check_apart, power_of_two

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
    if sorted(config) != sorted(FIELDS):
        raise ValueError(f"config has fields {sorted(config)}: it takes {sorted(FIELDS)}")
    for name in FIELDS:
        if not power_of_two(config[name]):
            raise ValueError(f"{name} = {config[name]}: it must be a power of two")
    for name, tensor in (("codes", codes), ("out", out)):
        if tensor.element_size() != 1 or tensor.dtype == torch.bool:
            raise TypeError(f"{name} has dtype {tensor.dtype}: it must be a one-byte dtype")
        if tensor.ndim != 2 or tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: pass a non-empty matrix")
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}: it must be contiguous")
    if codes.dtype != out.dtype:
        raise TypeError(f"out has dtype {out.dtype}: codes have {codes.dtype}")
    rows, cols = codes.shape
    if tuple(out.shape) != (cols, rows):
        raise ValueError(f"out has shape {tuple(out.shape)}: it must be {(cols, rows)}")
    check_apart({"codes": codes, "out": out})
    tile_rows, tile_cols = config["block_rows"], config["block_cols"]
    if tile_rows * max(cols, tile_cols) >= 2**31 or tile_cols * max(rows, tile_rows) >= 2**31:
        raise ValueError(f"tile {tile_rows}x{tile_cols} of {rows}x{cols} spans 2^31 elements")
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
