"""Device functions of products with outliers apart: what is added to a tile before its store."""

import triton
import triton.language as tl

__all__ = ["add_blocks", "add_columns", "scaled"]


@triton.jit
def scaled(
    acc,
    scale,
    row0,
    rows,
    stride,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    AXIS: tl.constexpr,
):
    """Sums times the scale of a tensor (ROWS = 0) or those of tile rows along AXIS (ROWS = 1)."""
    if ROWS == 0:
        return acc * tl.load(scale)
    else:
        row = tl.minimum(row0 + tl.arange(0, BLOCK), rows - 1).to(tl.int64)
        return acc * tl.expand_dims(tl.load(scale + row * stride), 1 - AXIS)


@triton.jit
def add_columns(
    acc,
    kept_a,
    kept_b,
    count,
    capacity,
    row0,
    col0,
    m,
    n,
    stride_a,
    stride_b,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPTH: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Add the product of kept columns to fp32 sums; no iteration where none is in use."""
    used = tl.minimum(tl.load(count), capacity)
    depth = tl.arange(0, DEPTH)
    # Rows beyond the matrix read its last row; their products are never stored.
    rows_a = tl.minimum(row0 + tl.arange(0, BLOCK_M), m - 1).to(tl.int64)
    rows_b = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1).to(tl.int64)
    a_at = kept_a + rows_a[:, None] * stride_a + depth[None, :]
    b_at = kept_b + rows_b[:, None] * stride_b + depth[None, :]
    # The last iteration goes beyond the columns in use: zeros lie there, so no load needs a mask,
    # which would make it as narrow as a column.
    for step in range(tl.cdiv(used, DEPTH)):
        a_tile = tl.load(a_at + step * DEPTH)
        b_tile = tl.load(b_at + step * DEPTH)
        if UPCAST:
            a_tile = a_tile.to(tl.float32)
            b_tile = b_tile.to(tl.float32)
        acc = tl.dot(a_tile, b_tile.T, acc, out_dtype=tl.float32)
    return acc


@triton.jit
def _place(columns, entry, part, k, A_COLS: tl.constexpr, BLOCK_K: tl.constexpr):
    """First column of K of a part of an entry's block, and whether the block lies on the grid."""
    column = tl.load(columns + entry)
    inside = (column >= 0) & (column < tl.cdiv(k, A_COLS))
    return tl.where(inside, column, 0) * A_COLS + part * BLOCK_K, inside


@triton.jit
def _factor(
    scales, b_scale, entry, k0, inside, k, col0, stride_bs_n, stride_bs_k,
    B_ROWS: tl.constexpr, B_COLS: tl.constexpr,
):  # fmt: skip
    """Product of the two scales of an entry's part; 0 for a block off the grid."""
    # A part beyond a ragged last block multiplies zeros, under the last scale that there is.
    b_column = (tl.minimum(k0, k - 1) // B_COLS).to(tl.int64)
    at_b = b_scale + (col0 // B_ROWS).to(tl.int64) * stride_bs_n + b_column * stride_bs_k
    return tl.where(inside, tl.load(scales + entry) * tl.load(at_b), 0.0)


@triton.jit
def add_blocks(
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
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_BLOCKS: tl.constexpr,
):
    """Add the products of the fallback blocks of a tile's rows; a tile lies in one block row.

    EVEN_BLOCKS: K is a multiple of A_COLS; else parts of the last block lie beyond K.
    """
    PARTS: tl.constexpr = A_COLS // BLOCK_K
    block_row = row0 // A_ROWS
    # Whatever the device says, on both sides: PARTS times a number beyond could come out as any.
    first = tl.minimum(tl.maximum(tl.load(offsets + block_row), 0), capacity) * PARTS
    last = tl.minimum(tl.maximum(tl.load(offsets + block_row + 1), 0), capacity) * PARTS
    offs_k = tl.arange(0, BLOCK_K)
    rows_a = row0 % A_ROWS + tl.arange(0, BLOCK_M)
    a_at = codes + rows_a[:, None] * A_COLS + offs_k[None, :]
    if not TMA:
        rows_b = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1).to(tl.int64)
        b_at = b + rows_b[:, None] * stride_bn + offs_k[None, :]
    # Blocks and their parts are one loop, and where the next part lies is read an iteration ahead,
    # so that loads run ahead from block to block.
    k0 = row0 * 0
    factor = 0.0
    if first < last:
        k0, inside = _place(columns, first // PARTS, first % PARTS, k, A_COLS, BLOCK_K)
        factor = _factor(
            scales, b_scale, first // PARTS, k0, inside, k, col0, stride_bs_n, stride_bs_k,
            B_ROWS, B_COLS,
        )  # fmt: skip
    for step in range(last - first):
        part = first + step
        following = tl.minimum(part + 1, last - 1)
        next_k0, inside = _place(columns, following // PARTS, following % PARTS, k, A_COLS, BLOCK_K)
        next_factor = _factor(
            scales, b_scale, following // PARTS, next_k0, inside, k, col0, stride_bs_n, stride_bs_k,
            B_ROWS, B_COLS,
        )  # fmt: skip
        entry = (part // PARTS).to(tl.int64)
        a_tile = tl.load(a_at + entry * (A_ROWS * A_COLS) + part % PARTS * BLOCK_K)
        if TMA:
            b_tile = b.load([col0, k0])
        elif EVEN_BLOCKS:
            b_tile = tl.load(b_at + k0)
        else:
            b_tile = tl.load(b_at + k0, mask=offs_k[None, :] < k - k0, other=0)
        product = tl.dot(a_tile, b_tile.T, out_dtype=tl.int32)
        acc = acc + product.to(tl.float32) * factor
        k0 = next_k0
        factor = next_factor
    return acc
