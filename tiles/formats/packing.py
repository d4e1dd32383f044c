"""Packed storage: codes bit by bit, and the scale layout of block-scaled tensor cores.

One implementation serves NumPy arrays and torch tensors: it slices, shifts and reshapes alone.

Codes of a row follow one another bit by bit, the first in the lowest bits of the first byte: 4-bit
codes two a byte, the even element in the low nibble; four 6-bit codes in three bytes,
little-endian.  Rows are padded to whole bytes.

A matrix is worked on in pieces: beside input and result no more than a few bytes for each of
``PIECE_ELEMENTS`` are in use.  Under ``torch.compile`` it is one piece.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiles.intake import shown

if TYPE_CHECKING:
    import torch

__all__ = [
    "PIECE_ELEMENTS",
    "SCALE_TILE",
    "pack_codes",
    "row_bytes",
    "swizzle_scales",
    "unpack_codes",
    "unswizzle_scales",
]

Bytes = TypeVar("Bytes", NDArray[Any], "torch.Tensor")

#: Rows and columns of a tile of swizzled scales.
SCALE_TILE = (128, 4)
#: Codes that are worked on at a time; what fills a GPU, and 4 MB of temporaries.
PIECE_ELEMENTS = 1 << 20
_WIDEST = 16


def row_bytes(cols: int, bits: int) -> int:
    """Bytes that a row of ``cols`` codes takes."""
    return -(-cols * bits // 8)


def _check(what: str, array: Any, item_bits: int) -> None:
    if not (hasattr(array, "ndim") and hasattr(array, "dtype")):
        raise TypeError(
            f"{what} takes an array or a tensor, got {type(array).__name__}: make it one"
        )
    if array.ndim != 2:
        raise ValueError(f"{what} takes a matrix, got shape {tuple(array.shape)}: reshape it first")
    wanted = ("uint8",) if item_bits <= 8 else ("uint16", "int16")
    if str(array.dtype).removeprefix("torch.") not in wanted:
        raise TypeError(
            f"{what} takes {' or '.join(wanted)} here, got {array.dtype}: view the bit patterns"
        )


def _check_width(bits: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise TypeError(f"width {shown(bits)} of a code: an integer of 2 to {_WIDEST}")
    if not 2 <= bits <= _WIDEST:
        raise ValueError(f"codes of 2 to {_WIDEST} bits are packed, not of {bits}: store words")


def _zeros(like: Bytes, shape: tuple[int, ...], bits: int = 8) -> Bytes:
    if isinstance(like, np.ndarray):
        return np.zeros(shape, np.uint8 if bits <= 8 else np.uint16)
    zeros = like.new_zeros(shape)
    return zeros.byte() if bits <= 8 else zeros.short()


def _places(bits: int) -> list[tuple[int, int, int]]:
    """Of eight codes, which fill whole bytes: code, a byte it lies in, its shift to the left.

    A shift to the right is negative.
    """
    return [
        (code, byte, code * bits - byte * 8)
        for code in range(8)
        for byte in range(code * bits // 8, (code * bits + bits - 1) // 8 + 1)
    ]


def _compiling(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return False
    import torch

    return torch.compiler.is_compiling()


def _can_look(codes: Any) -> bool:
    """True where an answer that depends on the codes costs no waiting for a device."""
    return isinstance(codes, np.ndarray) or (codes.device.type == "cpu" and not _compiling(codes))


def _pieces(array: Any, cols: int) -> Iterator[tuple[slice, int, int]]:
    """Rows, first and last column of each piece of a matrix; it begins on a whole byte."""
    rows = array.shape[0]
    if _compiling(array):
        yield slice(0, rows), 0, cols
        return
    wide = min(cols, PIECE_ELEMENTS)
    wide = wide if wide == cols else wide // 8 * 8
    high = max(1, PIECE_ELEMENTS // max(1, wide))
    for top in range(0, rows, high):
        for first in range(0, cols, wide):
            yield slice(top, top + high), first, min(first + wide, cols)


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Pack codes row by row (see the module's docstring).

    Args:
        codes: (rows, cols) bit patterns, NumPy or torch: uint8, from 9 bits on uint16 or int16.
            Bits beyond the width are refused on the host, and cut off on a device and in a
            compiled graph, where looking for them would wait for the device.
        bits: width of a code, 2 to 16.
    Returns:
        (rows, ceil(cols x bits / 8)) uint8, on the same device.
    Raises:
        ValueError: another width, no matrix, or a code that needs more bits.
        TypeError: another dtype.
    """
    _check_width(bits)
    _check("pack_codes", codes, bits)
    packed = _zeros(codes, (codes.shape[0], row_bytes(codes.shape[1], bits)))
    for rows, first, last in _pieces(codes, codes.shape[1]):
        place = packed[rows, first * bits // 8 : row_bytes(last, bits)]
        _pack_piece(codes[rows, first:last], place, bits)
    return packed


def _pack_piece(codes: Any, packed: Any, bits: int) -> None:
    if bits not in (8, 16):
        if not _can_look(codes):
            codes = codes & ((1 << bits) - 1)
        elif ((codes >> bits) != 0).any():
            raise ValueError(f"a code of more than {bits} bits: pass the format's own width")
    for code, byte, shift in _places(bits):
        source = codes[:, code::8]
        target = packed[:, byte::bits][:, : source.shape[1]]
        part = (source << shift if shift >= 0 else source >> -shift) & 0xFF
        target += part.astype(np.uint8) if isinstance(part, np.ndarray) else part.byte()


def unpack_codes(packed: Bytes, bits: int, cols: int) -> Bytes:
    """Codes of what :func:`pack_codes` packed.

    Args:
        packed: (rows, ceil(cols x bits / 8)) uint8.
        cols: codes in a row.
    Returns:
        (rows, cols) uint8; from 9 bits on uint16, or in torch int16.
    Raises:
        ValueError: another width of codes or of rows, or no matrix.
        TypeError: not uint8.
    """
    _check_width(bits)
    _check("unpack_codes", packed, 8)
    if cols < 0:
        raise ValueError(f"{cols} codes in a row: at least 0")
    if packed.shape[1] != row_bytes(cols, bits):
        raise ValueError(
            f"{cols} codes of {bits} bits are packed in {row_bytes(cols, bits)} bytes a row, "
            f"not {packed.shape[1]}"
        )
    codes = _zeros(packed, (packed.shape[0], cols), bits)
    for rows, first, last in _pieces(packed, cols):
        place = packed[rows, first * bits // 8 : row_bytes(last, bits)]
        _unpack_piece(place, codes[rows, first:last], bits)
    return codes


def _unpack_piece(packed: Any, codes: Any, bits: int) -> None:
    for code, byte, shift in _places(bits):
        target = codes[:, code::8]
        part = packed[:, byte::bits][:, : target.shape[1]]
        part = part.astype(target.dtype) if isinstance(part, np.ndarray) else part.to(target.dtype)
        target |= part >> shift if shift >= 0 else part << -shift
    if bits not in (8, 16):
        codes &= (1 << bits) - 1


def swizzle_scales(scales: Bytes) -> Bytes:
    """Lay one-byte block scales out as block-scaled tensor cores read them.

    The matrix is padded with zeros to whole tiles of 128 x 4 scales (128 rows by 4 blocks along K),
    the tiles follow one another row by row, and within one the scale of row ``r``, column ``c`` is
    byte ``(r % 32) * 16 + r // 32 * 4 + c``.  MX (e8m0fnu) and NVFP4 (e4m3fn) scales alike.

    Args:
        scales: (rows, cols) uint8 bit patterns.
    Returns:
        (ceil(rows / 128) x ceil(cols / 4) x 512,) uint8.
    Raises:
        ValueError: no matrix.
        TypeError: not uint8.
    Source: cuBLAS, 1D block scaling factors layout; SWIZZLE_32_4_4 of torch's scaled products.
    """
    _check("swizzle_scales", scales, 8)
    rows, cols = scales.shape
    down, across = -(-rows // SCALE_TILE[0]), -(-cols // SCALE_TILE[1])
    padded = _zeros(scales, (down * SCALE_TILE[0], across * SCALE_TILE[1]))
    padded[:rows, :cols] = scales
    return padded.reshape(down, 4, 32, across, 4).swapaxes(1, 3).reshape(-1)


def unswizzle_scales(swizzled: Bytes, rows: int, cols: int) -> Bytes:
    """The (rows, cols) scales that :func:`swizzle_scales` laid out.

    Raises:
        ValueError: the number of bytes is not that of so many tiles.
        TypeError: not uint8.
    """
    _check(
        "unswizzle_scales", swizzled.reshape(1, -1) if hasattr(swizzled, "reshape") else swizzled, 8
    )
    if rows < 0 or cols < 0:
        raise ValueError(f"scales of {rows}x{cols} blocks: extents of at least 0")
    down, across = -(-rows // SCALE_TILE[0]), -(-cols // SCALE_TILE[1])
    wanted = down * across * SCALE_TILE[0] * SCALE_TILE[1]
    if swizzled.reshape(-1).shape[0] != wanted:
        raise ValueError(
            f"scales of {rows}x{cols} blocks take {wanted} bytes in tiles of 128x4, "
            f"not {swizzled.reshape(-1).shape[0]}"
        )
    tiles = swizzled.reshape(down, across, 32, 4, 4).swapaxes(1, 3)
    return tiles.reshape(down * SCALE_TILE[0], across * SCALE_TILE[1])[:rows, :cols]
