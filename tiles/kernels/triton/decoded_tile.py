"""Device functions of the decoded product: a tile of packed codes to 16-bit floats, exactly."""

import triton
import triton.language as tl

from .tile_elements import decode
from .tile_packing import load_codes
from .weight_decode import decode_bytes, decode_halves, scaled

__all__ = ["operand_tile", "outer_scales"]


@triton.jit
def _posit(code, BITS: tl.constexpr, ES: tl.constexpr):
    """fp32 values of posits: integer operations alone; NaR is NaN.

    The regime's length is the place of the leading one of what follows the sign, complemented where
    the regime consists of ones; the conversion to fp32 finds it.  Regime, exponent and fraction
    then are fp32's own exponent and mantissa, one behind the other.
    """
    SIGN: tl.constexpr = 1 << (BITS - 1)
    word = code.to(tl.int32)
    negative = word >= SIGN
    size = tl.where(negative, 2 * SIGN - word, word)  # NaR and zero are met below
    ones = size >= SIGN // 2
    rest = tl.where(ones, size ^ (SIGN - 1), size)
    place = ((2 * rest + 1).to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    run = BITS - 1 - place
    regime = tl.where(ones, run - 1, -run)
    # Exponent and fraction behind the regime and its end, at the top of 32 bits.
    behind = (size << (32 - BITS + 1)).to(tl.uint32, bitcast=True) << (run + 1).to(tl.uint32)
    tail = (behind >> (9 - ES)).to(tl.int32, bitcast=True)
    bits = (((regime << ES) + 127) << 23) + tail
    bits = tl.where(negative, bits | -2147483648, bits)
    bits = tl.where(word == 0, 0, tl.where(word == SIGN, 0x7FC00000, bits))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _values(
    code, KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    SPECIALS: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """fp32 values of codes: uint8 of 8 bits, int32 of narrower ones."""
    if KIND == "posit":
        value = _posit(code, BITS, MANTISSA)
    elif KIND == "uint":
        value = code.to(tl.float32)
    elif KIND == "int":
        value = decode(code, True, BITS, MANTISSA, 0, -1, OFFSET, True)
    else:
        value = decode(code, False, BITS, MANTISSA, BIAS, -1, 0, True)
        word = code.to(tl.int32)
        magnitude = word & ((1 << (BITS - 1)) - 1)
        LAST: tl.constexpr = (1 << (BITS - 1)) - 1
        if SPECIALS == "fn":
            value = tl.where(magnitude == LAST, float("nan"), value)
        elif SPECIALS == "fnuz":
            value = tl.where(word == LAST + 1, float("nan"), value)
        elif SPECIALS == "ieee":
            INFINITE: tl.constexpr = LAST + 1 - (1 << MANTISSA)
            value = tl.where(magnitude == INFINITE, value * float("inf"), value)
            value = tl.where(magnitude > INFINITE, float("nan"), value)
    return value


@triton.jit
def _folded_scale(stored, STORED: tl.constexpr):
    """fp32 numbers of E8M0 or e4m3fn bit patterns."""
    word = stored.to(tl.int32)
    if STORED == "e8m0fnu":
        # 2^-127 is a subnormal.
        bits = tl.where(word == 0, 0x400000, word << 23)
        value = tl.where(word == 255, 0x7FC00000, bits).to(tl.float32, bitcast=True)
    else:
        value = decode(stored, False, 8, 3, 7, 0x7F, 0, True)
    return value


@triton.jit
def _wide_codes(
    codes, FAST: tl.constexpr, KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    BIAS: tl.constexpr, SPECIALS: tl.constexpr, OFFSET: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Values in WIDE, where a packed or a converting instruction makes them; else in fp32."""
    if FAST == "cast":
        if MANTISSA == 3:
            return codes.to(tl.float8e4nv, bitcast=True).to(WIDE)
        else:
            return codes.to(tl.float8e5, bitcast=True).to(WIDE)
    elif FAST == "int8":
        return decode_bytes(codes, "int8", WIDE == tl.float16, False)
    else:
        return _values(codes, KIND, BITS, MANTISSA, BIAS, SPECIALS, OFFSET)


@triton.jit
def operand_tile(
    codes, scales, zeros, first_row, first_col, rows, cols, stride_row, stride_col,
    KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    SPECIALS: tl.constexpr, OFFSET: tl.constexpr, STORED: tl.constexpr, SCALE_ROWS: tl.constexpr,
    SCALE_COLS: tl.constexpr, FAST: tl.constexpr, WORDS: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A (ROWS, COLS) tile of an operand in WIDE, folded scales and zero points included.

    Args:
        first_row: 64-bit.
        STORED: format of folded scales, or "".
        FAST: how codes become WIDE without fp32 between: "cast", "int8", "halves" or "".
        EVEN: the tile lies inside the matrix; what lies outside else is zero.
    """
    if KIND == "plain":
        row = tl.arange(0, ROWS)[:, None]
        col = first_col + tl.arange(0, COLS)[None, :]
        at = codes + first_row * cols + (row * cols + col)
        if EVEN:
            return tl.load(at).to(WIDE)
        else:
            return tl.load(at, mask=(row < rows - first_row) & (col < cols), other=0.0).to(WIDE)
    else:
        if FAST == "halves":
            # Both codes of a byte at once, then back to the order of columns.
            packed = load_codes(
                codes, first_row, first_col // 2, rows, (cols + 1) // 2, ROWS, COLS // 2, 8, False,
                EVEN,
            )  # fmt: skip
            low, high = decode_halves(packed, (0, 0), "e2m1fn", WIDE == tl.float16, False)
            value = tl.reshape(tl.join(low, high), (ROWS, COLS))
        else:
            word = load_codes(
                codes, first_row, first_col, rows, cols, ROWS, COLS, BITS, WORDS, EVEN
            )
            value = _wide_codes(word, FAST, KIND, BITS, MANTISSA, BIAS, SPECIALS, OFFSET, WIDE)
        row = tl.minimum(first_row + tl.arange(0, ROWS), rows - 1)
        if KIND == "uint":
            value -= tl.load(zeros + row // SCALE_ROWS).to(tl.float32)[:, None]
        if STORED != "":
            BLOCK_COLS: tl.constexpr = SCALE_COLS if SCALE_COLS < COLS else COLS
            GRID_COLS: tl.constexpr = COLS // BLOCK_COLS
            grid_cols = (cols + SCALE_COLS - 1) // SCALE_COLS
            block = first_col // SCALE_COLS + tl.arange(0, GRID_COLS)
            at = scales + (row // SCALE_ROWS)[:, None] * stride_row
            # Blocks beyond the last one meet codes of zero: any finite scale will do.
            block = tl.minimum(block, grid_cols - 1)
            scale = _folded_scale(tl.load(at + block[None, :] * stride_col), STORED)
            parts = tl.reshape(value, (ROWS, GRID_COLS, BLOCK_COLS))
            if FAST == "":
                parts = parts * scale[:, :, None]
            else:
                if FAST == "int8":
                    scale *= 2.0**-MANTISSA  # of a power of two: exact
                parts = scaled(parts, scale.to(WIDE)[:, :, None], WIDE == tl.float16, False)
            value = tl.reshape(parts, (ROWS, COLS))
        if not EVEN and (KIND == "uint" or OFFSET != 0):
            col = first_col + tl.arange(0, COLS)[None, :]
            value = tl.where(col < cols, value, 0.0)
        return value.to(WIDE)


@triton.jit
def outer_scales(
    scales, first, extent, stride, SCALE_ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """fp32 scales of BLOCK rows from ``first`` on, none of them beyond ``extent``."""
    row = tl.minimum(first + tl.arange(0, BLOCK), extent - 1)
    return tl.load(scales + (row // SCALE_ROWS).to(tl.int64) * stride)
