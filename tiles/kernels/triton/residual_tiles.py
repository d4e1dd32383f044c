"""Add to a residual stream in one pass: numbers or codes to numbers, and the sum's codes.

The sum is worked out in fp32 and rounded once to the stream's dtype; codes are those that
``quantize_tiles`` makes of the rounded sum, bit for bit, with their transpose if wanted.  INT8 in
square blocks under fp32 scales.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_matrix, check_memory, check_power_of_two
from .quantize_tile import load_tile, quantize_tile, store_scales
from .quantize_tiles_arguments import Request, kernel_constants
from .tile_checks import check_codes, check_reach, check_scales
from .tile_packing import load_codes, store_codes

__all__ = ["TENSORS", "launch", "precompile"]

#: Of a launch, in order.
TENSORS = ("x", "y", "total", "y_scales", "codes", "scales", "codes_t", "scales_t")
#: Side of a tile, where blocks are smaller.
_LEAST_TILE = 64
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _product(a, b, ASSEMBLY: tl.constexpr):
    """Rounded by itself: no fused multiply-add with the sum behind it."""
    if ASSEMBLY:
        product = tl.inline_asm_elementwise(
            "mul.rn.f32 $0, $1, $2;", "=f,f,f", [a, b], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        product = a * b
    return product


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _residual_tiles(
    x_ptr, y_ptr, y_scales_ptr, total_ptr, codes_ptr, scales_ptr, codes_t_ptr, scales_t_ptr, rows,
    cols, tiles_across, y_row_stride, y_col_stride, row_stride, col_stride, row_stride_t,
    col_stride_t, seed_low, seed_high, CODED: tl.constexpr, QUANTIZED: tl.constexpr,
    TRANSPOSED: tl.constexpr, WORDS_T: tl.constexpr, TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    EVEN: tl.constexpr, WORDS: tl.constexpr, GROUPED: tl.constexpr, STORED: tl.constexpr,
    RULE: tl.constexpr, SHORT: tl.constexpr, CODE_EXPONENT: tl.constexpr,
    CODE_MANTISSA: tl.constexpr, KEPT_MANTISSA: tl.constexpr, STOCHASTIC: tl.constexpr,
    SOFTWARE: tl.constexpr, CLAMP: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr,
    MANTISSA: tl.constexpr, BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr,
    CODE_MAX: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """A program adds one tile (CODED: of codes, to numbers) and quantises the sum."""
    GRID_ROWS: tl.constexpr = TILE_ROWS // BLOCK_ROWS
    GRID_COLS: tl.constexpr = TILE_COLS // BLOCK_COLS
    tile = tl.program_id(0)
    first_row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tile % tiles_across) * TILE_COLS
    x = load_tile(x_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN)
    if CODED:
        codes = load_codes(
            y_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, 8, WORDS, EVEN
        )
        row = (first_row // BLOCK_ROWS).to(tl.int32) + tl.arange(0, GRID_ROWS)[:, None]
        col = first_col // BLOCK_COLS + tl.arange(0, GRID_COLS)[None, :]
        inside = (row < tl.cdiv(rows, BLOCK_ROWS)) & (col < tl.cdiv(cols, BLOCK_COLS))
        scale = tl.load(
            y_scales_ptr + (row * y_row_stride + col * y_col_stride), mask=inside, other=0.0
        )
        blocks = tl.reshape(
            codes.to(tl.int8, bitcast=True).to(tl.float32),
            (GRID_ROWS, BLOCK_ROWS, GRID_COLS, BLOCK_COLS),
        )
        blocks = _product(blocks, tl.reshape(scale, (GRID_ROWS, 1, GRID_COLS, 1)), ASSEMBLY)
        y = tl.reshape(blocks, (TILE_ROWS, TILE_COLS))
    else:
        y = load_tile(y_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN).to(
            tl.float32
        )
    total = (x.to(tl.float32) + y).to(total_ptr.dtype.element_ty)
    row_in = tl.arange(0, TILE_ROWS)[:, None]
    col_in = first_col + tl.arange(0, TILE_COLS)[None, :]
    base = total_ptr + first_row * cols
    if EVEN:
        tl.store(base + (row_in * cols + col_in), total)
    else:
        held = (row_in < rows - first_row) & (col_in < cols)
        tl.store(base + (row_in * cols + col_in), total, mask=held)
    if QUANTIZED:
        made, made_scale = quantize_tile(
            total, codes_ptr, scales_ptr, 0.0, 1.0, first_row, first_col, rows, cols, row_stride,
            col_stride, seed_low, seed_high, tile == 0, TILE_ROWS, TILE_COLS, BLOCK_ROWS,
            BLOCK_COLS, EVEN, WORDS, GROUPED, False, STORED, RULE, False, False, SHORT,
            CODE_EXPONENT, CODE_MANTISSA, KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS,
            MANTISSA, BIAS, NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY,
        )  # fmt: skip
        if TRANSPOSED:
            first_row_t, first_col_t = first_col.to(tl.int64), first_row.to(tl.int32)
            store_codes(
                codes_t_ptr, tl.trans(made), first_row_t, first_col_t, cols, rows, TILE_COLS,
                TILE_ROWS, BITS, WORDS_T, EVEN,
            )  # fmt: skip
            scale_t = tl.trans(tl.reshape(made_scale, (GRID_ROWS, GRID_COLS)))
            store_scales(
                scales_t_ptr, scale_t, first_row_t, first_col_t, cols, rows, row_stride_t,
                col_stride_t, GRID_COLS, GRID_ROWS, BLOCK_ROWS, BLOCK_COLS, False,
            )  # fmt: skip


#: Constants of a quantisation that this kernel does not ask for.
_FIXED = ("GROUPED_T", "SHARED", "SWIZZLED", "ONE_SCALE", "TWO_LEVEL")


def _call(
    x: torch.Tensor,
    y: torch.Tensor,
    total: torch.Tensor,
    y_scales: torch.Tensor | None = None,
    codes: torch.Tensor | None = None,
    scales: torch.Tensor | None = None,
    codes_t: torch.Tensor | None = None,
    scales_t: torch.Tensor | None = None,
    *,
    block: int,
    seed: int | None,
) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
    """Kernel, number of programs, arguments and constants of a launch."""
    check_power_of_two("block", block)
    for name, tensor in (("x", x), ("total", total), *((("y", y),) if y_scales is None else ())):
        check_matrix(name, tensor)
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} has dtype {tensor.dtype}: bfloat16, float16 or float32")
        if tensor.shape != x.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)} and x {tuple(x.shape)}: they must be equal"
            )
    if total.dtype != x.dtype:
        raise TypeError(f"total has dtype {total.dtype} and x {x.dtype}: they must be the same")
    if (codes is None) != (scales is None) or (codes_t is None) != (scales_t is None):
        raise ValueError("codes and scales, codes_t and scales_t: pass both, or none")
    if codes is None and codes_t is not None:
        raise ValueError("codes_t without codes: pass both")
    rows, cols = x.shape
    grid = ((rows, cols), (block, block), "fp32", False)
    if y_scales is not None:
        check_codes("y", y, rows, cols, "int8")
        check_scales("y_scales", y_scales, *grid)
    if codes is not None and scales is not None:
        check_codes("codes", codes, rows, cols, "int8")
        check_scales("scales", scales, *grid)
    if codes_t is not None and scales_t is not None:
        check_codes("codes_t", codes_t, cols, rows, "int8")
        check_scales("scales_t", scales_t, (cols, rows), *grid[1:])
    written = {"total": total, "codes": codes, "scales": scales}
    written |= {"codes_t": codes_t, "scales_t": scales_t}
    check_memory(written, {"x": x, "y": y, "y_scales": y_scales})
    tile = max(block, _LEAST_TILE)
    check_reach((tile, tile), (rows, cols), transposed=codes_t is not None)
    config = {"block_rows": tile, "block_cols": tile, "num_warps": max(1, tile * tile // 1024)}
    asked = Request(
        x=torch.empty(rows, cols, dtype=x.dtype, device="meta"),
        codes=total if codes is None else codes.view(torch.uint8),
        scales=total if scales is None else scales,
        codes_t=None if codes_t is None else codes_t.view(torch.uint8),
        scales_t=scales_t, tensor_scale=None, element="int8", block=(block, block), stored="fp32",
        rule="absmax", seed=seed, swizzled=False, config=config | {"software_cast": False},
    )  # fmt: skip
    constants = kernel_constants(asked)
    constants = {name: value for name, value in constants.items() if name not in _FIXED}
    constants |= {"CODED": y_scales is not None, "QUANTIZED": codes is not None}
    constants["ASSEMBLY"] = x.device.type != "cpu"
    across = triton.cdiv(cols, tile)
    # What a launch has no use for is never read; the sum stands in.
    arguments = (
        x,
        y if y_scales is None else y.view(torch.uint8),
        total if y_scales is None else y_scales,
        total,
        asked.codes,
        asked.scales,
        total if asked.codes_t is None else asked.codes_t,
        total if scales_t is None else scales_t,
        rows,
        cols,
        across,
        *((0, 0) if y_scales is None else y_scales.stride()),
        *asked.scale_strides,
        *asked.seed_words,
    )
    return _residual_tiles, triton.cdiv(rows, tile) * across, arguments, constants


def launch(*tensors: torch.Tensor | None, **options: Any) -> None:
    """Add on the current stream.

    Args:
        tensors: ``x`` (R, C) bf16, fp16 or fp32; ``y`` (R, C), numbers, or int8 codes with
            ``y_scales``, one fp32 a block; ``total`` like ``x``, written; then ``y_scales``, and
            ``codes`` and ``scales`` of the sum and those of its transpose, written, where wanted.
        options: ``block``, the side of a block, a power of two; ``seed``, the 64-bit key of
            stochastic rounding or ``None``.
    Raises:
        ValueError: shapes, strides, devices or overlap do not fit; TypeError: dtypes.
    """
    kernel, programs, arguments, constants = _call(*tensors, **options)  # type: ignore[arg-type]
    kernel[(programs,)](*arguments, **constants)


def precompile(*tensors: torch.Tensor | None, **options: Any) -> None:
    """Compile what :func:`launch` would run, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    kernel, programs, arguments, constants = _call(*tensors, **options)  # type: ignore[arg-type]
    kernel.warmup(*arguments, grid=(programs,), **constants)
