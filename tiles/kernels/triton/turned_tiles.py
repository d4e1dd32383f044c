"""Quantise the transpose of a matrix alone, in one pass: square blocks, INT8, fp32 scales.

What ``quantize_tiles`` writes as its transposed copy, without the codes of the matrix itself: a
weight's codes for a backward pass take one write less.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_memory, check_numbers
from .quantize_tile import _scaled, load_tile, store_scales
from .quantize_tiles_arguments import Request, kernel_constants
from .tile_checks import check_codes, check_reach, check_scales
from .tile_elements import encode
from .tile_packing import store_codes

__all__ = ["launch", "precompile"]


@triton.jit
def _quantize_turned(
    x_ptr, codes_ptr, scales_ptr, rows, cols, tiles_across, row_stride, col_stride,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, EVEN: tl.constexpr, WORDS: tl.constexpr,
    STORED: tl.constexpr, RULE: tl.constexpr, SHORT: tl.constexpr, CODE_EXPONENT: tl.constexpr,
    CODE_MANTISSA: tl.constexpr, KEPT_MANTISSA: tl.constexpr, STOCHASTIC: tl.constexpr,
    SOFTWARE: tl.constexpr, CLAMP: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr,
    CODE_MAX: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """A program quantises the transpose of one tile; rows and cols are those of the codes."""
    tile = tl.program_id(0)
    first_row = (tile % tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tile // tiles_across) * TILE_COLS
    GRID_ROWS: tl.constexpr = TILE_ROWS // BLOCK_ROWS
    GRID_COLS: tl.constexpr = TILE_COLS // BLOCK_COLS
    x = load_tile(
        x_ptr, first_col.to(tl.int64), first_row.to(tl.int32), cols, rows, TILE_COLS, TILE_ROWS,
        EVEN,
    )  # fmt: skip
    # As the matrix lies; codes are turned, which are a quarter or half as many bytes.
    shape: tl.constexpr = (GRID_COLS, BLOCK_COLS, GRID_ROWS, BLOCK_ROWS)
    scale, ratio, whole = _scaled(
        tl.reshape(x, shape).to(tl.float32), 0.0, 1.0, STORED, RULE, False, False, SHORT, CODE_MAX,
        CODE_EXPONENT, CODE_MANTISSA, KEPT_MANTISSA, 1.0,
    )  # fmt: skip
    codes = encode(
        ratio, whole, 0, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS, MANTISSA, BIAS, NAN_CODE,
        ZERO_CODE, CODE_MAX, ASSEMBLY,
    )  # fmt: skip
    codes = tl.trans(tl.reshape(codes, (TILE_COLS, TILE_ROWS)))
    store_codes(
        codes_ptr, codes, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, BITS, WORDS, EVEN
    )  # fmt: skip
    store_scales(
        scales_ptr, tl.trans(tl.reshape(scale, (GRID_COLS, GRID_ROWS))), first_row, first_col, rows,
        cols, row_stride, col_stride, GRID_ROWS, GRID_COLS, BLOCK_ROWS, BLOCK_COLS, False,
    )  # fmt: skip


#: Constants of a quantisation that this kernel does not ask for.
_FIXED = (
    *("GROUPED", "WORDS_T", "GROUPED_T", "TRANSPOSED", "SHARED", "SWIZZLED"),
    *("ONE_SCALE", "TWO_LEVEL"),
)


def _call(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, *, block: int, config: Any
) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
    """Kernel, number of programs, arguments and constants of a launch."""
    check_numbers("x", x)
    cols, rows = x.shape
    tile_rows, tile_cols = config["block_rows"], config["block_cols"]
    if block < 1 or block & (block - 1) or tile_rows % block or tile_cols % block:
        raise ValueError(
            f"block {block}, tile {tile_rows}x{tile_cols}: a power of two, and whole blocks"
        )
    check_codes("codes", codes, rows, cols, "int8")
    check_scales("scales", scales, (rows, cols), (block, block), "fp32", False)
    check_memory({"codes": codes, "scales": scales}, {"x": x})
    check_reach((tile_rows, tile_cols), (rows, cols), transposed=True)
    asked = Request(
        x=torch.empty(rows, cols, dtype=x.dtype, device="meta"), codes=codes.view(torch.uint8),
        scales=scales, codes_t=None, scales_t=None, tensor_scale=None, element="int8",
        block=(block, block), stored="fp32", rule="absmax", seed=None, swizzled=False,
        config=config,
    )  # fmt: skip
    constants = kernel_constants(asked)
    constants = {name: value for name, value in constants.items() if name not in _FIXED}
    constants["ASSEMBLY"] = x.device.type != "cpu"
    across = triton.cdiv(rows, tile_rows)
    arguments = (x, asked.codes, scales, rows, cols, across, *scales.stride())
    return _quantize_turned, across * triton.cdiv(cols, tile_cols), arguments, constants


def launch(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, **options: Any) -> None:
    """Quantise ``x^T`` to nearest even on the current stream.

    Args:
        x: (C, R) bf16, fp16 or fp32, contiguous.
        codes: (R, C) int8, contiguous; written.
        scales: fp32, one a block; written.
        options: ``block``, its side; ``config``, the fields of ``TritonQuantizeTilesConfig``, tiles
            of the codes.
    Raises:
        ValueError: shapes, strides, devices, overlap or the tile do not fit; TypeError: dtypes.
    """
    kernel, programs, arguments, constants = _call(x, codes, scales, **options)
    kernel[(programs,)](*arguments, **constants)


def precompile(x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, **options: Any) -> None:
    """Compile what :func:`launch` would run, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    kernel, programs, arguments, constants = _call(x, codes, scales, **options)
    kernel.warmup(*arguments, grid=(programs,), **constants)
