"""Grouped GEMM in Triton: rows of A times the weights of the expert that each belongs to.

``C[r] = (A[r] x scales) · (B[e(r)] x scales)^T`` for e4m3fn, e5m2, int8, bf16 and fp16, with the
scales of ``gemm_scaled``: one, one a row, or blocks along K, whose products are promoted to fp32.

Where the rows of expert e lie is read on the device, so that a launch knows no count and a CUDA
graph can be replayed with others:

* contiguous: rows ``offsets[e]`` to ``offsets[e + 1]`` of A and C;
* padded: ``counts[e]`` rows from ``offsets[e]`` on; what lies between is neither read nor written,
  but for rows that share a tile with others, which are read and not used;
* masked: A and C are (E, capacity, ...), and the first ``counts[e]`` rows of each are in use;
* gathered: entry ``i`` of ``ids``, sorted by expert as ``offsets`` says, reads row
  ``ids[i] // top_k`` of A and writes row ``ids[i]`` of C: ``ids`` numbers (token, choice) pairs.

A fixed number of programs walks over the tiles of all experts.  Each finds the expert of a tile in
the running sum of tiles, which it makes once, in registers.  Offsets and counts outside the tensors
are clamped to them; an id outside [0, tokens x top_k) is passed over.

The module needs torch and triton and nothing else.  A configuration is a mapping with
``block_m``, ``block_n``, ``block_k``, ``group_m``, ``num_warps``, ``num_stages``, ``ctas_per_sm``
(ints) and ``tma`` (bool).
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .batch_tile import multiply, scaled_sums
from .gemm_tile import tile_origin
from .grouped_arguments import arguments

__all__ = ["launch", "precompile"]


@triton.jit
def gemm_grouped(
    a,
    b,
    c,
    a_scale,
    b_scale,
    offsets,
    counts,
    ids,
    experts,
    a_rows,
    group_rows,
    n,
    k,
    stride_ae,
    stride_am,
    stride_be,
    stride_bn,
    stride_ce,
    stride_cm,
    stride_as_e,
    stride_as_m,
    stride_as_k,
    stride_bs_e,
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
    BLOCK_E: tl.constexpr,
    MASKED: tl.constexpr,
    COUNTED: tl.constexpr,
    TOP_K: tl.constexpr,
    A_TMA: tl.constexpr,
    B_TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: any number of programs.

    ``a_rows`` and ``group_rows`` are the rows of A (masked: of an expert) and the most that a group
    can have, which differ where rows are gathered; TOP_K is 0 unless they are.
    """
    tiles_n = tl.cdiv(n, BLOCK_N)
    every = tl.arange(0, BLOCK_E)
    known = every < experts
    if MASKED:
        every_rows = tl.load(counts + every, mask=known, other=0)
    else:
        every_first = tl.load(offsets + every, mask=known, other=0)
        if COUNTED:
            every_rows = tl.load(counts + every, mask=known, other=0)
        else:
            every_rows = tl.load(offsets + every + 1, mask=known, other=0) - every_first
        every_first = tl.minimum(tl.maximum(every_first, 0), group_rows)
        every_rows = tl.minimum(every_rows, group_rows - every_first)
    every_rows = tl.minimum(tl.maximum(every_rows, 0), group_rows).to(tl.int32)
    # Tiles of the experts up to each one, itself included.
    ends = tl.cumsum(tl.cdiv(every_rows, BLOCK_M) * tiles_n, axis=0)
    tiles = tl.max(ends, axis=0)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        behind = ends <= tile
        expert = tl.sum(behind.to(tl.int32), axis=0)
        within = tile - tl.max(tl.where(behind, ends, 0), axis=0)
        # One expert is the tile's own: sums pick its entries out of the registers.
        rows_here = tl.sum(tl.where(every == expert, every_rows, 0), axis=0)
        if MASKED:
            first = 0
            tma_first = expert * group_rows
        else:
            first = tl.sum(tl.where(every == expert, every_first, 0), axis=0).to(tl.int32)
            tma_first = first
        row0, col0 = tile_origin(within, rows_here, n, BLOCK_M, BLOCK_N, GROUP_M)
        in_group = row0 + tl.arange(0, BLOCK_M)
        # Rows beyond the group repeat its last one; their sums are never stored.
        read = (first + tl.minimum(in_group, rows_here - 1)).to(tl.int64)
        write = read
        inside = in_group < rows_here
        if TOP_K > 0:
            write = tl.load(ids + read).to(tl.int64)
            # Elsewhere what an id reads is never stored: any row will do.
            inside &= (write >= 0) & (write // TOP_K < a_rows)
            read = tl.minimum(tl.maximum(write // TOP_K, 0), a_rows - 1)
        e = expert.to(tl.int64)
        a_at = a
        b_at = b
        if not A_TMA:
            a_at = a + e * stride_ae
        if not B_TMA:
            b_at = b + e * stride_be
        a_scale_at = a_scale + e * stride_as_e
        b_scale_at = b_scale + e * stride_bs_e
        acc = multiply(
            a_at,
            b_at,
            a_scale_at,
            b_scale_at,
            read,
            read,
            tma_first + row0,
            expert * n,
            col0,
            n,
            k,
            stride_am,
            stride_bn,
            0,
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
            A_TMA,
            B_TMA,
            False,
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
        # A descriptor would write the next expert's rows behind a ragged tile: no TMA.
        cols = col0 + tl.arange(0, BLOCK_N)
        at = c + e * stride_ce + write[:, None] * stride_cm + cols[None, :]
        tl.store(at, acc.to(OUT), mask=inside[:, None] & (cols[None, :] < n))


def launch(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    offsets: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    top_k: int = 1,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
    num_sms: int,
) -> None:
    """Multiply every row by its expert's weights, on the current stream.

    Args:
        a: (M, K), masked (E, capacity, K), gathered (tokens, K): bf16, fp16, float8_e4m3fn,
            float8_e5m2 or int8; rows contiguous.
        b: (E, N, K) of a's dtype (the two 8-bit floats may be mixed), rows contiguous.
        c: (M, N), masked (E, capacity, N), gathered (tokens * top_k, N): bf16, fp16 or fp32.  Rows
            that belong to no expert are left as they are.
        a_scale: fp32 grid of scales of ``a``, any strides; masked (E, rows, cols).  ``None`` when
            unscaled.
        b_scale: fp32 grids (E, rows, cols).
        offsets: (E + 1,) int64, ascending; with ``counts``, E entries are enough.
        counts: (E,) int32.  Alone, it makes the layout masked.
        ids: (entries,) int32 or int64, no two alike; makes the layout gathered.  Entries outside
            [0, tokens * top_k) stand for no row.
        top_k: choices a token.
        a_block: (rows, cols) under one scale, 0 = whole extent.  Contiguous, padded and gathered
            rows take the whole tensor (0, 0) or single rows (1, ...).
        b_block: the same for b, within one expert.
        config: see the module's docstring.
        decode: multiply 8-bit floats as fp16, for GPUs whose tensor cores do not take them.
        num_sms: multiprocessors; ``ctas_per_sm`` programs run on each.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, scale grids, layout or config do not fit together.
    """
    grid, positional, keywords = arguments(
        a,
        b,
        c,
        a_scale,
        b_scale,
        offsets=offsets,
        counts=counts,
        ids=ids,
        top_k=top_k,
        a_block=a_block,
        b_block=b_block,
        config=config,
        decode=decode,
        num_sms=num_sms,
    )
    gemm_grouped[(grid,)](*positional, **keywords)


def precompile(*operands: Any, **options: Any) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel.
    """
    grid, positional, keywords = arguments(*operands, **options)
    return gemm_grouped.warmup(*positional, grid=(grid,), **keywords)
