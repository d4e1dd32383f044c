"""Codes of a tile in memory: bytes of 8-bit elements, packed nibbles, four 6-bit codes in 3 bytes.

Codes of a row follow one another bit by bit, the first in the lowest bits of the first byte; rows
are padded to whole bytes with zeros.  Where rows consist of whole 4-byte words, words are moved:
eight 4-bit codes in one, sixteen 6-bit codes in three.
"""

import triton
import triton.language as tl

__all__ = ["WORD_CODES", "load_codes", "row_bytes", "store_codes", "store_nibbles"]

#: Codes that fill whole words, by their width.
WORD_CODES = {4: 8, 6: 16}


def row_bytes(cols: int, bits: int) -> int:
    """Bytes that a row of ``cols`` codes takes."""
    return -(-cols * bits // 8)


@triton.jit
def _pairs(x, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Even and odd columns."""
    return tl.split(tl.reshape(x, (ROWS, COLS // 2, 2)))


@triton.jit
def _zip(even, odd, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Columns of two tiles in turns: the inverse of :func:`_pairs`."""
    return tl.reshape(tl.join(even, odd), (ROWS, COLS))


@triton.jit
def _store(base, value, row, place, stride, rows, places, EVEN: tl.constexpr):
    """Store a tile at rows and places of rows of ``stride``; EVEN: all of it lies inside."""
    if EVEN:
        tl.store(base + (row * stride + place), value)
    else:
        tl.store(base + (row * stride + place), value, mask=(row < rows) & (place < places))


@triton.jit
def _load(base, row, place, stride, rows, places, EVEN: tl.constexpr):
    """Load a tile likewise; what lies outside is zero."""
    if EVEN:
        value = tl.load(base + (row * stride + place))
    else:
        inside = (row < rows) & (place < places)
        value = tl.load(base + (row * stride + place), mask=inside, other=0)
    return value


@triton.jit
def store_nibbles(
    ptr, packed, first_row, first_col, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Store a tile of 4-bit codes that lie in words already, as :func:`store_codes` does."""
    stride = (cols * 4 + 7) // 8 // 4
    row = tl.arange(0, ROWS)[:, None]
    place = first_col // 8 + tl.arange(0, COLS // 8)[None, :]
    words = (ptr + first_row * (stride * 4)).to(tl.pointer_type(tl.int32))
    _store(words, packed, row, place, stride, rows - first_row, stride, EVEN)


@triton.jit
def store_codes(
    ptr, codes, first_row, first_col, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr,
    BITS: tl.constexpr, WORDS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Store a (ROWS, COLS) tile of codes of a ``rows`` x ``cols`` matrix.

    Args:
        ptr: of bytes.
        codes: uint8 of 8 bits, int32 of 4 or 6; zero beyond the matrix.
        WORDS: rows consist of whole words (see the module's docstring) and so does the tile.
        EVEN: the tile lies inside the matrix.
    """
    # Of 8 bits the argument itself, whose multiples the compiler knows.
    stride = cols if BITS == 8 else (cols * BITS + 7) // 8
    row = tl.arange(0, ROWS)[:, None]
    left = rows - first_row  # 64-bit, as the offset of the tile is
    base = ptr + first_row * stride
    if BITS == 8:
        place = first_col + tl.arange(0, COLS)[None, :]
        _store(base, codes, row, place, stride, left, cols, EVEN)
    elif BITS == 4:
        even, odd = _pairs(codes, ROWS, COLS)
        packed = even | (odd << 4)
        if WORDS:
            even, odd = _pairs(packed, ROWS, COLS // 2)
            packed = even | (odd << 8)
            even, odd = _pairs(packed, ROWS, COLS // 4)
            packed = even | (odd << 16)
            store_nibbles(ptr, packed, first_row, first_col, rows, cols, ROWS, COLS, EVEN)
        else:
            place = first_col // 2 + tl.arange(0, COLS // 2)[None, :]
            _store(base, packed.to(tl.uint8), row, place, stride, left, stride, EVEN)
    else:
        even, odd = _pairs(codes, ROWS, COLS)
        packed = even | (odd << 6)
        even, odd = _pairs(packed, ROWS, COLS // 2)
        packed = even | (odd << 12)  # four codes in 24 bits
        if WORDS:
            even, odd = _pairs(packed, ROWS, COLS // 4)
            a, c = _pairs(even, ROWS, COLS // 8)
            b, d = _pairs(odd, ROWS, COLS // 8)
            place = 3 * (first_col // 16 + tl.arange(0, COLS // 16)[None, :])
            words = base.to(tl.pointer_type(tl.int32))
            wide, end = stride // 4, stride // 4
            _store(words, a | (b << 24), row, place, wide, left, end, EVEN)
            _store(words, (b >> 8) | (c << 16), row, place + 1, wide, left, end, EVEN)
            _store(words, (c >> 16) | (d << 8), row, place + 2, wide, left, end, EVEN)
        else:
            place = 3 * (first_col // 4 + tl.arange(0, COLS // 4)[None, :])
            for byte in tl.static_range(3):
                part = (packed >> (8 * byte)).to(tl.uint8)
                _store(base, part, row, place + byte, stride, left, stride, EVEN)


@triton.jit
def load_codes(
    ptr, first_row, first_col, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr,
    BITS: tl.constexpr, WORDS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """The tile that :func:`store_codes` stored: uint8 of 8 bits, int32 of 4 or 6."""
    # Of 8 bits the argument itself, whose multiples the compiler knows.
    stride = cols if BITS == 8 else (cols * BITS + 7) // 8
    row = tl.arange(0, ROWS)[:, None]
    left = rows - first_row
    base = ptr + first_row * stride
    if BITS == 8:
        place = first_col + tl.arange(0, COLS)[None, :]
        codes = _load(base, row, place, stride, left, cols, EVEN)
    elif BITS == 4:
        if WORDS:
            place = first_col // 8 + tl.arange(0, COLS // 8)[None, :]
            words = base.to(tl.pointer_type(tl.int32))
            packed = _load(words, row, place, stride // 4, left, stride // 4, EVEN)
            packed = _zip(packed, packed >> 16, ROWS, COLS // 4)
            packed = _zip(packed, packed >> 8, ROWS, COLS // 2)
        else:
            place = first_col // 2 + tl.arange(0, COLS // 2)[None, :]
            packed = _load(base, row, place, stride, left, stride, EVEN).to(tl.int32)
        codes = _zip(packed & 15, (packed >> 4) & 15, ROWS, COLS)
    else:
        if WORDS:
            place = 3 * (first_col // 16 + tl.arange(0, COLS // 16)[None, :])
            words = base.to(tl.pointer_type(tl.int32))
            wide, end = stride // 4, stride // 4
            # Unsigned: shifts to the right fill with zeros.
            a = _load(words, row, place, wide, left, end, EVEN).to(tl.uint32, bitcast=True)
            b = _load(words, row, place + 1, wide, left, end, EVEN).to(tl.uint32, bitcast=True)
            c = _load(words, row, place + 2, wide, left, end, EVEN).to(tl.uint32, bitcast=True)
            even = _zip(a, (b >> 16) | (c << 16), ROWS, COLS // 8)
            odd = _zip((a >> 24) | (b << 8), c >> 8, ROWS, COLS // 8)
            packed = _zip(even, odd, ROWS, COLS // 4).to(tl.int32, bitcast=True)
        else:
            place = 3 * (first_col // 4 + tl.arange(0, COLS // 4)[None, :])
            packed = tl.zeros((ROWS, COLS // 4), tl.int32)
            for byte in tl.static_range(3):
                part = _load(base, row, place + byte, stride, left, stride, EVEN)
                packed |= part.to(tl.int32) << (8 * byte)
        packed = _zip(packed & 0xFFF, (packed >> 12) & 0xFFF, ROWS, COLS // 2)
        codes = _zip(packed & 63, packed >> 6, ROWS, COLS)
    return codes
