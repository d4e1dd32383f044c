"""Checks the tensors of a product with outliers apart and makes kernel arguments of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import triton

from .launch_checks import (
    OUTPUTS,
    check_fields,
    check_given,
    check_integer_sums,
    check_memory,
    check_tile_config,
)
from .operand_checks import check_grid, check_tensor, flat_descriptor
from .outlier_operands import COLUMN_STEP, FallbackBlocks, KeptColumns

__all__ = ["Launch", "arguments"]

_KEPT = (torch.float16, torch.bfloat16)
_FIELDS = (
    "block_m",
    "block_n",
    "block_k",
    "outlier_k",
    "group_m",
    "num_warps",
    "num_stages",
    "tma",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a kernel is launched with."""

    columns: bool  #: kept columns, not fallback blocks
    grid: int
    positional: list[Any]
    keywords: dict[str, Any]


def _check_whole(
    name: str, tensor: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    """Refuse what is not contiguous memory of that dtype and shape."""
    check_given(name, tensor)
    if tensor.dtype != dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}: it must be {dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: it must be contiguous")


def _check_product(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    for name, codes in (("a", a), ("b", b)):
        check_given(name, codes)
        if codes.dtype != torch.int8:
            raise TypeError(f"{name} has dtype {codes.dtype}: it must be torch.int8")
        check_tensor(name, codes, (2,), a, output=False)
    check_tensor("c", c, (2,), a, output=True)
    (m, k), (n, k_b) = a.shape, b.shape
    if k != k_b:
        raise ValueError(f"a is {m} x {k} and b {n} x {k_b}: the second extents must be equal")
    if tuple(c.shape) != (m, n):
        raise ValueError(f"c must be {m} x {n}, got shape {tuple(c.shape)}")


def _check_config(config: Mapping[str, int | bool]) -> None:
    check_fields(config, _FIELDS)
    check_tile_config(config, {"block_m": 16, "block_n": 16, "block_k": 32, "outlier_k": 16})


def _check_columns(
    kept: KeptColumns,
    a: torch.Tensor,
    b: torch.Tensor,
    blocks: Mapping[str, tuple[int, int]],
    outlier_k: int,
) -> None:
    for name, block in blocks.items():
        if block not in ((0, 0), (1, 0)):
            raise ValueError(
                f"{name} {block}: beside kept columns scales cover a tensor (0, 0) or a row (1, 0)"
            )
    for name, tensor, rows in (("a", kept.a, len(a)), ("b", kept.b, len(b))):
        check_given(f"outliers.{name}", tensor)
        if tensor.dtype not in _KEPT:
            choices = " or ".join(map(str, _KEPT))
            raise TypeError(f"outliers.{name} has dtype {tensor.dtype}: it must be {choices}")
        check_tensor(f"outliers.{name}", tensor, (2,), tensor, output=False)
        if tensor.shape[0] != rows or tensor.shape[1] % COLUMN_STEP:
            raise ValueError(
                f"outliers.{name} must have {rows} rows and a multiple of {COLUMN_STEP} columns, "
                f"got shape {tuple(tensor.shape)}"
            )
    if kept.a.dtype != kept.b.dtype:
        raise TypeError(f"outliers.a has dtype {kept.a.dtype} and outliers.b {kept.b.dtype}")
    if kept.a.shape[1] != kept.b.shape[1]:
        raise ValueError(
            f"outliers.a has {kept.a.shape[1]} columns and outliers.b {kept.b.shape[1]}: "
            "they must be equal"
        )
    _check_whole("outliers.count", kept.count, torch.int32, (1,))
    if COLUMN_STEP % outlier_k:
        raise ValueError(f"outlier_k = {outlier_k}: over kept columns at most {COLUMN_STEP}")


def _check_blocks(
    fallback: FallbackBlocks,
    a: torch.Tensor,
    a_block: tuple[int, int],
    b_block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> None:
    for name, block, tile in (("a_block", a_block, "block_m"), ("b_block", b_block, "block_n")):
        if min(block) < 1:
            raise ValueError(
                f"{name} {block}: beside fallback blocks both sides have scales of blocks"
            )
        for extent, field in zip(block, (tile, "block_k"), strict=True):
            if extent % int(config[field]):
                raise ValueError(f"{field} = {config[field]}: it must divide {name} {block}")
    if config["outlier_k"] != config["block_k"]:
        raise ValueError(
            f"outlier_k = {config['outlier_k']}: beside fallback blocks it must be block_k, "
            f"{config['block_k']}"
        )
    capacity = fallback.codes.shape[0]
    if not capacity:
        raise ValueError("outliers.codes has room for no block: it needs one at least")
    _check_whole("outliers.codes", fallback.codes, torch.int8, (capacity, *a_block))
    _check_whole("outliers.scales", fallback.scales, torch.float32, (capacity,))
    _check_whole("outliers.columns", fallback.columns, torch.int32, (capacity,))
    block_rows = -(-len(a) // a_block[0])
    _check_whole("outliers.offsets", fallback.offsets, torch.int32, (block_rows + 1,))


def arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    outliers: KeptColumns | FallbackBlocks,
    *,
    a_block: tuple[int, int],
    b_block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> Launch:
    """Check everything, then return what the kernel takes.

    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, scale grids or config do not fit together.
    """
    _check_config(config)
    _check_product(a, b, c)
    block_k = int(config["block_k"])
    check_grid("a", a_scale, a_block, a.shape, a, block_k)
    check_grid("b", b_scale, b_block, b.shape, a, block_k)
    if isinstance(outliers, KeptColumns):
        named = {"a_block": a_block, "b_block": b_block}
        _check_columns(outliers, a, b, named, int(config["outlier_k"]))
    else:
        _check_blocks(outliers, a, a_block, b_block, config)
    check_integer_sums(a.dtype, a.shape[1], a_block, b_block)
    read = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale}
    read |= {f"outliers.{name}": tensor for name, tensor in outliers.tensors.items()}
    check_memory({"c": c}, read)
    return _launch(a, b, c, a_scale, b_scale, outliers, a_block, b_block, config)


def _launch(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor,
    b_scale: torch.Tensor,
    outliers: KeptColumns | FallbackBlocks,
    a_block: tuple[int, int],
    b_block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> Launch:
    (m, k), n = a.shape, b.shape[0]
    block_m, block_n, block_k = (int(config[name]) for name in ("block_m", "block_n", "block_k"))
    operands: list[Any] = [a, b, c]
    if config["tma"]:
        boxes = ([block_m, block_k], [block_n, block_k], [block_m, block_n])
        operands = list(map(flat_descriptor, "abc", operands, boxes))
    positional = [
        *operands,
        a_scale,
        b_scale,
        m,
        n,
        k,
        a.stride(0),
        b.stride(0),
        c.stride(0),
        *a_scale.stride(),
        *b_scale.stride(),
    ]
    keywords: dict[str, Any] = {
        "A_ROWS": a_block[0],
        "B_ROWS": b_block[0],
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": int(config["group_m"]),
        "TMA": bool(config["tma"]),
        "EVEN_K": k % block_k == 0,
        "OUT": OUTPUTS[c.dtype],
        "num_warps": int(config["num_warps"]),
        "num_stages": int(config["num_stages"]),
    }
    if isinstance(outliers, KeptColumns):
        kept = outliers
        strides = (kept.a.stride(0), kept.b.stride(0))
        positional += [kept.a, kept.b, kept.count, kept.a.shape[1], *strides]
        keywords["OUTLIER_K"] = int(config["outlier_k"])
        # The interpreter's bf16 products are wrong.
        keywords["UPCAST"] = a.device.type == "cpu" and kept.a.dtype == torch.bfloat16
    else:
        positional += [*outliers.tensors.values(), len(outliers.codes)]
        keywords |= {"A_COLS": a_block[1], "B_COLS": b_block[1]}
        keywords["EVEN_BLOCKS"] = k % a_block[1] == 0
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    return Launch(
        columns=isinstance(outliers, KeptColumns),
        grid=tiles,
        positional=positional,
        keywords=keywords,
    )
