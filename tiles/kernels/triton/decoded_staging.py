"""Staged configurations of the decoded product: both operands to 16-bit floats in a workspace."""

from collections.abc import Mapping

import torch
import triton

from .decoded_call import Call, Pass
from .decoded_checks import INNER
from .decoded_constants import WIDE, constants, pointers, scale_strides, wide_name
from .decoded_operand import StoredMatrix

__all__ = ["TILE", "pitch", "staged", "workspace_bytes"]

#: Tile and warps of the decoding pass: 32 elements a thread, four 16-byte stores.
TILE, _WARPS = (8, 512), 4


def pitch(columns: int) -> int:
    """Elements from row to row of a decoded operand: multiples of 16 bytes."""
    return -(-columns // 8) * 8


def _side_bytes(rows: int, columns: int) -> int:
    return -(-2 * rows * pitch(columns) // 128) * 128


def workspace_bytes(config: Mapping[str, int | bool], m: int, n: int, k: int) -> int:
    """Bytes of workspace that a launch needs: both operands as 16-bit floats."""
    return _side_bytes(m, k) + _side_bytes(n, k) if config["staged"] else 0


def _decoding(side: StoredMatrix, out: torch.Tensor, wide: str, capability: int) -> Pass:
    """The pass that writes an operand to ``out``."""
    renamed = {"ROWS": "SCALE_ROWS", "COLS": "SCALE_COLS"}
    found = constants(side, TILE, wide, capability)
    made = {renamed.get(name, name): value for name, value in found.items()}
    across = triton.cdiv(side.columns, TILE[1])
    positional = (
        *pointers(side),
        out,
        side.codes.stride(0),
        side.rows,
        side.columns,
        *scale_strides(side),
        out.stride(0),
        across,
    )
    made |= {"TILE_ROWS": TILE[0], "TILE_COLS": TILE[1], "num_warps": _WARPS}
    return triton.cdiv(side.rows, TILE[0]) * across, positional, made


def staged(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None,
    num_sms: int | None,
    capability: int,
) -> Call:
    """The decoding passes and the product of what they leave in the workspace.

    Raises:
        TypeError, ValueError: the workspace does not do.
    """
    needed = workspace_bytes(config, a.rows, b.rows, a.columns)
    if workspace is None:
        raise ValueError(f"staged configurations need a workspace of {needed} bytes")
    if workspace.dtype != torch.uint8:
        raise TypeError(f"workspace has dtype {workspace.dtype}: it must be torch.uint8")
    if workspace.ndim != 1 or not workspace.is_contiguous() or workspace.numel() < needed:
        raise ValueError(
            f"workspace must be {needed} contiguous bytes or more, got {tuple(workspace.shape)}"
        )
    if workspace.device.type != "meta" and workspace.data_ptr() % 16:
        raise ValueError("workspace must begin at a multiple of 16 bytes")
    name = wide_name(a, b)
    dtype = WIDE[name][0]
    passes, decoded, start = [], [], 0
    for side in (a, b):
        size = _side_bytes(side.rows, side.columns)
        if side.element.kind == "plain":
            decoded.append(side.codes)
        else:
            rows = workspace[start : start + 2 * side.rows * pitch(side.columns)].view(dtype)
            wide = rows.view(side.rows, pitch(side.columns))[:, : side.columns]
            decoded.append(wide)
            passes.append(_decoding(side, wide, name, capability))
        start += size
    (a_outer, a_block), (b_outer, b_block) = a.outer, b.outer
    return Call(
        passes=tuple(passes),
        kernel="staged",
        positional=(*decoded, c, a_outer, b_outer),
        keywords={
            "a_block": a_block,
            "b_block": b_block,
            "config": {name: config[name] for name in INNER},
            "num_sms": num_sms,
        },
    )
