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

from .launch_checks import check_matrix, check_memory, check_numbers
from .quantize_tile import load_tile, quantize_tile
from .quantize_tiles_arguments import kernel_constants, request
from .tile_checks import check_codes, check_scales
from .tile_packing import load_codes
from .tile_registers import two_ctas

__all__ = ["OPS", "launch", "precompile"]

#: Activations by constant.
OPS = ("gelu", "silu", "relu")


_LOG2_E = tl.constexpr(1.4426950408889634)
#: Beyond it every code but zero lies where the function is x or 0; its powers stay finite.
_MOST_SCALE = tl.constexpr(32768.0)


@triton.jit
def _exp2(x, ASSEMBLY: tl.constexpr):
    """One instruction: off by 2^-22 of itself, zero below 2^-126."""
    if ASSEMBLY:
        power = tl.inline_asm_elementwise(
            "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        power = tl.exp2(x)
    return power


@triton.jit
def _logistic2(negated_logit, ASSEMBLY: tl.constexpr):
    """``1 / (1 + 2^-logit)``, for any logit without NaN."""
    divisor = 1.0 + _exp2(negated_logit, ASSEMBLY)
    if ASSEMBLY:
        share = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [divisor], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        share = 1.0 / divisor
    return share


@triton.jit
def _slope(code, scale, OP: tl.constexpr, ASSEMBLY: tl.constexpr):
    """Derivative of GELU, SiLU or ReLU at ``code x scale``, as ``cuda/dataflow_blocks.cu`` has it.

    Constants count in codes, so that no element is multiplied by its scale.  GELU's normal
    distribution is off by at most 1.13e-3 of the smaller of Phi(x) and Phi(-x).
    """
    if OP == 0:
        s = tl.where(scale > _MOST_SCALE, _MOST_SCALE, scale)  # a NaN stays one
        square = s * s
        a0 = -2.297166019995329 * s
        a1 = -0.10953640921870887 * square * s
        a2 = 0.0014344086866090809 * square * square * s
        a3 = -1.327645792939949e-5 * square * square * square * s
        squared = code * code
        logit = code * (((a3 * squared + a2) * squared + a1) * squared + a0)
        bell = _exp2(squared * (-0.5 * _LOG2_E * square), ASSEMBLY)
        slope = code * (0.3989422804014327 * s) * bell + _logistic2(logit, ASSEMBLY)
    elif OP == 1:
        s = tl.where(scale > _MOST_SCALE, _MOST_SCALE, scale)
        gate = _logistic2(code * (-_LOG2_E * s), ASSEMBLY)
        x = code * scale
        slope = (x - x * gate) * gate + gate
    else:
        # A NaN among what went in is one in the gradient.
        slope = tl.where(code > 0, 1.0, 0.0) + 0.0 * scale
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
    code = codes.to(tl.int8, bitcast=True).to(tl.float32)
    dy = load_tile(dy_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN)
    gradient = dy.to(tl.float32) * _slope(code, scale, OP, ASSEMBLY)
    quantize_tile(
        gradient, codes_ptr, scales_ptr, 0.0, 1.0, first_row, first_col, rows, cols, row_stride,
        col_stride, seed_low, seed_high, tile == 0, TILE_ROWS, TILE_COLS, TILE_ROWS, TILE_COLS,
        EVEN, WORDS, GROUPED, False, STORED, RULE, False, False, SHORT, CODE_EXPONENT,
        CODE_MANTISSA, KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS, MANTISSA, BIAS,
        NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY,
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
    check_numbers("dy", dy)
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
    constants |= two_ctas(num_warps)
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
