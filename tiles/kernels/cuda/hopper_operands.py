"""Operands of the Hopper products in CUDA C++: formats, checks and tensor maps.

Tensor maps, which tell the copy engine where a matrix lies, are made by the driver and kept by
address and shape.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any

import numpy as np

from .overlap import check_apart

__all__ = [
    "DTYPES",
    "ELEMENTS",
    "ELEMENT_BYTES",
    "MAX_INT32_K",
    "OUTPUTS",
    "QUANT",
    "ROW_BYTES",
    "SCALES",
    "check_matrix",
    "check_names",
    "check_operands",
    "column_pitch",
    "multiprocessors",
    "row_pitch",
    "tensor_map",
]

#: Operand formats by macro value; bf16 arrives as uint16, 8-bit floats as uint8 views.
ELEMENTS = ("bf16", "fp16", "e4m3fn", "e5m2", "int8")
#: Output formats by macro value; bf16 as a uint16 view.
OUTPUTS = ("bf16", "fp16", "fp32")
#: Scale modes by macro value: none, one each, rows of A and of B, 1x128 and 128x128, 128x128 both.
SCALES = ("none", "tensor", "row", "b1x128", "b128x128")
DTYPES = {
    "bf16": ("uint16",),
    "fp16": ("float16", "uint16"),
    "fp32": ("float32",),
    "e4m3fn": ("uint8",),
    "e5m2": ("uint8",),
    "int8": ("int8",),
}
#: NumPy's one-letter names of the view dtypes: ``dtype.name`` is slow to make.
_LETTERS = {
    name: frozenset(np.dtype(view).char for view in views) for name, views in DTYPES.items()
}
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "e4m3fn": 1, "e5m2": 1, "int8": 1}
#: Bytes of K in a stage, the width of the swizzle, and of a staging buffer's rows.
ROW_BYTES = 128
QUANT = 128
#: An integer sum of this many products of codes up to 127 stays below 2^31.
MAX_INT32_K = (2**31 - 1) // 127**2

# cuda.h: CUtensorMapDataType, CUtensorMapSwizzle, CUtensorMapL2promotion.
_MAP_TYPES = {1: 0, 2: 1, 4: 7}  # UINT8, UINT16, FLOAT32 by element bytes
_SWIZZLE_NONE, _SWIZZLE_128B = 0, 3
_L2_PROMOTION_256B = 3
_MAP_BYTES = 128
_MAP_DTYPE = np.dtype([("bytes", "u1", _MAP_BYTES)])


def check_names(element: str, out: str, scales: str) -> None:
    """Refuse formats and scale modes that the kernel does not have.

    Raises:
        ValueError: names the one and lists the choices.
    """
    for name, value, known in (
        ("element", element, ELEMENTS),
        ("out", out, OUTPUTS),
        ("scales", scales, SCALES),
    ):
        if value not in known:
            raise ValueError(f"{name} {value!r}: choose one of {', '.join(known)}")


@cache
def multiprocessors(device: int) -> int:
    """Multiprocessors of a device."""
    import cupy

    return int(cupy.cuda.Device(device).attributes["MultiProcessorCount"])


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
    swizzled = box[0] * item_bytes == ROW_BYTES and box[1] > 1
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


def check_matrix(name: str, array: Any, item: str, shape: tuple[int, ...]) -> None:
    """Refuse what is not a CuPy array of ``item`` elements and of ``shape``, without extents of 0.

    Raises:
        TypeError, ValueError: the message names the array and the rule.
    """
    if not hasattr(array, "data") or not hasattr(array.data, "ptr"):
        raise TypeError(f"{name} is {type(array).__name__}: it must be a CuPy array")
    if array.dtype.char not in _LETTERS[item]:
        raise TypeError(f"{name} has dtype {array.dtype}: it must be {' or '.join(DTYPES[item])}")
    if array.shape != shape or 0 in shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}: it must be {shape}, not empty")


def row_pitch(array: Any) -> int:
    """Bytes from one row to the next; what a lone row has for a stride means nothing."""
    if array.shape[0] == 1:
        return -(-int(array.shape[1]) * int(array.dtype.itemsize) // 16) * 16
    return int(array.strides[0])


def column_pitch(scale: Any) -> int:
    """Bytes from one column of 1x128 scales to the next; a lone column's stride means nothing."""
    if scale.shape[1] == 1:
        return -(-int(scale.shape[0]) * 4 // 16) * 16
    return int(scale.strides[1])


def check_operands(
    a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, element: str, out: str, scales: str
) -> tuple[int, int, int]:
    """Check the operands of ``launch``.

    Returns:
        M, N and K.
    Raises:
        ValueError, TypeError: names the operand and the rule.
    """
    check_names(element, out, scales)
    for name, array in (("a", a), ("b", b), ("c", c)):
        if getattr(array, "ndim", 2) != 2:
            raise ValueError(f"{name} has {array.ndim} dimensions: it must be a matrix")
    m, k, n = a.shape[0], a.shape[1], b.shape[0]
    check_matrix("a", a, element, (m, k))
    check_matrix("b", b, element, (n, k))
    check_matrix("c", c, out, (m, n))
    for name, array, item in (("a", a, element), ("b", b, element), ("c", c, out)):
        pitch, bytes_each = row_pitch(array), ELEMENT_BYTES[item]
        packed = array.strides[1] == bytes_each or array.shape[1] == 1
        overlapping = pitch < array.shape[1] * bytes_each
        if not packed or overlapping or pitch % 16 or array.data.ptr % 16:
            raise ValueError(
                f"{name}: rows must be contiguous and start at multiples of 16 bytes; they start "
                f"at address {array.data.ptr:#x} and have strides {array.strides}"
            )
    if element == "int8" and scales not in ("b1x128", "b128x128") and k > MAX_INT32_K:
        raise ValueError(f"K = {k}: int32 sums of int8 products could overflow past {MAX_INT32_K}")
    blocks = -(-k // QUANT)
    grids = {
        "none": (None, None),
        "tensor": ((1, 1), (1, 1)),
        "row": ((m, 1), (n, 1)),
        "b1x128": ((m, blocks), (-(-n // QUANT), blocks)),
        "b128x128": ((-(-m // QUANT), blocks), (-(-n // QUANT), blocks)),
    }[scales]
    for name, scale, grid in (("a_scale", a_scale, grids[0]), ("b_scale", b_scale, grids[1])):
        if grid is None:
            if scale is not None:
                raise ValueError(f"{name} is given: scales {scales!r} take none")
            continue
        check_matrix(name, scale, "fp32", grid)
        if name == "a_scale" and scales == "b1x128":
            apart = column_pitch(scale)
            packed = scale.strides[0] == 4 or m == 1
            if not packed or apart < 4 * m or apart % 16 or scale.data.ptr % 16:
                raise ValueError(
                    f"a_scale has strides {scale.strides}: M must be contiguous, its columns a "
                    "multiple of 16 bytes apart and aligned to 16"
                )
        elif not scale.flags.c_contiguous:
            raise ValueError(f"{name} has strides {scale.strides}: it must be row-major")
    arrays = [x for x in (b, c, a_scale, b_scale) if x is not None]
    if any(x.device != a.device for x in arrays):
        raise ValueError("the operands lie on several devices: they must share one")
    check_apart({"c": c}, {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale})
    return m, n, k
