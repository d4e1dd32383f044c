"""Device functions behind a product's K loop: scales of rows and tensors, and the store."""

import triton
import triton.language as tl

__all__ = ["scale_sums", "store"]


@triton.jit
def scale_sums(
    acc,
    a_scale,
    b_scale,
    row0,
    col0,
    m,
    n,
    stride_as_m,
    stride_bs_n,
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sums of a tile in fp32, times the scales that do not change along K."""
    acc = acc.to(tl.float32)
    if A_SCALED and A_COLS == 0:
        if A_ROWS == 0:
            acc = acc * tl.load(a_scale)
        else:
            rows = tl.minimum(row0 + tl.arange(0, BLOCK_M), m - 1)
            acc = acc * tl.load(a_scale + (rows // A_ROWS).to(tl.int64) * stride_as_m)[:, None]
    if B_SCALED and B_COLS == 0:
        if B_ROWS == 0:
            acc = acc * tl.load(b_scale)
        else:
            cols = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1)
            acc = acc * tl.load(b_scale + (cols // B_ROWS).to(tl.int64) * stride_bs_n)[None, :]
    return acc


@triton.jit
def _halves(tile, ROWS: tl.constexpr, COLS: tl.constexpr):
    """The left and the right half of a tile's columns; both lie in the registers of the whole."""
    return tile.reshape(ROWS, 2, COLS // 2).permute(0, 2, 1).split()


@triton.jit
def store(
    c,
    acc,
    row0,
    col0,
    m,
    n,
    stride_cm,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TMA: tl.constexpr,
    SUBTILES: tl.constexpr,
):
    """Write a tile of sums, through a descriptor in SUBTILES = 1, 2 or 4 parts along its columns.

    The parts follow each other through the same shared memory.
    """
    if TMA:
        if SUBTILES == 1:
            c.store([row0, col0], acc.to(OUT))
        else:
            left, right = _halves(acc, BLOCK_M, BLOCK_N)
            if SUBTILES == 2:
                c.store([row0, col0], left.to(OUT))
                c.store([row0, col0 + BLOCK_N // 2], right.to(OUT))
            else:
                first, second = _halves(left, BLOCK_M, BLOCK_N // 2)
                c.store([row0, col0], first.to(OUT))
                c.store([row0, col0 + BLOCK_N // 4], second.to(OUT))
                third, fourth = _halves(right, BLOCK_M, BLOCK_N // 2)
                c.store([row0, col0 + BLOCK_N // 2], third.to(OUT))
                c.store([row0, col0 + BLOCK_N // 2 + BLOCK_N // 4], fourth.to(OUT))
    else:
        rows = row0 + tl.arange(0, BLOCK_M)
        cols = col0 + tl.arange(0, BLOCK_N)
        at = c + rows[:, None].to(tl.int64) * stride_cm + cols[None, :]
        tl.store(at, acc.to(OUT), mask=(rows[:, None] < m) & (cols[None, :] < n))
