"""Quantise a matrix to any block format in one pass over it, with its transposed copy if wanted.

A program holds a tile of whole blocks in registers: it finds their scales, rounds, packs codes and
stores both, row-major scales or in the 128x4 swizzle of block-scaled tensor cores.  The transposed
copy is what quantising ``x^T`` gives: where blocks are square, or one scale serves the tensor, the
same codes the other way round; elsewhere ``x^T`` has block scales and codes of its own.

Codes and scales are bit-identical with the workbench's NumPy codec, under nearest-even and under
stochastic rounding (see ``tile_scales`` and ``tile_random``).  A NaN or an infinity makes its
block's scale NaN (E8M0: 0xff) and its codes NaN, or zero where the element has none.

Deterministic.  A scale for the whole tensor (one alone, or NVFP4's second level) takes a launch
before, which reads all of ``x`` too; the second one goes through ``x`` backwards, since the end is
what the L2 still holds.
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .block_codes import larger
from .quantize_tile import load_tile, quantize_tile, store_scales
from .quantize_tiles_arguments import Request, kernel_constants, request
from .tile_packing import store_codes
from .tile_scales import block_amax, outer_scale

__all__ = ["launch", "precompile"]


@triton.jit
def _tensor_amax(
    x_ptr, amax_ptr, rows, cols, TWO_LEVEL: tl.constexpr, EVEN: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Largest magnitude of the matrix; with two levels, of the blocks that are all finite."""
    tiles_across = tl.cdiv(cols, TILE_COLS)
    first_row = (tl.program_id(0) // tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tl.program_id(0) % tiles_across) * TILE_COLS
    x = load_tile(x_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN)
    shape: tl.constexpr = (
        TILE_ROWS // BLOCK_ROWS, BLOCK_ROWS, TILE_COLS // BLOCK_COLS, BLOCK_COLS,
    )  # fmt: skip
    amax = block_amax(tl.reshape(x, shape).to(tl.float32))
    if TWO_LEVEL:
        amax = tl.where(amax < float("inf"), amax, 0.0)
    flat = tl.reshape(amax, ((TILE_ROWS // BLOCK_ROWS) * (TILE_COLS // BLOCK_COLS),))
    # As integers, non-negative floats keep their order, and NaN lies above infinity: NaN wins.
    top = tl.reduce(flat, 0, larger)
    tl.atomic_max(amax_ptr, top.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit(do_not_specialize=["seed_low", "seed_high"])
def _quantize_tiles(
    x_ptr, codes_ptr, scales_ptr, codes_t_ptr, scales_t_ptr, amax_ptr, outer_ptr, rows, cols,
    tiles_across, row_stride, col_stride, row_stride_t, col_stride_t, seed_low, seed_high,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, EVEN: tl.constexpr, WORDS: tl.constexpr, GROUPED: tl.constexpr,
    WORDS_T: tl.constexpr, GROUPED_T: tl.constexpr, TRANSPOSED: tl.constexpr,
    SHARED: tl.constexpr, SWIZZLED: tl.constexpr,
    STORED: tl.constexpr, RULE: tl.constexpr, ONE_SCALE: tl.constexpr, TWO_LEVEL: tl.constexpr,
    SHORT: tl.constexpr, CODE_EXPONENT: tl.constexpr, CODE_MANTISSA: tl.constexpr,
    KEPT_MANTISSA: tl.constexpr, STOCHASTIC: tl.constexpr, SOFTWARE: tl.constexpr,
    CLAMP: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr, CODE_MAX: tl.constexpr,
    ASSEMBLY: tl.constexpr,
):  # fmt: skip
    """A program quantises one tile, and its transpose (SHARED: with the same scales)."""
    tile = tl.program_id(0)
    tensor_amax = 0.0
    outer = 1.0
    if ONE_SCALE or TWO_LEVEL:
        tile = tl.num_programs(0) - 1 - tile  # backwards: see the module's docstring
        tensor_amax = tl.load(amax_ptr).to(tl.float32, bitcast=True)
    if TWO_LEVEL:
        level = outer_scale(tl.zeros((1,), tl.float32) + tensor_amax, CODE_MAX)
        zero = tl.arange(0, 1)
        tl.store(outer_ptr + zero, level, mask=(zero + tile) == 0)
        outer = tl.reshape(level, (1, 1, 1, 1))
    first_row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    first_col = (tile % tiles_across) * TILE_COLS
    x = load_tile(x_ptr, first_row, first_col, rows, cols, TILE_ROWS, TILE_COLS, EVEN)
    codes, scale = quantize_tile(
        x, codes_ptr, scales_ptr, tensor_amax, outer, first_row, first_col, rows, cols,
        row_stride, col_stride, seed_low, seed_high, tile == 0, TILE_ROWS, TILE_COLS,
        BLOCK_ROWS, BLOCK_COLS, EVEN, WORDS, GROUPED, SWIZZLED, STORED, RULE, ONE_SCALE, TWO_LEVEL,
        SHORT, CODE_EXPONENT, CODE_MANTISSA, KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER,
        BITS, MANTISSA, BIAS, NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY,
        PACKED=not (TRANSPOSED and SHARED),
    )  # fmt: skip
    if TRANSPOSED:
        first_row_t = first_col.to(tl.int64)
        first_col_t = first_row.to(tl.int32)
        if SHARED:
            store_codes(
                codes_t_ptr, tl.trans(codes), first_row_t, first_col_t, cols, rows, TILE_COLS,
                TILE_ROWS, BITS, WORDS_T, EVEN,
            )  # fmt: skip
            if not ONE_SCALE:
                GRID_ROWS: tl.constexpr = TILE_ROWS // BLOCK_ROWS
                GRID_COLS: tl.constexpr = TILE_COLS // BLOCK_COLS
                scale_t = tl.trans(tl.reshape(scale, (GRID_ROWS, GRID_COLS)))
                store_scales(
                    scales_t_ptr, scale_t, first_row_t, first_col_t, cols, rows, row_stride_t,
                    col_stride_t, GRID_COLS, GRID_ROWS, BLOCK_ROWS, BLOCK_COLS, SWIZZLED,
                )  # fmt: skip
        else:
            quantize_tile(
                tl.trans(x), codes_t_ptr, scales_t_ptr, tensor_amax, outer, first_row_t,
                first_col_t, cols, rows, row_stride_t, col_stride_t, seed_low, seed_high,
                tile == 0, TILE_COLS, TILE_ROWS, BLOCK_ROWS, BLOCK_COLS, EVEN, WORDS_T,
                GROUPED_T, SWIZZLED, STORED, RULE, ONE_SCALE, TWO_LEVEL, SHORT, CODE_EXPONENT,
                CODE_MANTISSA, KEPT_MANTISSA, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS, MANTISSA,
                BIAS, NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY, PACKED=True,
            )  # fmt: skip


def _calls(asked: Request):
    """What a launch consists of: (kernel, number of programs, arguments, constants) in order."""
    x = asked.x
    rows, cols = x.shape
    constants = kernel_constants(asked)
    across = triton.cdiv(cols, constants["TILE_COLS"])
    programs = triton.cdiv(rows, constants["TILE_ROWS"]) * across
    calls: list[tuple[Any, ...]] = []
    amax = x  # never read
    if constants["ONE_SCALE"] or constants["TWO_LEVEL"]:
        amax = torch.zeros(1, dtype=torch.int32, device=x.device)
        names = ("TWO_LEVEL", "EVEN", "TILE_ROWS", "TILE_COLS", "BLOCK_ROWS", "BLOCK_COLS")
        find = {name: constants[name] for name in (*names, "num_warps")}
        calls.append((_tensor_amax, programs, (x, amax, rows, cols), find))
    arguments = (
        x,
        asked.codes,
        asked.scales,
        asked.codes if asked.codes_t is None else asked.codes_t,
        asked.scales if asked.scales_t is None else asked.scales_t,
        amax,
        asked.scales if asked.tensor_scale is None else asked.tensor_scale,
        rows,
        cols,
        across,
        *asked.scale_strides,
        *asked.seed_words,
    )
    calls.append((_quantize_tiles, programs, arguments, constants))
    return calls


def launch(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    element: str,
    block: tuple[int, int],
    stored: str = "fp32",
    rule: str = "absmax",
    tensor_scale: torch.Tensor | None = None,
    seed: int | None = None,
    swizzled: bool = False,
    codes_t: torch.Tensor | None = None,
    scales_t: torch.Tensor | None = None,
    config: Mapping[str, int | bool],
) -> None:
    """Quantise ``x`` on the current stream.

    Args:
        x: (R, C) bf16, fp16 or fp32, contiguous.
        codes: (R, bytes of a row) of a one-byte dtype, contiguous; written.  Rows are packed as
            ``tile_packing`` says: C bytes of 8-bit elements, ceil(C / 2) of 4-bit ones.
        scales: one a block, in the stored format's dtype (E8M0 and e4m3fn: uint8); any strides,
            or, swizzled, the flat bytes of whole 128x4 tiles; written.
        element: int8, mxint8, int4, e4m3fn, e5m2, e3m2fn, e2m3fn or e2m1fn.
        block: rows and columns under one scale: powers of two, (1, 0) for a row, (0, 0) for all.
        stored: fp32, fp16, bf16, e8m0fnu, or e4m3fn with a ``tensor_scale``.
        rule: absmax or pow2; of E8M0 scales floor, ceil, rceil or even.
        tensor_scale: (1,) fp32, written: the second level of e4m3fn scales (NVFP4).
        seed: 64-bit key of stochastic rounding; ``None`` rounds to nearest even.
        swizzled: one-byte scales in the 128x4 swizzle; its padding is filled with zeros.
        codes_t, scales_t: of ``x^T``, as ``codes`` and ``scales`` are of ``x``; both or, where
            one scale serves the tensor, codes alone.
        config: the fields of ``TritonQuantizeTilesConfig``.
    Raises:
        ValueError: shapes, strides, devices, overlap or the configuration do not fit; TypeError:
            dtypes.
    """
    asked = request(
        x, codes, scales, element=element, block=block, stored=stored, rule=rule,
        tensor_scale=tensor_scale, seed=seed, swizzled=swizzled, codes_t=codes_t,
        scales_t=scales_t, config=config,
    )  # fmt: skip
    for padded in asked.padded_scales:
        padded.zero_()
    for kernel, programs, arguments, constants in _calls(asked):
        kernel[(programs,)](*arguments, **constants)


def precompile(*operands: Any, **options: Any) -> None:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    for kernel, programs, arguments, constants in _calls(request(*operands, **options)):
        kernel.warmup(*arguments, grid=(programs,), **constants)
