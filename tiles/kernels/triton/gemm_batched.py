"""Batched GEMM in Triton: ``C[z] = (A[z] x scales) · (B[z] x scales)^T`` for every z of a batch.

The products of attention: Q·K^T, whose second operand is stored [N, K] with K contiguous, and P·V,
whose second operand V is stored [K, N] with N contiguous.  Elements are those of ``gemm_scaled``;
every matrix has fp32 scales of its own: one, one a row, or blocks, promoted to fp32 along K.

Warpgroup instructions read 16-bit operands from shared memory in either order, 8-bit ones along K
alone.  An 8-bit [K, N] operand therefore passes through registers on its way to the tensor cores,
where it changes its order; whoever can store V transposed should.

Tensors have one or two batch dimensions with any strides, so that heads may lie between tokens.
Descriptors need matrices one under the other.

The module needs torch and triton and nothing else.  A configuration is a mapping with
``block_m``, ``block_n``, ``block_k``, ``group_m``, ``num_warps``, ``num_stages`` (ints) and
``tma`` (bool).
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .batch_tile import multiply, scaled_sums
from .batched_arguments import arguments
from .gemm_tile import tile_origin

__all__ = ["launch", "precompile"]


@triton.jit
def gemm_batched(
    a,
    b,
    c,
    a_scale,
    b_scale,
    heads,
    m,
    n,
    k,
    stride_az,
    stride_ah,
    stride_am,
    stride_bz,
    stride_bh,
    stride_bn,
    stride_bk,
    stride_cz,
    stride_ch,
    stride_cm,
    stride_as_z,
    stride_as_h,
    stride_as_m,
    stride_as_k,
    stride_bs_z,
    stride_bs_h,
    stride_bs_n,
    stride_bs_k,
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    B_KN: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: one program a tile, all tiles of a matrix before the next."""
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    matrix = tl.program_id(0) // tiles
    row0, col0 = tile_origin(tl.program_id(0) % tiles, m, n, BLOCK_M, BLOCK_N, GROUP_M)
    z = (matrix // heads).to(tl.int64)
    h = (matrix % heads).to(tl.int64)
    rows = row0 + tl.arange(0, BLOCK_M)
    # Rows beyond the matrix repeat its last one; their sums are never stored.
    read = tl.minimum(rows, m - 1).to(tl.int64)
    a_at = a
    b_at = b
    b_rows = n
    if B_KN:
        b_rows = k
    if not TMA:
        a_at = a + z * stride_az + h * stride_ah
        b_at = b + z * stride_bz + h * stride_bh
    a_scale_at = a_scale + z * stride_as_z + h * stride_as_h
    b_scale_at = b_scale + z * stride_bs_z + h * stride_bs_h
    acc = multiply(
        a_at,
        b_at,
        a_scale_at,
        b_scale_at,
        read,
        read,
        matrix * m + row0,
        matrix * b_rows,
        col0,
        n,
        k,
        stride_am,
        stride_bn,
        stride_bk,
        stride_as_m,
        stride_as_k,
        stride_bs_n,
        stride_bs_k,
        A_ROWS,
        A_COLS,
        B_ROWS,
        B_COLS,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        TMA,
        TMA,
        B_KN,
        EVEN_K,
        INTEGER,
        A_DECODE,
        B_DECODE,
        UPCAST,
    )
    acc = scaled_sums(
        acc,
        a_scale_at,
        b_scale_at,
        read,
        col0,
        n,
        stride_as_m,
        stride_bs_n,
        A_SCALED,
        B_SCALED,
        A_ROWS,
        A_COLS,
        B_ROWS,
        B_COLS,
        BLOCK_N,
    )
    # A descriptor over all matrices would write the next one's rows behind a ragged tile: no TMA.
    cols = col0 + tl.arange(0, BLOCK_N)
    at = c + z * stride_cz + h * stride_ch + rows[:, None].to(tl.int64) * stride_cm + cols[None, :]
    tl.store(at, acc.to(OUT), mask=(rows[:, None] < m) & (cols[None, :] < n))


def launch(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    second: str,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
) -> None:
    """Multiply matrix by matrix on the current stream.

    Args:
        a: (batch, M, K) or (batch, heads, M, K): bf16, fp16, float8_e4m3fn, float8_e5m2 or int8;
            the last extent contiguous, other strides as they come.
        b: (..., N, K) or (..., K, N) as ``second`` says, of a's dtype (the two 8-bit floats may be
            mixed).
        c: (..., M, N) bf16, fp16 or fp32, overwritten.
        a_scale: fp32 grids (..., rows, cols), any strides: value = code x scale; ``None`` when
            unscaled.
        b_scale: the same for b, on the grid of its (N, K) shape whatever ``second`` is.
        second: "nk" or "kn".
        a_block: (rows, cols) of a matrix under one scale, 0 = whole extent.
        b_block: the same for b.
        config: see the module's docstring.
        decode: multiply 8-bit floats as fp16, for GPUs whose tensor cores do not take them.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, scale grids or config do not fit together.
    """
    grid, positional, keywords = arguments(
        a,
        b,
        c,
        a_scale,
        b_scale,
        second=second,
        a_block=a_block,
        b_block=b_block,
        config=config,
        decode=decode,
    )
    gemm_batched[(grid,)](*positional, **keywords)


def precompile(*operands: Any, **options: Any) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel.
    """
    grid, positional, keywords = arguments(*operands, **options)
    return gemm_batched.warmup(*positional, grid=(grid,), **keywords)
