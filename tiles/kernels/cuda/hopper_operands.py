"""Operands of the Hopper products in CUDA C++: what the launchers refuse of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .block_arrays import check_one_device
from .compiler_options import check_choices
from .hopper_formats import (
    BOTH,
    DTYPES,
    ELEMENT_BYTES,
    ELEMENTS,
    MAX_INT32_K,
    MX,
    MX_QUANT,
    OUTPUTS,
    QUANT,
    SCALES,
)
from .hopper_grid import check_extents
from .overlap import check_apart
from .tensor_maps import column_pitch, row_pitch

__all__ = [
    "check_columns",
    "check_dimensions",
    "check_formats",
    "check_int32_sums",
    "check_matrix",
    "check_memory",
    "check_operands",
    "check_row_major",
    "check_rows",
    "check_scales",
]

#: NumPy's one-letter names of the view dtypes: ``dtype.name`` is slow to make.
_LETTERS = {
    name: frozenset(np.dtype(view).char for view in views) for name, views in DTYPES.items()
}


def check_formats(element: str, out: str, scales: str, modes: Sequence[str] = SCALES) -> None:
    """Refuse formats and scale modes that a kernel does not have.

    Args:
        modes: the kernel's scale modes.
    Raises:
        ValueError: names the one and lists the choices.
    """
    check_choices(
        {"element": (element, ELEMENTS), "out": (out, OUTPUTS), "scales": (scales, modes)}
    )


def check_dimensions(name: str, array: Any, dimensions: int) -> None:
    """Refuse an array of another number of dimensions, and what has none.

    Raises:
        TypeError, ValueError: names it.
    """
    if not hasattr(array, "ndim"):
        raise TypeError(f"{name} is {type(array).__name__}: it must be a CuPy array")
    if array.ndim != dimensions:
        raise ValueError(f"{name} has {array.ndim} dimensions: it must have {dimensions}")


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


def check_rows(name: str, array: Any, item: str) -> None:
    """Refuse rows that the copy engine cannot reach, and matrices with gaps between them.

    Args:
        array: (..., rows, columns); of three dimensions, matrices that follow each other.
    Raises:
        ValueError: names the array.
    """
    pitch, bytes_each = row_pitch(array), ELEMENT_BYTES[item]
    packed = array.strides[-1] == bytes_each or array.shape[-1] == 1
    overlapping = pitch < array.shape[-1] * bytes_each
    if not packed or overlapping or pitch % 16 or array.data.ptr % 16:
        raise ValueError(
            f"{name}: rows must be contiguous and start at multiples of 16 bytes; they start "
            f"at address {array.data.ptr:#x} and have strides {array.strides}"
        )
    apart = array.ndim == 3 and array.shape[0] > 1 and array.strides[0] != array.shape[1] * pitch
    if apart:
        raise ValueError(f"{name} has strides {array.strides}: its matrices must follow each other")


def check_row_major(name: str, scale: Any) -> None:
    """Refuse scales that are not C-contiguous.

    Raises:
        ValueError: names them.
    """
    if not scale.flags.c_contiguous:
        raise ValueError(f"{name} has strides {scale.strides}: it must be row-major")


def check_columns(name: str, scale: Any) -> None:
    """Refuse 1xB scales whose columns the copy engine cannot reach.

    Args:
        scale: (..., rows, columns), each column contiguous; of three dimensions, grids that follow
            each other.
    Raises:
        ValueError: names them.
    """
    rows, columns = scale.shape[-2:]
    apart = column_pitch(scale)
    packed = scale.strides[-2] == 4 or rows == 1
    if not packed or apart < 4 * rows or apart % 16 or scale.data.ptr % 16:
        raise ValueError(
            f"{name} has strides {scale.strides}: its columns must be contiguous, a multiple of 16 "
            "bytes apart and aligned to 16"
        )
    if scale.ndim == 3 and scale.shape[0] > 1 and scale.strides[0] != columns * apart:
        raise ValueError(f"{name} has strides {scale.strides}: experts must follow each other")


def check_int32_sums(element: str, scales: str, k: int) -> None:
    """Refuse integer sums along all of K that could overflow.

    Raises:
        ValueError: names K.
    """
    if element == "int8" and scales not in ("b1x128", "b128x128", BOTH, MX) and k > MAX_INT32_K:
        raise ValueError(f"K = {k}: int32 sums of int8 products could overflow past {MAX_INT32_K}")


def check_scales(a: Any, b: Any, a_scale: Any, b_scale: Any, scales: str) -> None:
    """Refuse scales that do not lie on the mode's grids, in its layout.

    Args:
        a, b: (..., rows, K).
    Raises:
        TypeError, ValueError: names the scales and the rule.
    """
    (*lead_a, m, k), (*lead_b, n, _) = a.shape, b.shape
    blocks, mx_blocks = -(-k // QUANT), -(-k // MX_QUANT)
    grids = {
        "none": (None, None),
        "tensor": ((1, 1), (1, 1)),
        "row": ((m, 1), (n, 1)),
        "b1x128": ((m, blocks), (-(-n // QUANT), blocks)),
        "b128x128": ((-(-m // QUANT), blocks), (-(-n // QUANT), blocks)),
        BOTH: ((m, blocks), (n, blocks)),
        MX: ((m, mx_blocks), (n, mx_blocks)),
    }[scales]
    for name, scale, lead, grid in (
        ("a_scale", a_scale, lead_a, grids[0]),
        ("b_scale", b_scale, lead_b, grids[1]),
    ):
        if grid is None:
            if scale is not None:
                raise ValueError(f"{name} is given: scales {scales!r} take none")
            continue
        check_matrix(name, scale, "e8m0fnu" if scales == MX else "fp32", (*lead, *grid))
        if scales == BOTH or (name == "a_scale" and scales == "b1x128"):
            check_columns(name, scale)
        else:
            check_row_major(name, scale)


def check_memory(written: dict[str, Any], read: dict[str, Any]) -> None:
    """Refuse arrays on several devices, and outputs that share memory; ``None`` is absent.

    Raises:
        ValueError: names them.
    """
    given = {name: x for name, x in {**read, **written}.items() if x is not None}
    check_one_device(given)
    check_apart(written, read)


def check_operands(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    element: str,
    out: str,
    scales: str,
    modes: Sequence[str] = SCALES,
) -> tuple[int, int, int]:
    """Check the operands of a plain product's ``launch``.

    Args:
        modes: the kernel's scale modes.
    Returns:
        M, N and K.
    Raises:
        ValueError, TypeError: names the operand and the rule.
    """
    check_formats(element, out, scales, modes)
    for name, array in (("a", a), ("b", b), ("c", c)):
        check_dimensions(name, array, 2)
    m, k, n = a.shape[0], a.shape[1], b.shape[0]
    for name, array, item, shape in (
        ("a", a, element, (m, k)),
        ("b", b, element, (n, k)),
        ("c", c, out, (m, n)),
    ):
        check_matrix(name, array, item, shape)
        check_rows(name, array, item)
    check_int32_sums(element, scales, k)
    check_scales(a, b, a_scale, b_scale, scales)
    pitches = {"a": row_pitch(a), "b": row_pitch(b), "c": row_pitch(c)}
    if scales in ("b1x128", BOTH):
        pitches["a_scale"] = column_pitch(a_scale)
    if scales == BOTH:
        pitches["b_scale"] = column_pitch(b_scale)
    check_extents({"M": m, "N": n, "K": k}, pitches)
    check_memory({"c": c}, {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale})
    return m, n, k
