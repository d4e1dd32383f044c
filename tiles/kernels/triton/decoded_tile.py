"""Device functions of the decoded product: a tile of packed codes to 16-bit floats, exactly."""

import triton
import triton.language as tl

from .tile_elements import decode
from .tile_packing import load_codes
from .weight_decode import decode_bytes, decode_halves, scaled

__all__ = ["operand_tile", "outer_scales", "stored_scales"]


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
def _fast_bytes(
    codes, FAST: tl.constexpr, PTX: tl.constexpr, MANTISSA: tl.constexpr, WIDE: tl.constexpr
):
    """Values in WIDE of one code a byte, by instructions for pairs."""
    if FAST == "cast":
        if MANTISSA == 3:
            value = codes.to(tl.float8e4nv, bitcast=True)
        else:
            value = codes.to(tl.float8e5, bitcast=True)
        if WIDE == tl.bfloat16:
            # From fp32 pairs are converted at once, from fp16 one by one.
            return value.to(tl.float32).to(WIDE)
        else:
            return value.to(WIDE)
    elif FAST == "int8":
        return decode_bytes(codes, "int8", WIDE == tl.float16, False)
    else:
        if WIDE == tl.float16:
            return tl.inline_asm_elementwise(
                PTX, "=&r,=&r,r", [codes], dtype=tl.float16, is_pure=True, pack=4
            )
        else:
            return tl.inline_asm_elementwise(
                PTX, "=&r,=&r,r", [codes], dtype=tl.bfloat16, is_pure=True, pack=4
            )


@triton.jit
def _six_words(
    codes, first_row, tile_col, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Four 6-bit codes in 24 bits, (ROWS, COLS / 4), where rows consist of whole words."""
    words = cols // 16 * 3
    row = tl.arange(0, ROWS)[:, None]
    group = tl.arange(0, COLS // 16)[None, :]
    base = (codes + first_row * (words * 4)).to(tl.pointer_type(tl.int32))
    at = base + (row * words + 3 * (tile_col * (COLS // 16) + group))
    if EVEN:
        a, b, c = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    else:
        inside = (row < rows - first_row) & (tile_col * (COLS // 16) + group < cols // 16)
        a = tl.load(at, mask=inside, other=0)
        b = tl.load(at + 1, mask=inside, other=0)
        c = tl.load(at + 2, mask=inside, other=0)
    # What stands above 24 bits is cut off by what decodes them; shifts fill with zeros.
    a = a.to(tl.uint32, bitcast=True)
    b = b.to(tl.uint32, bitcast=True)
    c = c.to(tl.uint32, bitcast=True)
    even = tl.join(a, (b >> 16) | (c << 16))
    odd = tl.join((a >> 24) | (b << 8), c >> 8)
    return tl.reshape(tl.join(even, odd), (ROWS, COLS // 4))


@triton.jit
def _four_values(words, PTX: tl.constexpr, WIDE: tl.constexpr):
    """Values of four codes in 24 bits."""
    if WIDE == tl.float16:
        return tl.inline_asm_elementwise(
            PTX, "=&h,=&h,=&h,=&h,r", [words],
            dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=1,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            PTX, "=&h,=&h,=&h,=&h,r", [words],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=1,
        )  # fmt: skip


@triton.jit
def _fast_values(
    codes, row_bytes, first_row, tile_col, rows, cols, FAST: tl.constexpr, PTX: tl.constexpr,
    MANTISSA: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """A tile's values in WIDE, by instructions for pairs."""
    if FAST == "halves":
        # Byte by byte, in rows and from a column whose multiples the compiler knows.
        packed = load_codes(
            codes, first_row, tile_col * (COLS // 2), rows, row_bytes, ROWS, COLS // 2, 8, False,
            EVEN,
        )  # fmt: skip
        low, high = decode_halves(packed, (0, 0), "e2m1fn", WIDE == tl.float16, False)
        return tl.reshape(tl.join(low, high), (ROWS, COLS))
    elif FAST == "six":
        words = _six_words(codes, first_row, tile_col, rows, cols, ROWS, COLS, EVEN)
        one, two, three, four = _four_values(words, PTX, WIDE)
        return tl.reshape(tl.join(tl.join(one, three), tl.join(two, four)), (ROWS, COLS))
    else:
        word = load_codes(codes, first_row, tile_col * COLS, rows, cols, ROWS, COLS, 8, False, EVEN)
        return _fast_bytes(word, FAST, PTX, MANTISSA, WIDE)


@triton.jit
def stored_scales(
    scales, first_row, tile_col, rows, cols, stride_row, stride_col, STORED: tl.constexpr,
    SCALE_ROWS: tl.constexpr, SCALE_COLS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Bit patterns of a tile's folded scales, (ROWS, blocks along a row); 0 without any."""
    if STORED == "":
        return 0
    else:
        BLOCK_COLS: tl.constexpr = SCALE_COLS if SCALE_COLS < COLS else COLS
        GRID_COLS: tl.constexpr = COLS // BLOCK_COLS
        TILES: tl.constexpr = SCALE_COLS // BLOCK_COLS  # of COLS columns under one scale
        row = tl.minimum(first_row + tl.arange(0, ROWS), rows - 1)
        block = tile_col // TILES * GRID_COLS + tl.arange(0, GRID_COLS)
        # Blocks beyond the last one meet codes of zero: any finite scale will do.
        block = tl.minimum(block, (cols + SCALE_COLS - 1) // SCALE_COLS - 1)
        # 64 bits: where rows of scales are contiguous, a step along K is as long as M.
        at = scales + (row // SCALE_ROWS)[:, None] * stride_row
        return tl.load(at + block[None, :].to(tl.int64) * stride_col)


@triton.jit
def operand_tile(
    codes, words, zeros, row_bytes, first_row, tile_col, rows, cols,
    KIND: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    SPECIALS: tl.constexpr, OFFSET: tl.constexpr, STORED: tl.constexpr, SCALE_ROWS: tl.constexpr,
    SCALE_COLS: tl.constexpr, FAST: tl.constexpr, PTX: tl.constexpr, WORDS: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A (ROWS, COLS) tile of an operand in WIDE, folded scales and zero points included.

    Args:
        words: what :func:`stored_scales` loaded for the tile.
        row_bytes: of a row of codes.
        first_row: 64-bit.
        tile_col: counts tiles of COLS columns.
        STORED: format of folded scales, or "".
        FAST: how codes become WIDE without fp32 between: "cast", "int8", "bytes", "halves", "six"
            or "".
        PTX: instructions of "bytes" and "six".
        EVEN: the tile lies inside the matrix; what lies outside else is zero.
    """
    first_col = tile_col * COLS
    if KIND == "plain":
        row = tl.arange(0, ROWS)[:, None]
        col = first_col + tl.arange(0, COLS)[None, :]
        at = codes + first_row * cols + (row * cols + col)
        if EVEN:
            return tl.load(at).to(WIDE)
        else:
            return tl.load(at, mask=(row < rows - first_row) & (col < cols), other=0.0).to(WIDE)
    else:
        if FAST != "":
            value = _fast_values(
                codes, row_bytes, first_row, tile_col, rows, cols, FAST, PTX, MANTISSA, EVEN, ROWS,
                COLS, WIDE,
            )  # fmt: skip
        else:
            word = load_codes(
                codes, first_row, first_col, rows, cols, ROWS, COLS, BITS, WORDS, EVEN
            )
            value = _values(word, KIND, BITS, MANTISSA, BIAS, SPECIALS, OFFSET)
        if KIND == "uint":
            row = tl.minimum(first_row + tl.arange(0, ROWS), rows - 1)
            value -= tl.load(zeros + row // SCALE_ROWS).to(tl.float32)[:, None]
        if STORED != "":
            BLOCK_COLS: tl.constexpr = SCALE_COLS if SCALE_COLS < COLS else COLS
            GRID_COLS: tl.constexpr = COLS // BLOCK_COLS
            scale = _folded_scale(words, STORED)
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
