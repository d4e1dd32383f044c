"""Products of MX and NVFP4 operands by block-scaled tensor cores, codes and scales as stored.

For GPUs whose tensor cores take block scales (``tcgen05`` of capability 10.0); elsewhere Triton
decodes to bf16 in the loop.  Reached through ``gemm_decoded``, whose configurations with ``native``
it runs.
"""

import triton
import triton.language as tl

from .decoded_tile import stored_scales
from .gemm_epilogue import store
from .gemm_tile import tile_origin
from .tile_packing import load_codes

__all__ = ["gemm_block_scaled"]


@triton.jit
def _scales(
    scales, first_row, step, rows, cols, stride_row, stride_col, STORED: tl.constexpr,
    SCALE_ROWS: tl.constexpr, SCALE_COLS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    words = stored_scales(
        scales, first_row, step, rows, cols, stride_row, stride_col, STORED, SCALE_ROWS, SCALE_COLS,
        ROWS, COLS,
    )  # fmt: skip
    if STORED == "e4m3fn":
        return words.to(tl.float8e4nv, bitcast=True)
    else:
        return words


@triton.jit
def gemm_block_scaled(
    a, a_scales, a_outer, b, b_scales, b_outer, c, a_bytes, b_bytes, m, n, k,
    stride_as_m, stride_as_k, stride_bs_n, stride_bs_k, stride_cm,
    A_FORMAT: tl.constexpr, A_STORED: tl.constexpr, A_ROWS: tl.constexpr, A_OUTER: tl.constexpr,
    B_FORMAT: tl.constexpr, B_STORED: tl.constexpr, B_ROWS: tl.constexpr, B_OUTER: tl.constexpr,
    SCALE_COLS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, EVEN: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Grid: one program a tile of C.

    A_FORMAT, B_FORMAT: e4m3, e5m2, or e2m1, of which a byte holds two.
    A_OUTER, B_OUTER: the whole operand has a scale besides.
    """
    A_BYTES: tl.constexpr = BLOCK_K // 2 if A_FORMAT == "e2m1" else BLOCK_K
    B_BYTES: tl.constexpr = BLOCK_K // 2 if B_FORMAT == "e2m1" else BLOCK_K
    row0, col0 = tile_origin(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    first_a = row0.to(tl.int64)
    first_b = col0.to(tl.int64)
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for step in range(tl.cdiv(k, BLOCK_K)):
        # What lies outside are codes of zero.
        left = load_codes(a, first_a, step * A_BYTES, m, a_bytes, BLOCK_M, A_BYTES, 8, False, EVEN)
        right = load_codes(b, first_b, step * B_BYTES, n, b_bytes, BLOCK_N, B_BYTES, 8, False, EVEN)
        s_a = _scales(
            a_scales, first_a, step, m, k, stride_as_m, stride_as_k, A_STORED, A_ROWS, SCALE_COLS,
            BLOCK_M, BLOCK_K,
        )  # fmt: skip
        s_b = _scales(
            b_scales, first_b, step, n, k, stride_bs_n, stride_bs_k, B_STORED, B_ROWS, SCALE_COLS,
            BLOCK_N, BLOCK_K,
        )  # fmt: skip
        acc = tl.dot_scaled(left, s_a, A_FORMAT, right.T, s_b, B_FORMAT, acc)
    if A_OUTER:
        acc *= tl.load(a_outer)
    if B_OUTER:
        acc *= tl.load(b_outer)
    store(c, acc, row0, col0, m, n, stride_cm, OUT, BLOCK_M, BLOCK_N, False, 1)
