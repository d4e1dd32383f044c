"""An activation's gradient in one pass: quantised input, gradient in numbers, codes out.

A program holds one block: it decodes what went into the activation, multiplies the gradient with
the activation's slope and quantises the product as ``quantize_tiles`` does, bit for bit.  Without
it the gradient would be quantised first, which costs a pass over memory and a rounding.
"""

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_matrix, check_memory
from .quantize_tile import load_tile, quantize_tile
from .quantize_tiles_arguments import kernel_constants, request
from .tile_checks import check_codes, check_scales
from .tile_packing import load_codes

__all__ = ["OPS", "launch", "precompile"]

#: Activations by constant.
OPS = ("gelu", "silu", "relu")


@triton.jit
def _slope(x, OP: tl.constexpr):
    """Of the exact GELU, of SiLU, of ReLU."""
    if OP == 0:
        gate = 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)
        slope = gate + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif OP == 1:
        gate = 1.0 / (1.0 + tl.exp(-x))
        slope = gate * (1.0 + x * (1.0 - gate))
    else:
        slope = tl.where(x > 0, 1.0, 0.0)
    return slope


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _activation_backward(
    x_ptr, x_scales_ptr, dy_ptr, codes_ptr, scales_ptr, rows, cols, tiles_across, x_row_stride,
    x_col_stride, row_stride, col_stride, seed_low, seed_high, OP: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, EVEN: tl.constexpr, WORDS: tl.constexpr,
    GROUPED: tl.constexpr, STORED: tl.constexpr, RULE: tl.constexpr, SHORT: tl.constexpr,
    CODE_EXPONENT: tl.constexpr, CODE_MANTISSA: tl.constexpr, KEPT_MANTISSA: tl.constexpr,
    STOCHASTIC: tl.constexpr, SOFTWARE: tl.constexpr, CLAMP: tl.constexpr, INTEGER: tl.constexpr,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr, NAN_CODE: tl.constexpr,
    ZERO_CODE: tl.constexpr, CODE_MAX: tl.constexpr, ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """A program makes one block."""
    tile = tl.program_id(0)
    down, across = tile // tiles_across, tile % tiles_across
    first_row = down.to(tl.int64) * TILE_ROWS
    first_col = across * TILE_COLS
    codes = load_codes(
        x_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, BITS, WORDS, EVEN
    )
    scale = tl.load(x_scales_ptr + down * x_row_stride + across * x_col_stride)
    x = codes.to(tl.int8, bitcast=True).to(tl.float32) * scale
    dy = load_tile(dy_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN)
    quantize_tile(
        dy.to(tl.float32) * _slope(x, OP), codes_ptr, scales_ptr, 0.0, 1.0, first_row, first_col,
        rows, cols, row_stride, col_stride, seed_low, seed_high, tile == 0, TILE_ROWS, TILE_COLS,
        TILE_ROWS, TILE_COLS, EVEN, WORDS, GROUPED, False, STORED, RULE, False, False, SHORT,
        CODE_EXPONENT, CODE_MANTISSA, KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS,
        MANTISSA, BIAS, NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY,
    )  # fmt: skip


#: Constants of a quantisation that a single block in fp32 scales does not ask for.
_FIXED = (
    *("BLOCK_ROWS", "BLOCK_COLS", "WORDS_T", "GROUPED_T", "TRANSPOSED", "SHARED", "SWIZZLED"),
    *("ONE_SCALE", "TWO_LEVEL"),
)


def _call(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    dy: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    op: str,
    block: int,
    seed: int | None,
    num_warps: int,
) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
    """Kernel, number of programs, arguments and constants of a launch."""
    if op not in OPS:
        raise ValueError(f"op = {op!r}: choose one of {', '.join(OPS)}")
    config = {"block_rows": block, "block_cols": block, "num_warps": num_warps}
    asked = request(
        dy, codes, scales, element="int8", block=(block, block), seed=seed,
        config=config | {"software_cast": False},
    )  # fmt: skip
    rows, cols = dy.shape
    check_matrix("x", x)
    check_codes("x", x, rows, cols, "int8")
    check_scales("x_scales", x_scales, (rows, cols), (block, block), "fp32", False)
    check_memory({"codes": codes, "scales": scales}, {"x": x, "x_scales": x_scales, "dy": dy})
    # What is quantised is fp32, whatever the gradient is.
    wide = torch.empty(rows, cols, dtype=torch.float32, device="meta")
    constants = kernel_constants(replace(asked, x=wide))
    constants = {name: value for name, value in constants.items() if name not in _FIXED}
    constants |= {"OP": OPS.index(op), "ASSEMBLY": dy.device.type != "cpu"}
    across = triton.cdiv(cols, block)
    arguments = (
        x.view(torch.uint8), x_scales, dy, asked.codes, scales, rows, cols, across,
        *x_scales.stride(), *asked.scale_strides[:2], *asked.seed_words,
    )  # fmt: skip
    return _activation_backward, triton.cdiv(rows, block) * across, arguments, constants


def launch(*tensors: torch.Tensor, **options: Any) -> None:
    """Launch on the current stream.

    Args:
        tensors: ``x`` (R, C) int8 codes of what went into the activation and its ``x_scales``,
            one fp32 a block; ``dy`` (R, C) bf16, fp16 or fp32; ``codes`` and ``scales`` like those
            of ``x``, written.
        options: ``op``, one of ``OPS``; ``block``, its side, a power of two; ``seed``, the 64-bit
            key of stochastic rounding or ``None``; ``num_warps``.
    Raises:
        ValueError: shapes, strides, devices, overlap or names do not fit; TypeError: dtypes.
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
