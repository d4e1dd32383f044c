"""Operands of the Hopper product with scales in blocks: formats, and what the launcher refuses."""

from __future__ import annotations

from typing import Any

from .compiler_options import check_choices
from .hopper_grid import check_extents
from .hopper_operands import (
    check_columns,
    check_dimensions,
    check_matrix,
    check_memory,
    check_row_major,
    check_rows,
)
from .tensor_maps import column_pitch, row_pitch

__all__ = ["ELEMENTS", "OUTPUTS", "SCALES", "check_formats", "check_operands"]

#: Operand formats: the view dtype's name, the macro value, log2 of what a product of codes 1 is.
ELEMENTS = {
    "e4m3fn": ("e4m3fn", 2, 0),
    "e5m2": ("e5m2", 3, 0),
    "int8": ("int8", 4, 0),
    "mxint8": ("int8", 4, -12),
}
#: Output formats: the view dtype's name, the macro value, side of a block, stochastic rounding.
OUTPUTS = {
    "bf16": ("bf16", 0, 0, 0),
    "fp16": ("fp16", 1, 0, 0),
    "fp32": ("fp32", 2, 0, 0),
    "int8.b32x32": ("int8", 3, 32, 0),
    "int8.b64x64": ("int8", 3, 64, 0),
    "int8.b128x128": ("int8", 3, 128, 0),
    "int8.b32x32+sr": ("int8", 3, 32, 1),
    "int8.b64x64+sr": ("int8", 3, 64, 1),
    "int8.b128x128+sr": ("int8", 3, 128, 1),
    "e4m3fn.b32x32": ("e4m3fn", 4, 32, 0),
    "e4m3fn.b64x64": ("e4m3fn", 4, 64, 0),
    "e4m3fn.b128x128": ("e4m3fn", 4, 128, 0),
}
#: Scale modes, the same on both sides: rows and elements along K under one scale.
SCALES = {
    "b32x32": (32, 32),
    "b64x64": (64, 64),
    "b128x128": (128, 128),
    "b1x32": (1, 32),
    "b1x128": (1, 128),
}


def check_formats(element: str, out: str, scales: str) -> None:
    """Refuse formats and scale modes that the kernel does not have.

    Raises:
        ValueError: names the one and lists the choices.
    """
    check_choices(
        {"element": (element, ELEMENTS), "out": (out, OUTPUTS), "scales": (scales, SCALES)}
    )


def check_operands(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any,
    b_scale: Any,
    c_scale: Any = None,
    *,
    element: str,
    out: str,
    scales: str,
) -> tuple[int, int, int]:
    """Check the operands of ``gemm_hopper_blocks.launch``.

    Returns:
        M, N and K.
    Raises:
        ValueError, TypeError: names the operand and the rule.
    """
    check_formats(element, out, scales)
    for name, array in (("a", a), ("b", b), ("c", c)):
        check_dimensions(name, array, 2)
    item, out_item, out_block = ELEMENTS[element][0], OUTPUTS[out][0], OUTPUTS[out][2]
    m, k, n = a.shape[0], a.shape[1], b.shape[0]
    for name, array, named, shape in (
        ("a", a, item, (m, k)),
        ("b", b, item, (n, k)),
        ("c", c, out_item, (m, n)),
    ):
        check_matrix(name, array, named, shape)
        check_rows(name, array, named)
    rows, quant_k = SCALES[scales]
    pitches = {"a": row_pitch(a), "b": row_pitch(b), "c": row_pitch(c)}
    for name, scale, extent in (("a_scale", a_scale, m), ("b_scale", b_scale, n)):
        check_matrix(name, scale, "fp32", (-(-extent // rows), -(-k // quant_k)))
        if rows == 1:
            check_columns(name, scale)
            pitches[name] = column_pitch(scale)
        else:
            check_row_major(name, scale)
    if out_block:
        if n % 4:
            raise ValueError(f"N = {n}: codes are written in multiples of 4 columns")
        check_matrix("c_scale", c_scale, "fp32", (-(-m // out_block), -(-n // out_block)))
        check_row_major("c_scale", c_scale)
    elif c_scale is not None:
        raise ValueError(f"c_scale is given: an output of {out} has none")
    check_extents({"M": m, "N": n, "K": k}, pitches)
    written = {"c": c} | ({"c_scale": c_scale} if out_block else {})
    check_memory(written, {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale})
    return m, n, k
