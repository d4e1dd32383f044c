"""Codes and scales of any block format back to bf16, fp16 or fp32, in one pass.

``code x scale`` is exact in fp64; it is rounded to fp32 and from there to the output.  With a
second level the block's product is exact in fp32 and its product with the tensor's scale is
rounded.  A NaN scale (E8M0: 0xff) makes its block NaN.
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .dequantize_tiles_arguments import Request, kernel_constants, request
from .tile_elements import decode
from .tile_packing import load_codes
from .tile_scales import scale_offsets

__all__ = ["launch", "precompile"]


@triton.jit
def _scale_values(stored, STORED: tl.constexpr):
    """fp32 numbers of scales as they are stored."""
    if STORED == "e8m0fnu":
        exponent = stored.to(tl.int32)
        # 2^-127 is a subnormal.
        bits = tl.where(exponent == 0, 0x400000, exponent << 23)
        value = tl.where(exponent == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)
    elif STORED == "e4m3fn":
        # Ours are normal numbers or NaN; others store zeros, subnormals and signs as well.
        value = decode(stored, False, 8, 3, 7, 0x7F, 0, True)
    else:
        value = stored.to(tl.float32)
    return value


@triton.jit
def _dequantize_tiles(
    codes_ptr, scales_ptr, outer_ptr, out_ptr, rows, cols, tiles_across, row_stride, col_stride,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, SCALE_ROWS: tl.constexpr,
    SCALE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    EVEN: tl.constexpr, WORDS: tl.constexpr, SWIZZLED: tl.constexpr, STORED: tl.constexpr,
    TWO_LEVEL: tl.constexpr, SOFTWARE: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr,
    CODE_MAX: tl.constexpr,
):  # fmt: skip
    """A program decodes one tile of SCALE_ROWS x SCALE_COLS blocks, or of parts of them.

    ``BLOCK_ROWS`` and ``BLOCK_COLS`` are what lies under one scale within the tile: the block, or
    the tile where that is smaller.
    """
    GRID_ROWS: tl.constexpr = TILE_ROWS // BLOCK_ROWS
    GRID_COLS: tl.constexpr = TILE_COLS // BLOCK_COLS
    tile = tl.program_id(0)
    first_row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tile % tiles_across) * TILE_COLS
    codes = load_codes(
        codes_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, BITS, WORDS, EVEN
    )
    row = ((first_row + tl.arange(0, GRID_ROWS) * BLOCK_ROWS) // SCALE_ROWS).to(tl.int32)
    col = (first_col + tl.arange(0, GRID_COLS) * BLOCK_COLS) // SCALE_COLS
    grid_rows = tl.cdiv(rows, SCALE_ROWS)
    grid_cols = tl.cdiv(cols, SCALE_COLS)
    padded_cols = tl.cdiv(grid_cols, 4) * 4
    offsets = scale_offsets(
        row[:, None], col[None, :], padded_cols, row_stride, col_stride, SWIZZLED
    )
    inside = (row[:, None] < grid_rows) & (col[None, :] < grid_cols)
    scale = _scale_values(tl.load(scales_ptr + offsets, mask=inside, other=0), STORED)
    values = decode(codes, INTEGER, BITS, MANTISSA, BIAS, NAN_CODE, ZERO_CODE, SOFTWARE)
    blocks = tl.reshape(values, (GRID_ROWS, BLOCK_ROWS, GRID_COLS, BLOCK_COLS))
    blocks = blocks * tl.reshape(scale, (GRID_ROWS, 1, GRID_COLS, 1))
    if TWO_LEVEL:
        blocks *= tl.load(outer_ptr)
    out = tl.reshape(blocks, (TILE_ROWS, TILE_COLS)).to(out_ptr.dtype.element_ty)
    row_in = tl.arange(0, TILE_ROWS)[:, None]
    col_in = first_col + tl.arange(0, TILE_COLS)[None, :]
    base = out_ptr + first_row * cols
    if EVEN:
        tl.store(base + (row_in * cols + col_in), out)
    else:
        inside_out = (row_in < rows - first_row) & (col_in < cols)
        tl.store(base + (row_in * cols + col_in), out, mask=inside_out)


def _call(asked: Request):
    """Kernel, number of programs, arguments and constants of a launch."""
    rows, cols = asked.out.shape
    constants = kernel_constants(asked)
    across = triton.cdiv(cols, constants["TILE_COLS"])
    programs = triton.cdiv(rows, constants["TILE_ROWS"]) * across
    outer = asked.scales if asked.tensor_scale is None else asked.tensor_scale
    arguments = (
        asked.codes, asked.scales, outer, asked.out, rows, cols, across, *asked.scale_strides,
    )  # fmt: skip
    return _dequantize_tiles, programs, arguments, constants


def launch(
    codes: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    element: str,
    block: tuple[int, int],
    stored: str = "fp32",
    tensor_scale: torch.Tensor | None = None,
    swizzled: bool = False,
    config: Mapping[str, int | bool],
) -> None:
    """Dequantise on the current stream.

    Args:
        codes: (R, bytes of a row) of a one-byte dtype, contiguous, packed as ``tile_packing`` says.
        scales: one a block, in the stored format's dtype (E8M0 and e4m3fn: uint8); any strides,
            or, swizzled, the flat bytes of whole 128x4 tiles.
        out: (R, C) bf16, fp16 or fp32, contiguous; written.
        element: int8, mxint8, int4, e4m3fn, e5m2, e3m2fn, e2m3fn or e2m1fn.
        block: rows and columns under one scale: powers of two, or 0 for a whole extent.
        stored: fp32, fp16, bf16, e8m0fnu, or e4m3fn with a ``tensor_scale``.
        tensor_scale: (1,) fp32: the second level of e4m3fn scales (NVFP4).
        config: the fields of ``TritonDequantizeConfig``.
    Raises:
        ValueError: shapes, strides, devices, overlap or the configuration do not fit; TypeError:
            dtypes.
    """
    asked = request(
        codes, scales, out, element=element, block=block, stored=stored,
        tensor_scale=tensor_scale, swizzled=swizzled, config=config,
    )  # fmt: skip
    kernel, programs, arguments, constants = _call(asked)
    kernel[(programs,)](*arguments, **constants)


def precompile(*operands: Any, **options: Any) -> None:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    kernel, programs, arguments, constants = _call(request(*operands, **options))
    kernel.warmup(*arguments, grid=(programs,), **constants)
