"""Quantise a matrix and write what its codes stand for, in one pass.

For an operator that computes with numbers and saves codes: ``quantize_tiles`` and
``dequantize_tiles`` at once, bit for bit.  INT8 in square blocks under fp32 scales, to nearest.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_matrix, check_memory
from .quantize_tile import load_tile, quantize_tile
from .quantize_tiles_arguments import kernel_constants, request
from .tile_registers import two_ctas

__all__ = ["launch", "precompile"]

#: Side of a tile, where blocks are smaller.
_LEAST_TILE = 64


@triton.jit
def _quantize_rounded(
    x_ptr, codes_ptr, scales_ptr, out_ptr, rows, cols, tiles_across, row_stride, col_stride,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, EVEN: tl.constexpr, WORDS: tl.constexpr, GROUPED: tl.constexpr,
    STORED: tl.constexpr, RULE: tl.constexpr, SHORT: tl.constexpr, CODE_EXPONENT: tl.constexpr,
    CODE_MANTISSA: tl.constexpr, KEPT_MANTISSA: tl.constexpr, STOCHASTIC: tl.constexpr,
    SOFTWARE: tl.constexpr, CLAMP: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr,
    CODE_MAX: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """A program quantises one tile and rounds its numbers."""
    shape: tl.constexpr = (
        TILE_ROWS // BLOCK_ROWS, BLOCK_ROWS, TILE_COLS // BLOCK_COLS, BLOCK_COLS,
    )  # fmt: skip
    tile = tl.program_id(0)
    first_row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tile % tiles_across) * TILE_COLS
    x = load_tile(x_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN)
    codes, scale = quantize_tile(
        x, codes_ptr, scales_ptr, 0.0, 1.0, first_row, first_col, rows, cols, row_stride,
        col_stride, 0, 0, tile == 0, TILE_ROWS, TILE_COLS, BLOCK_ROWS, BLOCK_COLS, EVEN, WORDS,
        GROUPED, False, STORED, RULE, False, False, SHORT, CODE_EXPONENT, CODE_MANTISSA,
        KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS, MANTISSA, BIAS, NAN_CODE,
        ZERO_CODE, CODE_MAX, ASSEMBLY,
    )  # fmt: skip
    blocks = tl.reshape(codes.to(tl.int8, bitcast=True).to(tl.float32), shape) * scale
    out = tl.reshape(blocks, (TILE_ROWS, TILE_COLS)).to(out_ptr.dtype.element_ty)
    row = tl.arange(0, TILE_ROWS)[:, None]
    col = first_col + tl.arange(0, TILE_COLS)[None, :]
    base = out_ptr + first_row * cols
    if EVEN:
        tl.store(base + (row * cols + col), out)
    else:
        tl.store(base + (row * cols + col), out, mask=(row < rows - first_row) & (col < cols))


#: Constants of a quantisation that this kernel does not ask for.
_FIXED = ("WORDS_T", "GROUPED_T", "TRANSPOSED", "SHARED", "SWIZZLED", "ONE_SCALE", "TWO_LEVEL")


def _call(
    x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor, out: torch.Tensor, *, block: int
) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
    """Kernel, number of programs, arguments and constants of a launch."""
    tile = max(block, _LEAST_TILE)
    config = {"block_rows": tile, "block_cols": tile, "num_warps": max(1, tile * tile // 1024)}
    asked = request(
        x, codes, scales, element="int8", block=(block, block),
        config=config | {"software_cast": False},
    )  # fmt: skip
    check_matrix("out", out)
    if out.shape != x.shape:
        raise ValueError(
            f"out has shape {tuple(out.shape)} and x {tuple(x.shape)}: they must be equal"
        )
    if out.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(f"out has dtype {out.dtype}: bfloat16, float16 or float32")
    check_memory({"codes": codes, "scales": scales, "out": out}, {"x": x})
    constants = kernel_constants(asked)
    constants = {name: value for name, value in constants.items() if name not in _FIXED}
    constants |= two_ctas(config["num_warps"])
    rows, cols = x.shape
    across = triton.cdiv(cols, tile)
    arguments = (x, asked.codes, scales, out, rows, cols, across, *asked.scale_strides[:2])
    return _quantize_rounded, triton.cdiv(rows, tile) * across, arguments, constants


def launch(*tensors: torch.Tensor, **options: Any) -> None:
    """Launch on the current stream.

    Args:
        tensors: ``x`` (R, C) bf16, fp16 or fp32, contiguous; ``codes`` (R, C) int8 and ``scales``,
            one fp32 a block, written; ``out`` (R, C) a float, written: code x scale.
        options: ``block``, the side of a block, a power of two.
    Raises:
        ValueError: shapes, strides, devices or overlap do not fit; TypeError: dtypes.
    """
    kernel, programs, arguments, constants = _call(*tensors, **options)
    kernel[(programs,)](*arguments, **constants)


def precompile(*tensors: torch.Tensor, **options: Any) -> None:
    """Compile what :func:`launch` would run, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    kernel, programs, arguments, constants = _call(*tensors, **options)
    kernel.warmup(*arguments, grid=(programs,), **constants)
