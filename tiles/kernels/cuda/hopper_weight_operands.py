"""Operands of the weight-only product in CUDA C++: what the launcher refuses of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from .compiler_options import check_choices
from .hopper_grid import check_extents
from .hopper_operands import (
    check_dimensions,
    check_matrix,
    check_memory,
    check_row_major,
    check_rows,
)
from .tensor_maps import row_pitch

__all__ = [
    "COUNTED_TILES",
    "ELEMENTS",
    "GROUPS",
    "PANEL_BYTES",
    "ROWS_MULTIPLE",
    "SCALES",
    "SCALE_BYTES",
    "WEIGHTS",
    "check_group",
    "check_operands",
    "check_workspace",
    "panel_columns",
]

#: Activations, weights and scale formats by macro value; "": no groups along K.
ELEMENTS = ("bf16", "fp16")
WEIGHTS = ("int4", "uint4", "e2m1fn", "int8", "e4m3fn")
SCALES = ("", "fp32", "fp16", "bf16", "e8m0fnu", "e4m3fn")
SCALE_BYTES = {"": 0, "fp32": 4, "fp16": 2, "bf16": 2, "e8m0fnu": 1, "e4m3fn": 1}
#: Bytes of a row of a panel, and groups below a panel that 4-bit codes may have.
PANEL_BYTES = 64
GROUPS = (16, 32, 64)
#: Rows of weights come in these: every panel's scales then start at a multiple of 16 bytes.
ROWS_MULTIPLE = 16
#: Tiles that CTAs may share: a workspace begins with so many counters.
COUNTED_TILES = 2**14
#: How the launchers name 8-bit patterns among the views of ``hopper_formats``.
_BYTES = "e4m3fn"


def panel_columns(weight: str) -> int:
    """Columns of a panel."""
    return 2 * PANEL_BYTES if weight in ("int4", "uint4", "e2m1fn") else PANEL_BYTES


def check_group(weight: str, scale_format: str, group: int) -> None:
    """Refuse weights, scale formats and groups that the kernel does not have together.

    Raises:
        ValueError: names the one and its choices.
    """
    check_choices({"weight": (weight, WEIGHTS), "scale_format": (scale_format, SCALES)})
    panel = panel_columns(weight)
    small = GROUPS if panel == 2 * PANEL_BYTES else ()
    if group not in small and (group < 0 or group % panel):
        raise ValueError(
            f"group = {group} of {weight}: a multiple of {panel}, 0 without groups"
            + "".join(f", or {one}" for one in small)
        )
    if bool(group) != bool(scale_format):
        raise ValueError(
            f"scale_format {scale_format!r} and group = {group}: a format goes with groups"
        )
    if weight == "uint4" and not group:
        raise ValueError("group = 0 of uint4: zero points go with groups along K")


def check_operands(
    x: Any,
    codes: Any,
    c: Any,
    scale: Any = None,
    zero: Any = None,
    *,
    row_scale: Any,
    element: str,
    out: str,
    weight: str,
    scale_format: str,
    group: int,
) -> tuple[int, int, int]:
    """Check the operands of a launch.

    Returns:
        M, N and K.
    Raises:
        ValueError, TypeError: names the operand and the rule.
    """
    check_group(weight, scale_format, group)
    if element == "fp16" and scale_format == "e8m0fnu":
        raise ValueError("scale_format 'e8m0fnu' needs the range of bf16: element is fp16")
    for name, array, dimensions in (("x", x, 2), ("codes", codes, 3), ("c", c, 2)):
        check_dimensions(name, array, dimensions)
    (m, k), n = x.shape, codes.shape[1]
    panel = panel_columns(weight)
    panels = -(-k // panel)
    check_matrix("x", x, element, (m, k))
    check_matrix("codes", codes, _BYTES, (panels, n, PANEL_BYTES))
    check_matrix("c", c, out, (m, n))
    check_matrix("row_scale", row_scale, "fp32", (n,))
    if n % ROWS_MULTIPLE:
        raise ValueError(f"N = {n}: rows of weights come in multiples of {ROWS_MULTIPLE}")
    grid: tuple[int, ...] = (-(-k // group), n) if group >= panel else (panels, n)
    if 0 < group < panel:
        grid = (panels, n, panel // group)
    item = {"": "", "e8m0fnu": _BYTES, "bf16": "bf16"}.get(scale_format, scale_format)
    held = {"codes": codes, "row_scale": row_scale}
    for name, array, wanted, kind in (
        ("scale", scale, bool(group), item),
        ("zero", zero, weight == "uint4", _BYTES),
    ):
        if (array is not None) != wanted:
            raise ValueError(
                f"{name} is {'missing' if wanted else 'given'}: {weight} weights with groups of "
                f"{group} take {'one' if wanted else 'none'}"
            )
        if array is not None:
            check_matrix(name, array, kind, grid)
            held[name] = array
    for name, array in held.items():
        check_row_major(name, array)
        if array.data.ptr % 16:
            raise ValueError(f"{name} starts at {array.data.ptr:#x}: not a multiple of 16 bytes")
    for name, array, kind in (("x", x, element), ("c", c, out)):
        check_rows(name, array, kind)
    check_extents({"M": m, "N": n, "K": k}, {"x": row_pitch(x), "c": row_pitch(c)})
    check_memory({"c": c}, {"x": x, **held})
    return m, n, k


def check_workspace(
    workspace: Any, words: int, written: dict[str, Any], read: dict[str, Any]
) -> None:
    """Refuse a workspace that does not fit; ``words`` of 0: none is needed, or looked at.

    Raises:
        ValueError, TypeError: names the rule.
    """
    if not words:
        return
    if workspace is None:
        raise ValueError(f"workspace is missing: per_sm needs {words} int32 zeros")
    check_dimensions("workspace", workspace, 1)
    if workspace.dtype != np.int32:
        raise TypeError(f"workspace has dtype {workspace.dtype}: it must be int32")
    if workspace.shape[0] < words or not workspace.flags.c_contiguous or workspace.data.ptr % 16:
        raise ValueError(
            f"workspace has shape {tuple(workspace.shape)}: {words} contiguous words or more, "
            "aligned to 16 bytes"
        )
    check_memory({**written, "workspace": workspace}, read)
