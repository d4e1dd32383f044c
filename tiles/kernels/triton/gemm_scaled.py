"""Scaled GEMM in Triton: ``C[M, N] = (A[M, K] x scales) · (B[N, K] x scales)^T``.

One kernel serves bf16, fp16, e4m3fn, e5m2 and int8 operands whose fp32 scales cover a whole tensor,
a row, or a block of rows and columns.  Scales that are constant along K are applied once, in the
epilogue; 8-bit products then accumulate over the whole of K in the tensor cores (``_scaled_mm``
calls that fast accumulation).  Scales that change along K are applied to the product of every
K-iteration on its way into an fp32 accumulator (promotion).

The module needs torch and triton and nothing else.  A configuration is a mapping with
``block_m``, ``block_n``, ``block_k``, ``group_m``, ``num_warps``, ``num_stages`` (ints), ``tma``,
``persistent`` (bools), and what may be left out:

* ``split_k`` (1): programs that share the K extent of a tile, see ``gemm_split``;
* ``stream_k`` (False): a persistent launch shares K where tiles do not fill the GPU, see there;
* ``subtiles`` (0): parts, 1, 2 or 4, in which descriptors write a tile, one after the other through
  the same shared memory; 0: two where a persistent launch has a large tile, else one;
* ``overlap`` (False): a product is promoted while the next one runs;
* ``specialize`` (False): warps that fetch and warps that multiply, see ``gemm_specialized``.
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .gemm_arguments import arguments
from .gemm_epilogue import scale_sums, store
from .gemm_specialized import gemm_specialized, with_scratch
from .gemm_split import gemm_split, gemm_stream
from .gemm_tile import accumulate, tile_origin

__all__ = ["kernel_of", "launch", "precompile"]


@triton.jit
def _tile(
    a,
    b,
    c,
    a_scale,
    b_scale,
    tile,
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
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TMA: tl.constexpr,
    SUBTILES: tl.constexpr,
    OVERLAP: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """One CTA tile of C, from loads to store."""
    row0, col0 = tile_origin(tile, m, n, BLOCK_M, BLOCK_N, GROUP_M)
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
        A_ROWS,
        A_COLS,
        B_ROWS,
        B_COLS,
        A_GROUP,
        B_GROUP,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        TMA,
        EVEN_K,
        INTEGER,
        A_DECODE,
        B_DECODE,
        UPCAST,
        OVERLAP=OVERLAP,
    )
    acc = scale_sums(
        acc,
        a_scale,
        b_scale,
        row0,
        col0,
        m,
        n,
        stride_as_m,
        stride_bs_n,
        A_SCALED,
        B_SCALED,
        A_ROWS,
        A_COLS,
        B_ROWS,
        B_COLS,
        BLOCK_M,
        BLOCK_N,
    )
    store(
        c,
        acc,
        row0,
        col0,
        m,
        n,
        stride_cm,
        OUT,
        BLOCK_M,
        BLOCK_N,
        TMA,
        SUBTILES,
    )


@triton.jit
def gemm_scaled(
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
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SUBTILES: tl.constexpr,
    OVERLAP: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: one program a tile, or any number of programs that share the tiles (PERSISTENT)."""
    if PERSISTENT:
        tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
        # Flattening joins the tile loop and the K loop, so loads run ahead across tiles.
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            _tile(
                a,
                b,
                c,
                a_scale,
                b_scale,
                tile,
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
                A_SCALED,
                B_SCALED,
                A_ROWS,
                A_COLS,
                B_ROWS,
                B_COLS,
                A_GROUP,
                B_GROUP,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
                GROUP_M,
                TMA,
                SUBTILES,
                OVERLAP,
                EVEN_K,
                INTEGER,
                A_DECODE,
                B_DECODE,
                UPCAST,
                OUT,
            )
    else:
        _tile(
            a,
            b,
            c,
            a_scale,
            b_scale,
            tl.program_id(0),
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
            A_SCALED,
            B_SCALED,
            A_ROWS,
            A_COLS,
            B_ROWS,
            B_COLS,
            A_GROUP,
            B_GROUP,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            GROUP_M,
            TMA,
            SUBTILES,
            OVERLAP,
            EVEN_K,
            INTEGER,
            A_DECODE,
            B_DECODE,
            UPCAST,
            OUT,
        )


def kernel_of(config: Mapping[str, int | bool]) -> Any:
    """The kernel that runs a configuration."""
    if config.get("specialize", False):
        return gemm_specialized
    if config.get("stream_k", False):
        return gemm_stream
    return gemm_split if int(config.get("split_k", 1)) > 1 else gemm_scaled


def launch(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
    num_sms: int | None = None,
    workspace: torch.Tensor | None = None,
) -> None:
    """Compute ``c = (a · scales) @ (b · scales)^T`` on the current stream.

    Args:
        a: (M, K) bf16, fp16, float8_e4m3fn, float8_e5m2 or int8; rows contiguous, any row stride.
        b: (N, K) of a's dtype (the two 8-bit floats may be mixed).
        c: (M, N) bf16, fp16 or fp32, overwritten.
        a_scale: fp32 or fp16 grid of scales, any strides: value = code x scale; ``None`` when
            unscaled.
        b_scale: the same for b.
        a_block: (rows, cols) under one scale, 0 = whole extent: tensor (0, 0), row (1, 0),
            1x128 (1, 128).  The grid has ceil(extent / size) entries a dimension.
        b_block: the same for b.
        config: see the module's docstring.
        decode: multiply 8-bit floats as fp16, for GPUs whose tensor cores do not take them.
        num_sms: number of programs of a persistent launch; other configs ignore it.
        workspace: int32, at least ``split_workspace.workspace_words(...)`` long, zeros before the
            first launch; needed with ``split_k`` > 1 and with ``stream_k``.  A launch leaves its
            counters at zero, so that launches on one stream share a workspace, whatever their
            shapes; launches that may overlap do not.  After a launch that was cut short it must be
            zeros again.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, scale grids, workspace or config do not fit together.
    """
    grid, positional, keywords = arguments(
        a,
        b,
        c,
        a_scale,
        b_scale,
        a_block=a_block,
        b_block=b_block,
        config=config,
        decode=decode,
        num_sms=num_sms,
        workspace=workspace,
    )
    kernel = kernel_of(config)
    if kernel is gemm_specialized:
        with_scratch(lambda: kernel[(grid,)](*positional, **keywords), a.device)
    else:
        kernel[(grid,)](*positional, **keywords)


def precompile(*operands: Any, config: Mapping[str, int | bool], **options: Any) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel.
    """
    grid, positional, keywords = arguments(*operands, config=config, **options)
    return kernel_of(config).warmup(*positional, grid=(grid,), **keywords)
