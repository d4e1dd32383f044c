"""Device functions of batched and grouped products: the K loop of one tile, its epilogue."""

import triton
import triton.language as tl

from .gemm_tile import multiplicand

__all__ = ["multiply", "scaled_sums"]


@triton.jit
def _scales(scale, rows, k_block, stride_row, stride_k, QUANT_ROWS: tl.constexpr):
    """Scales of A's rows for one block along K: one for each of ``rows``."""
    at = scale + k_block.to(tl.int64) * stride_k
    return tl.load(at + (rows // QUANT_ROWS) * stride_row)


@triton.jit
def _promote(acc, product, s_a, s_b, A_IN_K: tl.constexpr):
    """Add a scaled product to the accumulator, with one multiply-add an element."""
    if A_IN_K:
        return acc + product * (s_a * s_b)[:, None]
    else:
        return acc + product * s_b


@triton.jit
def multiply(
    a,
    b,
    a_scale,
    b_scale,
    rows,
    scale_rows,
    a_row0,
    b_row0,
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
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    A_TMA: tl.constexpr,
    B_TMA: tl.constexpr,
    B_KN: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """(BLOCK_M, BLOCK_N) sums over K of one tile, promoted where scales change along K.

    Args:
        a, b: pointers to the tile's matrices, or descriptors of everything.
        a_scale, b_scale: pointers to the matrices' scales.
        rows: (BLOCK_M,) int64 rows of A, all of them in memory; descriptors read from ``a_row0``
            on instead.
        scale_rows: (BLOCK_M,) int64 rows that A's scales are looked up by.
        b_row0: of a descriptor: B's first row, in the whole of B, that belongs to the matrix.
        col0: first column of C within the matrix.
    """
    A_IN_K: tl.constexpr = A_COLS > 0
    B_IN_K: tl.constexpr = B_COLS > 0
    PROMOTE: tl.constexpr = A_IN_K or B_IN_K
    DOT_TYPE: tl.constexpr = tl.int32 if INTEGER else tl.float32
    ZERO: tl.constexpr = 0 if INTEGER or A_DECODE != "" else 0.0
    k_iterations = tl.cdiv(k, BLOCK_K)
    offs_k = tl.arange(0, BLOCK_K)
    # Columns beyond the matrix read its last one; their sums are never stored.
    cols = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1).to(tl.int64)
    if not A_TMA:
        a_at = a + rows[:, None] * stride_am + offs_k[None, :]
    if not B_TMA:
        if B_KN:
            b_at = b + offs_k[:, None].to(tl.int64) * stride_bk + cols[None, :]
        else:
            b_at = b + cols[:, None] * stride_bn + offs_k[None, :]
    s_a = 1.0
    s_b = 1.0
    # One scale of B serves the whole tile: BLOCK_N divides the rows under it.
    b_scale_at = b_scale
    if PROMOTE:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        start = col0 * 0
        if A_IN_K:
            s_a = _scales(a_scale, scale_rows, start, stride_as_m, stride_as_k, A_ROWS)
        if B_IN_K:
            b_scale_at = b_scale + (col0 // B_ROWS).to(tl.int64) * stride_bs_n
            s_b = tl.load(b_scale_at)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=DOT_TYPE)
    for step in range(k_iterations):
        k0 = step * BLOCK_K
        if PROMOTE:
            # The next iteration's scales are asked for before this one's product is waited for.
            next_step = tl.minimum(step + 1, k_iterations - 1)
            next_a = 1.0
            next_b = 1.0
            if A_IN_K:
                next_block = next_step // (A_COLS // BLOCK_K)
                next_a = _scales(a_scale, scale_rows, next_block, stride_as_m, stride_as_k, A_ROWS)
            if B_IN_K:
                next_block = next_step // (B_COLS // BLOCK_K)
                next_b = tl.load(b_scale_at + next_block.to(tl.int64) * stride_bs_k)
        # A descriptor fills what lies beyond K with zeros.
        if A_TMA:
            a_tile = a.load([a_row0, k0])
        elif EVEN_K:
            a_tile = tl.load(a_at + k0)
        else:
            a_tile = tl.load(a_at + k0, mask=offs_k[None, :] < k - k0, other=ZERO)
        if B_TMA:
            if B_KN:
                b_tile = b.load([b_row0 + k0, col0])
            else:
                b_tile = b.load([b_row0 + col0, k0]).T
        elif B_KN:
            b_rows = b_at + tl.cast(k0, tl.int64) * stride_bk
            if EVEN_K:
                b_tile = tl.load(b_rows)
            else:
                b_tile = tl.load(b_rows, mask=offs_k[:, None] < k - k0, other=ZERO)
        elif EVEN_K:
            b_tile = tl.load(b_at + k0).T
        else:
            b_tile = tl.load(b_at + k0, mask=offs_k[None, :] < k - k0, other=ZERO).T
        a_tile = multiplicand(a_tile, A_DECODE, UPCAST)
        b_tile = multiplicand(b_tile, B_DECODE, UPCAST)
        if PROMOTE:
            product = tl.dot(a_tile, b_tile, out_dtype=DOT_TYPE).to(tl.float32)
            acc = _promote(acc, product, s_a, s_b, A_IN_K)
            s_a = next_a
            s_b = next_b
        else:
            acc = tl.dot(a_tile, b_tile, acc, out_dtype=DOT_TYPE)
    return acc.to(tl.float32)


@triton.jit
def scaled_sums(
    acc,
    a_scale,
    b_scale,
    scale_rows,
    col0,
    n,
    stride_as_m,
    stride_bs_n,
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """The scales that do not change along K: one of the matrix, or one of each row or column."""
    if A_SCALED and A_COLS == 0:
        if A_ROWS == 0:
            acc = acc * tl.load(a_scale)
        else:
            acc = acc * tl.load(a_scale + (scale_rows // A_ROWS) * stride_as_m)[:, None]
    if B_SCALED and B_COLS == 0:
        if B_ROWS == 0:
            acc = acc * tl.load(b_scale)
        else:
            cols = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1).to(tl.int64)
            acc = acc * tl.load(b_scale + (cols // B_ROWS) * stride_bs_n)[None, :]
    return acc
