"""Quantise part of a matrix where the whole one's codes lie, with their transpose if wanted.

What ``quantize_tiles`` writes for the whole matrix, bit for bit, random bits included, from parts
that come one after another: INT8 in square blocks under fp32 scales, and parts of whole blocks.
So gradients of queries, keys and values need no joint matrix of numbers.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_matrix, check_memory, check_numbers, check_power_of_two
from .quantize_tile import load_tile, quantize_tile, store_scales
from .quantize_tiles_arguments import Request, kernel_constants
from .tile_checks import check_codes, check_reach, check_scales
from .tile_packing import store_codes
from .tile_registers import two_ctas

__all__ = ["launch", "precompile", "tile_side"]

#: Side of a tile, where blocks are smaller.
_LEAST_TILE = 64


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _quantize_placed(
    x_ptr, codes_ptr, scales_ptr, codes_t_ptr, scales_t_ptr, place_row, place_col, part_rows,
    part_cols, rows, cols, tiles_across, row_stride, col_stride, row_stride_t, col_stride_t,
    seed_low, seed_high, TRANSPOSED: tl.constexpr, WORDS_T: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, EVEN: tl.constexpr, WORDS: tl.constexpr, GROUPED: tl.constexpr,
    STORED: tl.constexpr, RULE: tl.constexpr, SHORT: tl.constexpr, CODE_EXPONENT: tl.constexpr,
    CODE_MANTISSA: tl.constexpr, KEPT_MANTISSA: tl.constexpr, STOCHASTIC: tl.constexpr,
    SOFTWARE: tl.constexpr, CLAMP: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr,
    CODE_MAX: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """A program quantises one tile of the part; rows and cols are those of the whole matrix."""
    tile = tl.program_id(0)
    row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    col = (tile % tiles_across) * TILE_COLS
    x = load_tile(x_ptr, row, col, part_rows, part_cols, TILE_ROWS, TILE_COLS, EVEN)
    first_row, first_col = place_row + row, place_col + col
    codes, scale = quantize_tile(
        x, codes_ptr, scales_ptr, 0.0, 1.0, first_row, first_col, rows, cols, row_stride,
        col_stride, seed_low, seed_high, tile == 0, TILE_ROWS, TILE_COLS, BLOCK_ROWS, BLOCK_COLS,
        EVEN, WORDS, GROUPED, False, STORED, RULE, False, False, SHORT, CODE_EXPONENT,
        CODE_MANTISSA, KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS, MANTISSA, BIAS,
        NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY,
    )  # fmt: skip
    if TRANSPOSED:
        first_row_t, first_col_t = first_col.to(tl.int64), first_row.to(tl.int32)
        store_codes(
            codes_t_ptr, tl.trans(codes), first_row_t, first_col_t, cols, rows, TILE_COLS,
            TILE_ROWS, BITS, WORDS_T, EVEN,
        )  # fmt: skip
        GRID_ROWS: tl.constexpr = TILE_ROWS // BLOCK_ROWS
        GRID_COLS: tl.constexpr = TILE_COLS // BLOCK_COLS
        scale_t = tl.trans(tl.reshape(scale, (GRID_ROWS, GRID_COLS)))
        store_scales(
            scales_t_ptr, scale_t, first_row_t, first_col_t, cols, rows, row_stride_t, col_stride_t,
            GRID_COLS, GRID_ROWS, BLOCK_ROWS, BLOCK_COLS, False,
        )  # fmt: skip


#: Constants of a quantisation that this kernel does not ask for.
_FIXED = ("GROUPED_T", "SHARED", "SWIZZLED", "ONE_SCALE", "TWO_LEVEL")


def tile_side(block: int, *begins: int) -> int:
    """Side of the tiles of a launch whose part begins there."""
    wide = max(block, _LEAST_TILE)
    return block if any(begin % wide for begin in begins) else wide


def _call(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    codes_t: torch.Tensor | None = None,
    scales_t: torch.Tensor | None = None,
    *,
    place: tuple[int, int],
    block: int,
    seed: int | None,
) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
    """Kernel, number of programs, arguments and constants of a launch."""
    check_numbers("x", x)
    check_power_of_two("block", block)
    check_matrix("codes", codes)
    (rows, cols), part = codes.shape, (x.shape[0], x.shape[1])
    for begin, size, extent in zip(place, part, (rows, cols), strict=True):
        end = begin + size
        if begin < 0 or end > extent or begin % block or (end % block and end != extent):
            raise ValueError(
                f"part of {part[0]} x {part[1]} at {place} of {rows} x {cols}: parts lie inside, "
                f"and begin and end at whole blocks of {block}"
            )
    check_codes("codes", codes, rows, cols, "int8")
    check_scales("scales", scales, (rows, cols), (block, block), "fp32", False)
    written: dict[str, torch.Tensor | None] = {"codes": codes, "scales": scales}
    if (codes_t is None) != (scales_t is None):
        raise ValueError("codes_t and scales_t: pass both, or none")
    if codes_t is not None and scales_t is not None:
        check_codes("codes_t", codes_t, cols, rows, "int8")
        check_scales("scales_t", scales_t, (cols, rows), (block, block), "fp32", False)
        written |= {"codes_t": codes_t, "scales_t": scales_t}
    check_memory(written, {"x": x})
    ends = (begin + size for begin, size in zip(place, part, strict=True))
    inner = (end for end, extent in zip(ends, (rows, cols), strict=True) if end != extent)
    tile = tile_side(block, *place, *inner)
    check_reach((tile, tile), (rows, cols), transposed=codes_t is not None)
    config = {"block_rows": tile, "block_cols": tile, "num_warps": max(1, tile * tile // 1024)}
    asked = Request(
        x=torch.empty(rows, cols, dtype=x.dtype, device="meta"), codes=codes.view(torch.uint8),
        scales=scales, codes_t=None if codes_t is None else codes_t.view(torch.uint8),
        scales_t=scales_t, tensor_scale=None, element="int8", block=(block, block), stored="fp32",
        rule="absmax", seed=seed, swizzled=False, config=config | {"software_cast": False},
    )  # fmt: skip
    constants = kernel_constants(asked)
    constants = {name: value for name, value in constants.items() if name not in _FIXED}
    constants["ASSEMBLY"] = x.device.type != "cpu"
    constants |= two_ctas(config["num_warps"])
    across = triton.cdiv(part[1], tile)
    arguments = (
        x,
        asked.codes,
        scales,
        asked.codes if asked.codes_t is None else asked.codes_t,
        scales if scales_t is None else scales_t,
        *place,
        *part,
        rows,
        cols,
        across,
        *asked.scale_strides,
        *asked.seed_words,
    )
    return _quantize_placed, triton.cdiv(part[0], tile) * across, arguments, constants


def launch(*tensors: torch.Tensor, **options: Any) -> None:
    """Quantise a part on the current stream.

    Args:
        tensors: ``x`` (r, c) bf16, fp16 or fp32, contiguous: the part.  ``codes`` (R, C) int8,
            contiguous, and ``scales``, one fp32 a block, of the whole matrix; written where the
            part lies.  Then those of the transpose, if wanted.
        options: ``place``, row and column where the part begins; ``block``, the side of a block, a
            power of two; ``seed``, the 64-bit key of stochastic rounding or ``None``.
    Raises:
        ValueError: shapes, strides, devices, overlap or the place do not fit; TypeError: dtypes.
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
