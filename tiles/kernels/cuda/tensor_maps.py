"""Tensor maps, which tell the copy engine where a matrix lies.

The driver makes them; they are kept by address and shape.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any

import numpy as np

__all__ = ["MAX_PITCH_BYTES", "SWIZZLE_BYTES", "column_pitch", "row_pitch", "tensor_map"]

#: Rows lie less than this apart (CUDA driver API, cuTensorMapEncodeTiled, globalStrides).
MAX_PITCH_BYTES = 2**40
SWIZZLE_BYTES = 128

# cuda.h: CUtensorMapDataType, CUtensorMapSwizzle, CUtensorMapL2promotion.
_MAP_TYPES = {1: 0, 2: 1, 4: 7}  # UINT8, UINT16, FLOAT32 by element bytes
_SWIZZLE_NONE, _SWIZZLE_128B = 0, 3
_L2_PROMOTION_256B = 3
_MAP_BYTES = 128
_MAP_DTYPE = np.dtype([("bytes", "u1", _MAP_BYTES)])


@cache
def _encoder() -> Any:
    """``cuTensorMapEncodeTiled`` of the installed driver."""
    encode = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    encode.restype = ctypes.c_int
    return encode


@lru_cache(maxsize=4096)
def tensor_map(
    pointer: int, item_bytes: int, inner: int, outer: int, row_bytes: int, box: tuple[int, int]
) -> Any:
    """Tensor map of a matrix, as the kernel takes it by value.

    Args:
        inner, outer: elements of a row, and rows.
        row_bytes: from one row to the next.
        box: elements and rows of a tile; tiles 128 bytes wide are swizzled.
    Raises:
        ValueError: the driver refuses these numbers.
    """
    memory = (ctypes.c_uint8 * (_MAP_BYTES + 64))()
    aligned = ctypes.addressof(memory) + -ctypes.addressof(memory) % 64
    swizzled = box[0] * item_bytes == SWIZZLE_BYTES and box[1] > 1
    result = _encoder()(
        ctypes.c_void_p(aligned),
        _MAP_TYPES[item_bytes],
        2,
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * 2)(inner, outer),
        (ctypes.c_uint64 * 1)(row_bytes),
        (ctypes.c_uint32 * 2)(*box),
        (ctypes.c_uint32 * 2)(1, 1),
        0,  # not interleaved
        _SWIZZLE_128B if swizzled else _SWIZZLE_NONE,
        _L2_PROMOTION_256B,
        0,  # what lies outside is zero
    )
    if result:
        raise ValueError(
            f"the driver refuses a tensor map of {outer} x {inner} elements of {item_bytes} bytes, "
            f"rows {row_bytes} bytes apart, tile {box}: error {result}"
        )
    raw = ctypes.string_at(aligned, _MAP_BYTES)
    return np.frombuffer(raw, _MAP_DTYPE)[0]


def row_pitch(array: Any) -> int:
    """Bytes from one row to the next; what a lone row has for a stride means nothing.

    Args:
        array: (..., rows, columns).
    """
    if array.shape[-2] == 1:
        return -(-int(array.shape[-1]) * int(array.dtype.itemsize) // 16) * 16
    return int(array.strides[-2])


def column_pitch(scale: Any) -> int:
    """Bytes from one column of 1xB scales to the next; a lone column's stride means nothing.

    Args:
        scale: (..., rows, columns) float32.
    """
    if scale.shape[-1] == 1:
        return -(-int(scale.shape[-2]) * 4 // 16) * 16
    return int(scale.strides[-1])
