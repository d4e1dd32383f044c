"""What a launch of the decoded product refuses of its operands and its configuration."""

from collections.abc import Mapping

import torch

from .decoded_element import FOLDED, row_bytes
from .decoded_operand import StoredMatrix
from .launch_checks import OUTPUTS, check_fields, check_given, check_tile_config, power_of_two
from .tile_checks import check_whole

__all__ = ["INNER", "check_config", "check_product"]

#: Fields that a staged configuration hands on to ``gemm_scaled``.
INNER = (
    "block_m",
    "block_n",
    "block_k",
    "group_m",
    "num_warps",
    "num_stages",
    "tma",
    "persistent",
)
_FIELDS = (*INNER, "staged", "native")


def _check_codes(name: str, side: StoredMatrix) -> None:
    codes, element = side.codes, side.element
    check_given(f"{name}.codes", codes)
    if codes.ndim != 2 or codes.numel() == 0:
        raise ValueError(f"{name}.codes must be a non-empty matrix, got {tuple(codes.shape)}")
    if not codes.is_contiguous():
        raise ValueError(f"{name}.codes have strides {codes.stride()}: they must be contiguous")
    if element.kind == "plain":
        if codes.dtype not in (torch.bfloat16, torch.float16):
            raise TypeError(f"{name}.codes have dtype {codes.dtype}: bfloat16 or float16")
        if side.scales is not None:
            raise ValueError(f"{name}: 16-bit operands take no scales")
        wanted = side.columns
    else:
        if codes.dtype != torch.uint8:
            raise TypeError(f"{name}.codes have dtype {codes.dtype}: view them as torch.uint8")
        if element.bits not in (4, 6, 8):
            raise ValueError(f"{name}: elements of {element.bits} bits, of 4, 6 or 8 are decoded")
        wanted = row_bytes(side.columns, element)
    if codes.shape[1] != wanted:
        raise ValueError(
            f"{name}.codes have {codes.shape[1]} items a row: {side.columns} columns of "
            f"{element.bits} bits take {wanted}"
        )


def _check_scales(name: str, side: StoredMatrix) -> None:
    scales, block = side.scales, side.block
    if scales is None and (block != (0, 0) or side.stored != "fp32"):
        raise ValueError(f"{name}.scales are missing: {side.stored} ones of {block} are told of")
    if scales is not None:
        check_given(f"{name}.scales", scales)
        if side.stored not in ("fp32", *FOLDED):
            raise ValueError(f"{name}.stored {side.stored!r}: fp32, e8m0fnu or e4m3fn")
        check_whole(name, (side.rows, side.columns), block)
        dtype = torch.uint8 if side.stored in FOLDED else torch.float32
        if scales.dtype != dtype:
            raise TypeError(f"{name}.scales have dtype {scales.dtype}: {side.stored} are {dtype}")
        if min(block) < 0 or (side.folded and block[1] and not power_of_two(block[1])):
            raise ValueError(
                f"{name}.block {block}: 0 for a whole extent, and folded scales have powers of two "
                "of columns"
            )
        grid = tuple(
            1 if size == 0 else -(-extent // size)
            for extent, size in zip((side.rows, side.columns), block, strict=True)
        )
        if tuple(scales.shape) != grid:
            raise ValueError(
                f"{name}.scales must have shape {grid} for {name}.block {block}, "
                f"got {tuple(scales.shape)}"
            )
    if (side.zero_points is not None) != (side.element.kind == "uint"):
        raise ValueError(f"{name}: unsigned integers, and they alone, take zero_points")
    if side.zero_points is not None:
        check_given(f"{name}.zero_points", side.zero_points)
        if scales is None or block[1] != 0:
            raise ValueError(f"{name}.zero_points go with scales that do not change along K")
        if side.zero_points.dtype != torch.uint8:
            raise TypeError(f"{name}.zero_points have dtype {side.zero_points.dtype}: torch.uint8")
        if side.zero_points.shape != scales.shape or not side.zero_points.is_contiguous():
            raise ValueError(f"{name}.zero_points must be contiguous, shaped as {name}.scales")
    if side.tensor_scale is not None:
        check_given(f"{name}.tensor_scale", side.tensor_scale)
        if not side.folded:
            raise ValueError(f"{name}.tensor_scale stands beside folded scales only")
        if side.tensor_scale.dtype != torch.float32:
            raise TypeError(f"{name}.tensor_scale has dtype {side.tensor_scale.dtype}: fp32")
        if tuple(side.tensor_scale.shape) != (1,):
            raise ValueError(f"{name}.tensor_scale must have shape (1,)")


def check_product(a: StoredMatrix, b: StoredMatrix, c: torch.Tensor) -> None:
    """Refuse operands and an output that do not belong together.

    Raises:
        TypeError, ValueError: the message names the tensor and the rule.
    """
    for name, side in (("a", a), ("b", b)):
        _check_codes(name, side)
        _check_scales(name, side)
    check_given("c", c)
    if c.dtype not in OUTPUTS:
        raise TypeError(f"c has dtype {c.dtype}: choose one of {', '.join(map(str, OUTPUTS))}")
    if a.columns != b.columns:
        raise ValueError(f"a has {a.columns} columns and b {b.columns}: they must be equal")
    if tuple(c.shape) != (a.rows, b.rows):
        raise ValueError(f"c must be {a.rows} x {b.rows}, got shape {tuple(c.shape)}")
    if c.shape[1] > 1 and c.stride(1) != 1:
        raise ValueError(f"c has stride {c.stride(1)} along its columns: rows must be contiguous")
    if c.shape[0] > 1 and c.stride(0) < c.shape[1]:
        raise ValueError(f"c has rows {c.stride(0)} apart, less than its {c.shape[1]} columns")


def check_config(config: Mapping[str, int | bool], num_sms: int | None) -> None:
    """Refuse a configuration that the kernels do not have.

    Raises:
        ValueError: names the field.
    """
    check_fields(config, _FIELDS)
    check_tile_config(config, {"block_m": 16, "block_n": 16, "block_k": 16})
    if (config["tma"] or config["persistent"]) and not config["staged"]:
        raise ValueError("tma and persistent belong to staged configurations")
    if config["native"] and config["staged"]:
        raise ValueError("native and staged exclude each other: take one of them")
    if config["persistent"] and (num_sms is None or num_sms < 1):
        raise ValueError("a persistent config needs num_sms, the number of multiprocessors")
