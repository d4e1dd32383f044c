"""INT8 GEMM with outliers apart, in one launch: ``C[M, N] = A[M, K] · B[N, K]^T`` and more.

Two ways to keep outliers of the activations, and a kernel for each:

- **kept columns** (LLM.int8(), arXiv 2208.07339, section 3.2): columns of A with outliers are zeros
  in its codes.  Their values are multiplied in 16 bits with the same columns of B, and added to the
  scaled int8 product in fp32.  Scales cover a tensor or a row.
- **fallback blocks** (arXiv 2503.08040): of some blocks of A, what their codes leave is quantised
  once more.  The K loop visits all blocks of the first codes, then the blocks of the second ones
  that its rows have.  Scales cover blocks on both sides.

How many columns or blocks there are is read on the device: a CUDA graph replays with others.

The module needs torch and triton and nothing else.  A configuration is a mapping with ``block_m``,
``block_n``, ``block_k``, ``outlier_k``, ``group_m``, ``num_warps``, ``num_stages`` (ints), ``tma``
(bool).
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .gemm_epilogue import store
from .gemm_tile import accumulate, tile_origin
from .outlier_arguments import Launch, arguments
from .outlier_operands import FallbackBlocks, KeptColumns
from .outlier_tile import add_blocks, add_columns, scaled

__all__ = ["FallbackBlocks", "KeptColumns", "launch", "precompile"]


@triton.jit
def gemm_kept_columns(
    a,
    b,
    c,
    a_scale,
    b_scale,
    m,
    n,
    k,
    stride_am,
    stride_bn,
    stride_cm,
    stride_as_m,
    stride_as_k,
    stride_bs_n,
    stride_bs_k,
    kept_a,
    kept_b,
    count,
    capacity,
    stride_ka,
    stride_kb,
    A_ROWS: tl.constexpr,
    B_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    OUTLIER_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: one program a tile."""
    row0, col0 = tile_origin(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    acc = accumulate(
        a,
        b,
        a_scale,
        b_scale,
        row0,
        col0,
        m,
        n,
        k,
        stride_am,
        stride_bn,
        stride_as_m,
        stride_as_k,
        stride_bs_n,
        stride_bs_k,
        A_ROWS=A_ROWS,
        A_COLS=0,
        B_ROWS=B_ROWS,
        B_COLS=0,
        A_GROUP=BLOCK_M,
        B_GROUP=BLOCK_N,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        TMA=TMA,
        EVEN_K=EVEN_K,
        INTEGER=True,
        A_DECODE="",
        B_DECODE="",
        UPCAST=False,
    )
    sums = scaled(acc.to(tl.float32), a_scale, row0, m, stride_as_m, BLOCK_M, A_ROWS, 0)
    sums = scaled(sums, b_scale, col0, n, stride_bs_n, BLOCK_N, B_ROWS, 1)
    # Added in place: the tensor cores start from the scaled sums.
    sums = add_columns(
        sums,
        kept_a,
        kept_b,
        count,
        capacity,
        row0,
        col0,
        m,
        n,
        stride_ka,
        stride_kb,
        BLOCK_M,
        BLOCK_N,
        OUTLIER_K,
        UPCAST,
    )
    store(c, sums, row0, col0, m, n, stride_cm, OUT, BLOCK_M, BLOCK_N, TMA, 1)


@triton.jit
def gemm_fallback_blocks(
    a,
    b,
    c,
    a_scale,
    b_scale,
    m,
    n,
    k,
    stride_am,
    stride_bn,
    stride_cm,
    stride_as_m,
    stride_as_k,
    stride_bs_n,
    stride_bs_k,
    codes,
    scales,
    columns,
    offsets,
    capacity,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    EVEN_BLOCKS: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: one program a tile."""
    row0, col0 = tile_origin(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    acc = accumulate(
        a,
        b,
        a_scale,
        b_scale,
        row0,
        col0,
        m,
        n,
        k,
        stride_am,
        stride_bn,
        stride_as_m,
        stride_as_k,
        stride_bs_n,
        stride_bs_k,
        A_ROWS=A_ROWS,
        A_COLS=A_COLS,
        B_ROWS=B_ROWS,
        B_COLS=B_COLS,
        A_GROUP=BLOCK_M,
        B_GROUP=BLOCK_N,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        BLOCK_K=BLOCK_K,
        TMA=TMA,
        EVEN_K=EVEN_K,
        INTEGER=True,
        A_DECODE="",
        B_DECODE="",
        UPCAST=False,
    )
    acc = add_blocks(
        acc,
        b,
        b_scale,
        codes,
        scales,
        columns,
        offsets,
        capacity,
        row0,
        col0,
        n,
        k,
        stride_bn,
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
        EVEN_BLOCKS,
    )
    store(c, acc, row0, col0, m, n, stride_cm, OUT, BLOCK_M, BLOCK_N, TMA, 1)


def _kernel(found: Launch) -> Any:
    return gemm_kept_columns if found.columns else gemm_fallback_blocks


def launch(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    outliers: KeptColumns | FallbackBlocks,
    *,
    a_block: tuple[int, int],
    b_block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> None:
    """Compute the product of codes and scales, and of what is kept apart, on the current stream.

    The same bits on every call: each tile adds in one order.

    Args:
        a: (M, K) int8 activations, rows contiguous, any row stride; zeros in kept columns.
        b: (N, K) int8 weights, the same.
        c: (M, N) bf16, fp16 or fp32, overwritten; shares no memory with an input.
        a_scale: fp32 grid of scales, any strides: value = code x scale.
        b_scale: the same for b.
        outliers: kept columns, or fallback blocks of ``a_block``.
        a_block: (rows, cols) under one scale, 0 = whole extent: tensor (0, 0) or row (1, 0) beside
            kept columns, blocks such as (128, 128) beside fallback blocks.
        b_block: the same for b.
        config: see the module's docstring; ``outlier_k`` is the depth of an iteration over kept
            columns, and ``block_k`` beside fallback blocks.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, scale grids or config do not fit together.
    """
    found = arguments(
        *(a, b, c, a_scale, b_scale, outliers), a_block=a_block, b_block=b_block, config=config
    )
    _kernel(found)[(found.grid,)](*found.positional, **found.keywords)


def precompile(*operands: Any, **options: Any) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel.
    """
    found = arguments(*operands, **options)
    return _kernel(found).warmup(*found.positional, grid=(found.grid,), **found.keywords)
