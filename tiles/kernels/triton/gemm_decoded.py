"""Products of formats that a GPU lacks: ``C[M, N] = A[M, K] · B[N, K]^T``, decoded on the way.

Both operands are packed codes of at most 8 bits with scales as they are stored (or one of them is a
16-bit float).  Codes and block scales together are exact in bf16 or fp16 (see
``decoded_element``), which the tensor cores multiply; fp32 scales multiply sums.  There are two
ways to get there, and a configuration picks one:

* in the loop: tiles of codes are copied through the pipeline, decoded in registers and multiplied.
  Codes cross the memory once, and are decoded again by every tile that needs them.
* ``staged``: a first kernel decodes both operands once, into a workspace of 16-bit floats; the
  product of these (``gemm_scaled``) then runs at the 16-bit rate.  Worth it where an operand is
  needed by many tiles.

Where block-scaled tensor cores take both operands as they are (MX and NVFP4 on capability 10.0),
``native`` configurations decode nothing.

The module needs torch and triton and nothing else.  A configuration is a mapping with
``block_m``, ``block_n``, ``block_k``, ``group_m``, ``num_warps``, ``num_stages`` (ints), ``tma``,
``persistent``, ``staged``, ``native`` (bools); ``tma`` and ``persistent`` belong to staged ones.
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from . import gemm_scaled
from .complete_products import complete
from .decoded_arguments import arguments
from .decoded_operand import StoredMatrix
from .decoded_tile import operand_tile, outer_scales, stored_scales
from .gemm_block_scaled import gemm_block_scaled
from .gemm_epilogue import store
from .gemm_tile import tile_origin

__all__ = ["launch", "precompile"]


@triton.jit
def gemm_decoded(
    a, a_scales, a_zeros, a_outer, b, b_scales, b_zeros, b_outer, c, a_bytes, b_bytes, m, n, k,
    stride_as_m, stride_as_k, stride_bs_n, stride_bs_k, stride_ao, stride_bo, stride_cm,
    A_KIND: tl.constexpr, A_BITS: tl.constexpr, A_MANTISSA: tl.constexpr, A_BIAS: tl.constexpr,
    A_SPECIALS: tl.constexpr, A_OFFSET: tl.constexpr, A_STORED: tl.constexpr,
    A_ROWS: tl.constexpr, A_COLS: tl.constexpr, A_FAST: tl.constexpr, A_PTX: tl.constexpr,
    A_WORDS: tl.constexpr, A_EVEN: tl.constexpr, A_OUTER: tl.constexpr,
    B_KIND: tl.constexpr, B_BITS: tl.constexpr, B_MANTISSA: tl.constexpr, B_BIAS: tl.constexpr,
    B_SPECIALS: tl.constexpr, B_OFFSET: tl.constexpr, B_STORED: tl.constexpr,
    B_ROWS: tl.constexpr, B_COLS: tl.constexpr, B_FAST: tl.constexpr, B_PTX: tl.constexpr,
    B_WORDS: tl.constexpr, B_EVEN: tl.constexpr, B_OUTER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    WIDE: tl.constexpr, OUT: tl.constexpr, WGMMA: tl.constexpr,
    INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid: one program a tile of C.

    A_OUTER and B_OUTER: rows under one fp32 scale of sums; 0 without any.  WGMMA: the GPU has it.
    """
    row0, col0 = tile_origin(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    first_a = row0.to(tl.int64)
    first_b = col0.to(tl.int64)
    a_words = stored_scales(
        a_scales, first_a, 0, m, k, stride_as_m, stride_as_k, A_STORED, A_ROWS, A_COLS, BLOCK_M,
        BLOCK_K,
    )  # fmt: skip
    b_words = stored_scales(
        b_scales, first_b, 0, n, k, stride_bs_n, stride_bs_k, B_STORED, B_ROWS, B_COLS, BLOCK_N,
        BLOCK_K,
    )  # fmt: skip
    for step in range(tl.cdiv(k, BLOCK_K)):
        # One iteration ahead of their use: such short loads find no place in the pipeline.
        a_next = stored_scales(
            a_scales, first_a, step + 1, m, k, stride_as_m, stride_as_k, A_STORED, A_ROWS, A_COLS,
            BLOCK_M, BLOCK_K,
        )  # fmt: skip
        b_next = stored_scales(
            b_scales, first_b, step + 1, n, k, stride_bs_n, stride_bs_k, B_STORED, B_ROWS, B_COLS,
            BLOCK_N, BLOCK_K,
        )  # fmt: skip
        left = operand_tile(
            a, a_words, a_zeros, a_bytes, first_a, step, m, k, A_KIND, A_BITS, A_MANTISSA, A_BIAS,
            A_SPECIALS, A_OFFSET, A_STORED, A_ROWS, A_COLS, A_FAST, A_PTX, A_WORDS, A_EVEN,
            BLOCK_M, BLOCK_K, WIDE,
        )  # fmt: skip
        right = operand_tile(
            b, b_words, b_zeros, b_bytes, first_b, step, n, k, B_KIND, B_BITS, B_MANTISSA, B_BIAS,
            B_SPECIALS, B_OFFSET, B_STORED, B_ROWS, B_COLS, B_FAST, B_PTX, B_WORDS, B_EVEN,
            BLOCK_N, BLOCK_K, WIDE,
        )  # fmt: skip
        if INTERPRET:  # Triton's interpreter multiplies bf16 wrongly
            acc = tl.dot(left.to(tl.float32), right.to(tl.float32).T, acc)
        else:
            acc = tl.dot(left, right.T, acc)
        if WGMMA and A_KIND != "plain":
            acc = complete(acc)
        if A_STORED != "":
            a_words = a_next
        if B_STORED != "":
            b_words = b_next
    if A_OUTER > 0:
        acc *= outer_scales(a_outer, row0, m, stride_ao, A_OUTER, BLOCK_M)[:, None]
    if B_OUTER > 0:
        acc *= outer_scales(b_outer, col0, n, stride_bo, B_OUTER, BLOCK_N)[None, :]
    store(c, acc, row0, col0, m, n, stride_cm, OUT, BLOCK_M, BLOCK_N, False, 1)


@triton.jit
def decode_operand(
    codes, scales, zeros, out, row_bytes, rows, cols, stride_row, stride_col, pitch, tiles_across,
    KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    SPECIALS: tl.constexpr, OFFSET: tl.constexpr, STORED: tl.constexpr, SCALE_ROWS: tl.constexpr,
    SCALE_COLS: tl.constexpr, FAST: tl.constexpr, PTX: tl.constexpr, WORDS: tl.constexpr,
    EVEN: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """A program writes one tile of an operand as 16-bit floats, in rows ``pitch`` apart."""
    tile = tl.program_id(0)
    first_row = (tile // tiles_across).to(tl.int64) * TILE_ROWS
    tile_col = tile % tiles_across
    words = stored_scales(
        scales, first_row, tile_col, rows, cols, stride_row, stride_col, STORED, SCALE_ROWS,
        SCALE_COLS, TILE_ROWS, TILE_COLS,
    )  # fmt: skip
    value = operand_tile(
        codes, words, zeros, row_bytes, first_row, tile_col, rows, cols, KIND, BITS, MANTISSA,
        BIAS, SPECIALS, OFFSET, STORED, SCALE_ROWS, SCALE_COLS, FAST, PTX, WORDS, EVEN, TILE_ROWS,
        TILE_COLS, out.dtype.element_ty,
    )  # fmt: skip
    row = tl.arange(0, TILE_ROWS)[:, None]
    col = tile_col * TILE_COLS + tl.arange(0, TILE_COLS)[None, :]
    at = out + first_row * pitch + (row * pitch + col)
    if EVEN:
        tl.store(at, value)
    else:
        tl.store(at, value, mask=(row < rows - first_row) & (col < cols))


def launch(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    *,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None = None,
    num_sms: int | None = None,
) -> None:
    """Compute ``c = a @ b^T`` on the current stream.

    Args:
        a: (M, K) codes and scales.
        b: (N, K) codes and scales, on a's device.
        c: (M, N) bf16, fp16 or fp32, rows contiguous, overwritten.
        config: see the module's docstring.
        workspace: uint8, ``decoded_arguments.workspace_bytes(...)`` or more, at a multiple of 16
            bytes; needed where ``staged``.  Launches on one stream share it; such as may overlap
            do not.
        num_sms: programs of a persistent launch; other configurations ignore it.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, blocks, workspace or config do not fit together.
    """
    call = arguments(a, b, c, config, workspace, num_sms)
    for grid, positional, keywords in call.passes:
        decode_operand[(grid,)](*positional, **keywords)
    if call.kernel == "staged":
        gemm_scaled.launch(*call.positional, **call.keywords)
    elif call.kernel == "native":
        gemm_block_scaled[(call.grid,)](*call.positional, **call.keywords)
    else:
        gemm_decoded[(call.grid,)](*call.positional, **call.keywords)


def precompile(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    *,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None = None,
    num_sms: int | None = None,
) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel of the product.
    """
    call = arguments(a, b, c, config, workspace, num_sms)
    for grid, positional, keywords in call.passes:
        decode_operand.warmup(*positional, grid=(grid,), **keywords)
    if call.kernel == "staged":
        return gemm_scaled.precompile(*call.positional, **call.keywords)
    if call.kernel == "native":
        return gemm_block_scaled.warmup(*call.positional, grid=(call.grid,), **call.keywords)
    return gemm_decoded.warmup(*call.positional, grid=(call.grid,), **call.keywords)
