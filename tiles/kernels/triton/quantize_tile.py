"""Device functions of the one-pass quantisation: a tile in registers, its scales and codes."""

import triton
import triton.language as tl

from .tile_elements import eight_e2m1, encode, limited
from .tile_packing import store_codes, store_nibbles
from .tile_random import random_tile
from .tile_scales import (
    block_amax,
    exponent_scale,
    float_scale,
    quotient,
    reciprocal,
    scale_offsets,
)

__all__ = ["load_tile", "quantize_tile", "store_scales"]


@triton.jit
def load_tile(
    x_ptr, first_row, first_col, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """A tile of numbers; what lies outside is zero."""
    row = tl.arange(0, ROWS)[:, None]
    col = first_col + tl.arange(0, COLS)[None, :]
    base = x_ptr + first_row * cols  # 64-bit; within a tile 32 bits are enough
    if EVEN:
        x = tl.load(base + (row * cols + col))
    else:
        inside = (row < rows - first_row) & (col < cols)
        x = tl.load(base + (row * cols + col), mask=inside, other=0.0)
    return x


@triton.jit
def store_scales(
    ptr, scale, first_row, first_col, rows, cols, row_stride, col_stride,
    GRID_ROWS: tl.constexpr, GRID_COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_COLS: tl.constexpr, SWIZZLED: tl.constexpr,
):  # fmt: skip
    """Store the scales of a tile's blocks."""
    scale = tl.reshape(scale, (GRID_ROWS, GRID_COLS))
    row = (first_row // BLOCK_ROWS).to(tl.int32) + tl.arange(0, GRID_ROWS)[:, None]
    col = first_col // BLOCK_COLS + tl.arange(0, GRID_COLS)[None, :]
    grid_rows = tl.cdiv(rows, BLOCK_ROWS)
    grid_cols = tl.cdiv(cols, BLOCK_COLS)
    padded_cols = tl.cdiv(grid_cols, 4) * 4
    inside = (row < grid_rows) & (col < grid_cols)
    offsets = scale_offsets(row, col, padded_cols, row_stride, col_stride, SWIZZLED)
    tl.store(ptr + offsets, scale.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _scaled(
    x, tensor_amax, outer, STORED: tl.constexpr, RULE: tl.constexpr, ONE_SCALE: tl.constexpr,
    TWO_LEVEL: tl.constexpr, SHORT: tl.constexpr, CODE_MAX: tl.constexpr,
    CODE_EXPONENT: tl.constexpr, CODE_MANTISSA: tl.constexpr, KEPT_MANTISSA: tl.constexpr,
    UNITS: tl.constexpr,
):  # fmt: skip
    """Of a tile in blocks: stored scales, numbers in units of them, and which are not poisoned.

    Args:
        x: (grid rows, block rows, grid cols, block cols) fp32.
        UNITS: what a scale counts, a power of two; 1 of E8M0, and where a quotient can be large.
    """
    amax = tl.zeros((1, 1, 1, 1), tl.float32) + tensor_amax if ONE_SCALE else block_amax(x)
    whole = amax < float("inf")
    if STORED == "e8m0fnu":
        scale, inverse = exponent_scale(amax, RULE, CODE_EXPONENT, CODE_MANTISSA, KEPT_MANTISSA)
        ratio = x * inverse  # a power of two: exactly the quotient
    else:
        scale = float_scale(amax, outer, STORED, RULE, TWO_LEVEL, SHORT, CODE_MAX)
        divisor = scale * outer if TWO_LEVEL else scale
        divisor, negative, lift = reciprocal(divisor)
        ratio = quotient(x, divisor, negative, lift * UNITS, SHORT)
        if TWO_LEVEL:
            # The bits of e4m3fn, of which every scale is a normal number, or NaN.
            word = scale.to(tl.int32, bitcast=True)
            scale = tl.where(whole, (word >> 20) - (120 << 3), 0x7F)
    return scale, ratio, whole


@triton.jit
def quantize_tile(
    x, codes_ptr, scales_ptr, tensor_amax, outer, first_row, first_col, rows, cols,
    row_stride, col_stride, seed_low, seed_high, writes_scales,
    ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    EVEN: tl.constexpr, WORDS: tl.constexpr, GROUPED: tl.constexpr, SWIZZLED: tl.constexpr,
    STORED: tl.constexpr, RULE: tl.constexpr, ONE_SCALE: tl.constexpr, TWO_LEVEL: tl.constexpr,
    SHORT: tl.constexpr, CODE_EXPONENT: tl.constexpr, CODE_MANTISSA: tl.constexpr,
    KEPT_MANTISSA: tl.constexpr, STOCHASTIC: tl.constexpr, SOFTWARE: tl.constexpr,
    CLAMP: tl.constexpr, INTEGER: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    BIAS: tl.constexpr, NAN_CODE: tl.constexpr, ZERO_CODE: tl.constexpr, CODE_MAX: tl.constexpr,
    ASSEMBLY: tl.constexpr, PACKED: tl.constexpr = False,
):  # fmt: skip
    """Quantise a tile (ROWS, COLS) of a ``rows`` x ``cols`` matrix and store it.

    Args:
        PACKED: nobody wants single codes, so that those of e2m1fn may be rounded into words.
    Returns:
        The codes, one an item or packed, and the scales of the tile's blocks.
    """
    GRID_ROWS: tl.constexpr = ROWS // BLOCK_ROWS
    GRID_COLS: tl.constexpr = COLS // BLOCK_COLS
    shape: tl.constexpr = (GRID_ROWS, BLOCK_ROWS, GRID_COLS, BLOCK_COLS)
    # Stochastic integers are rounded in fixed point, with 16 bits behind the point.
    FIXED: tl.constexpr = STOCHASTIC and INTEGER and not CLAMP
    UNITS: tl.constexpr = 65536.0 * 2.0**MANTISSA if FIXED else 1.0
    scale, ratio, whole = _scaled(
        tl.reshape(x, shape).to(tl.float32), tensor_amax, outer, STORED, RULE, ONE_SCALE, TWO_LEVEL,
        SHORT, CODE_MAX, CODE_EXPONENT, CODE_MANTISSA, KEPT_MANTISSA, UNITS,
    )  # fmt: skip
    if FIXED and x.dtype == tl.bfloat16:
        # Its smallest numbers have scales of so few bits that a quotient may lie beyond the largest
        # code, which a carry would make the smallest one.
        ratio = limited(ratio, CODE_MAX * UNITS, ASSEMBLY)
    E2M1: tl.constexpr = BITS == 4 and not INTEGER and not STOCHASTIC
    EIGHT: tl.constexpr = PACKED and ASSEMBLY and WORDS and E2M1 and BLOCK_COLS % 8 == 0
    random = 0
    if STOCHASTIC:
        random = tl.reshape(
            random_tile(
                first_row, first_col, cols, seed_low, seed_high, ROWS, COLS, GROUPED, ASSEMBLY,
            ),
            shape,
        )  # fmt: skip
    if EIGHT:
        codes = eight_e2m1(tl.reshape(ratio, (ROWS, COLS)), ROWS, COLS)
        codes = tl.reshape(codes, (GRID_ROWS, BLOCK_ROWS, GRID_COLS, BLOCK_COLS // 8))
        codes = tl.reshape(tl.where(whole, codes, 0), (ROWS, COLS // 8))
    else:
        codes = encode(
            ratio, whole, random, STOCHASTIC, SOFTWARE, CLAMP, INTEGER, BITS, MANTISSA, BIAS,
            NAN_CODE, ZERO_CODE, CODE_MAX, ASSEMBLY,
        )  # fmt: skip
        codes = tl.reshape(codes, (ROWS, COLS))
    if ZERO_CODE != 0 and not EVEN:
        # What fills the last byte of a row up is 0, and not the code of zero.
        row = tl.arange(0, ROWS)[:, None]
        col = first_col + tl.arange(0, COLS)[None, :]
        codes = tl.where((row < rows - first_row) & (col < cols), codes, 0)
    if EIGHT:
        store_nibbles(codes_ptr, codes, first_row, first_col, rows, cols, ROWS, COLS, EVEN)
    else:
        store_codes(
            codes_ptr, codes, first_row, first_col, rows, cols, ROWS, COLS, BITS, WORDS, EVEN
        )  # fmt: skip
    if ONE_SCALE:
        zero = tl.zeros((1, 1), tl.int64)
        tl.store(scales_ptr + zero, tl.reshape(scale, (1, 1)), mask=(zero == 0) & writes_scales)
    else:
        store_scales(
            scales_ptr, scale, first_row, first_col, rows, cols, row_stride, col_stride,
            GRID_ROWS, GRID_COLS, BLOCK_ROWS, BLOCK_COLS, SWIZZLED,
        )  # fmt: skip
    return codes, scale
