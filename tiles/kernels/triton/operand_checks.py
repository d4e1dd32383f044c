"""Checks and compile-time constants of operands and scales that the scaled products share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from .launch_checks import OUTPUTS, check_aligned_rows, check_current_device, check_given

__all__ = [
    "FP8",
    "NAMES",
    "check_grid",
    "check_tensor",
    "flat_descriptor",
    "numeric_constants",
    "tile_constants",
]

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_OPERANDS = (torch.bfloat16, torch.float16, torch.int8, *FP8)
#: Elements that have a decoding.
NAMES = {torch.float8_e4m3fn: "e4m3fn", torch.float8_e5m2: "e5m2"}


def check_tensor(
    name: str, tensor: torch.Tensor, dims: Sequence[int], like: torch.Tensor, *, output: bool
) -> None:
    """Refuse what is not an operand of ``dims`` dimensions with its last extent contiguous.

    Raises:
        TypeError, ValueError: the message names the tensor and the rule.
    """
    check_given(name, tensor)
    check_given("a", like)
    allowed = tuple(OUTPUTS) if output else _OPERANDS
    if tensor.dtype not in allowed:
        choices = ", ".join(str(dtype) for dtype in allowed)
        raise TypeError(f"{name} has dtype {tensor.dtype}: choose one of {choices}")
    if tensor.ndim not in dims or tensor.numel() == 0:
        wanted = " or ".join(map(str, dims))
        raise ValueError(
            f"{name} must have {wanted} dimensions and elements, got shape {tuple(tensor.shape)}"
        )
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(f"{name} has stride {tensor.stride(-1)} along its last extent: must be 1")
    if output and tensor.shape[-2] > 1 and tensor.stride(-2) < tensor.shape[-1]:
        raise ValueError(
            f"{name} has rows {tensor.stride(-2)} apart, less than its {tensor.shape[-1]} columns: "
            "they overlap"
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} lies on {tensor.device} and a on {like.device}: move it there")
    check_current_device(name, tensor)
    if not output and tensor.dtype != like.dtype and not {tensor.dtype, like.dtype} <= set(FP8):
        raise TypeError(
            f"a has dtype {like.dtype} and {name} {tensor.dtype}: no tensor core multiplies these"
        )


def check_grid(
    name: str,
    scale: torch.Tensor | None,
    block: tuple[int, int] | None,
    shape: Sequence[int],
    like: torch.Tensor,
    block_k: int,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    *,
    columns: bool = False,
) -> None:
    """Refuse scales that are not on the grid of ``block`` over the last two of ``shape``.

    Args:
        columns: a block along K may have all rows.

    Raises:
        TypeError, ValueError: the message names the tensor and the rule.
    """
    if (scale is None) != (block is None):
        raise ValueError(f"{name}_scale and {name}_block go together: give both or neither")
    if scale is None or block is None:
        return
    check_given(f"{name}_scale", scale)
    if scale.dtype not in dtypes:
        choices = " or ".join(map(str, dtypes))
        raise TypeError(f"{name}_scale has dtype {scale.dtype}: scales are {choices}")
    if scale.device != like.device:
        raise ValueError(f"{name}_scale lies on {scale.device}, a on {like.device}: move it there")
    if min(block) < 0:
        raise ValueError(f"{name}_block {block}: extents are positive, or 0 for the whole extent")
    sizes = (
        1 if size == 0 else -(-extent // size)
        for extent, size in zip(shape[-2:], block, strict=True)
    )
    grid = (*shape[:-2], *sizes)
    if tuple(scale.shape) != grid:
        raise ValueError(
            f"{name}_scale must have shape {grid} for {name}_block {block}, "
            f"got {tuple(scale.shape)}"
        )
    if block[1] and block[1] % block_k:
        raise ValueError(
            f"block_k {block_k} does not divide the {block[1]} columns under one {name}_scale"
        )
    if block[1] and block[0] == 0 and not columns:
        raise ValueError(f"{name}_block {block}: scales along K come in rows, at least (1, cols)")


def flat_descriptor(name: str, tensor: torch.Tensor, box: list[int]) -> TensorDescriptor:
    """A two-dimensional descriptor over all matrices of a tensor, one under the other.

    Raises:
        ValueError: the matrices do not follow each other row by row, are 2^31 rows or more, or
            rows start off 16 bytes.
    """
    pitch = tensor.stride(-2)
    rows = tensor.shape[-2]
    for extent, stride in zip(
        reversed(tensor.shape[:-2]), reversed(tensor.stride()[:-2]), strict=True
    ):
        if extent > 1 and stride != rows * pitch:
            raise ValueError(
                f"{name}: its matrices lie {stride} elements apart, {rows} rows of {pitch} take "
                f"{rows * pitch}; tma needs them gapless, take a config without tma"
            )
        rows *= extent
    if rows >= 2**31:
        raise ValueError(
            f"{name}: {rows} rows under one descriptor, its coordinates have 31 bits: take a "
            "config without tma"
        )
    check_aligned_rows(name, tensor)
    return TensorDescriptor(tensor, [rows, tensor.shape[-1]], [pitch, 1], box)


def tile_constants(
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    k: int,
) -> dict[str, Any]:
    """Compile-time constants of scales and tiles; a block is (rows, cols), None when unscaled."""
    (a_rows, a_cols), (b_rows, b_cols) = a_block or (0, 0), b_block or (0, 0)
    return {
        "A_SCALED": a_block is not None,
        "B_SCALED": b_block is not None,
        "A_ROWS": a_rows,
        "A_COLS": a_cols,
        "B_ROWS": b_rows,
        "B_COLS": b_cols,
        "BLOCK_M": int(config["block_m"]),
        "BLOCK_N": int(config["block_n"]),
        "BLOCK_K": int(config["block_k"]),
        "GROUP_M": int(config["group_m"]),
        "EVEN_K": k % int(config["block_k"]) == 0,
    }


def numeric_constants(
    a: torch.dtype, b: torch.dtype, c: torch.dtype, *, decode: bool, interpreted: bool
) -> dict[str, Any]:
    """Compile-time constants that say how elements are multiplied and stored."""
    return {
        "INTEGER": a == torch.int8,
        "A_DECODE": NAMES.get(a, "") if decode else "",
        "B_DECODE": NAMES.get(b, "") if decode else "",
        # Triton's interpreter multiplies bf16 wrongly.
        "UPCAST": interpreted and a == torch.bfloat16,
        "OUT": OUTPUTS[c],
    }
