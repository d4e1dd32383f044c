"""Checks a weight-only product's tensors and turns them and a configuration into arguments."""

from collections.abc import Mapping
from typing import Any

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from .capability import capability_of
from .launch_checks import (
    OUTPUTS,
    check_aligned_rows,
    check_fields,
    check_given,
    check_memory,
    check_tile_config,
)
from .split_workspace import MAX_SPLIT_TILES, check_workspace, workspace_words
from .weight_layout import PANEL_BYTES, PackedWeight, panel_columns

__all__ = ["MAX_SPLIT_TILES", "arguments", "constants", "workspace_words"]

_FIELDS = (
    "block_m",
    "block_n",
    "group_m",
    "split_k",
    "num_warps",
    "num_stages",
    "tma",
    "fold",
)
#: Tensors of a packed weight.
_PARTS = ("codes", "scale", "zero", "row_scale")


def constants(
    *,
    config: Mapping[str, int | bool],
    element: str,
    group: int,
    scale_format: str,
    k: int,
    fp16: bool,
    out: Any,
    capability: int,
) -> dict[str, Any]:
    """Compile-time constants of :func:`gemm_weight_only`.

    Args:
        capability: of an NVIDIA GPU, times ten (90); 0 for Triton's interpreter.
    """
    block_m, block_n = int(config["block_m"]), int(config["block_n"])
    # Where Triton multiplies by wgmma; elsewhere this order of columns is slower, never wrong.
    wgmma = capability == 90 and block_n >= 64 and block_m >= 16 and int(config["num_warps"]) >= 4
    return {
        "FORMAT": element,
        "GROUP": group,
        "SCALE": scale_format,
        "FOLD": bool(config["fold"]),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "GROUP_M": int(config["group_m"]),
        "SPLIT_K": int(config["split_k"]),
        "TMA": bool(config["tma"]),
        "EVEN_K": k % panel_columns(element) == 0,
        "FP16": fp16,
        "WGMMA": wgmma,
        "INTERPRET": capability == 0,
        "OUT": out,
    }


def _check_operands(x: torch.Tensor, weight: PackedWeight, c: torch.Tensor) -> None:
    check_given("x", x)
    check_given("c", c)
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"x has dtype {x.dtype}: it must be torch.bfloat16 or torch.float16")
    if c.dtype not in OUTPUTS:
        raise TypeError(f"c has dtype {c.dtype}: choose one of {', '.join(map(str, OUTPUTS))}")
    for name, tensor in (("x", x), ("c", c)):
        if tensor.ndim != 2 or tensor.numel() == 0:
            raise ValueError(f"{name} must be a non-empty matrix, got shape {tuple(tensor.shape)}")
        if tensor.shape[1] > 1 and tensor.stride(1) != 1:
            raise ValueError(
                f"{name} has stride {tensor.stride(1)} along its columns: rows must be contiguous"
            )
    (m, k), n = x.shape, weight.rows
    if k != weight.columns:
        raise ValueError(f"x has {k} columns and weight {weight.columns}: they must be equal")
    if tuple(c.shape) != (m, n):
        raise ValueError(f"c must be {m} x {n}, got shape {tuple(c.shape)}")
    if c.stride(0) < n and m > 1:
        raise ValueError(f"c has rows {c.stride(0)} apart, less than its {n} columns: they overlap")
    if x.dtype == torch.float16 and weight.scale_format == "e8m0fnu":
        raise TypeError("x has dtype torch.float16: E8M0 scales need the range of torch.bfloat16")


def _check_config(config: Mapping[str, int | bool], weight: PackedWeight) -> None:
    check_fields(config, _FIELDS)
    check_tile_config(config, {"block_m": 8, "block_n": 16})
    if int(config["split_k"]) < 1:
        raise ValueError(f"split_k = {config['split_k']}: it must be at least 1")
    if config["fold"] and not weight.group:
        raise ValueError("fold needs scales of groups: these weights have one scale a row")
    if not config["fold"] and 0 < weight.group < 64:
        raise ValueError(f"groups of {weight.group} need fold: a promoted product has 64 columns")
    if int(config["split_k"]) > weight.codes.shape[0]:
        raise ValueError(
            f"split_k {config['split_k']} > {weight.codes.shape[0]} panels of "
            f"{panel_columns(weight.element)} columns"
        )


def _descriptors(
    x: torch.Tensor, codes: torch.Tensor, config: Mapping[str, int | bool]
) -> tuple[TensorDescriptor, TensorDescriptor]:
    flat = codes.view(-1, PANEL_BYTES)
    if len(flat) >= 2**31:
        raise ValueError(
            f"weight.codes: {len(flat)} rows of panels, a descriptor's coordinates have 31 bits: "
            "take a config without tma"
        )
    check_aligned_rows("x", x)
    check_aligned_rows("weight.codes", flat)
    return (
        TensorDescriptor(x, list(x.shape), list(x.stride()), [int(config["block_m"]), 64]),
        TensorDescriptor(
            flat, list(flat.shape), list(flat.stride()), [int(config["block_n"]), PANEL_BYTES]
        ),
    )


def _patterns(scale: torch.Tensor) -> torch.Tensor:
    """Scales as unsigned integers."""
    return scale.view({1: torch.uint8, 2: torch.uint16, 4: torch.int32}[scale.element_size()])


def arguments(
    x: torch.Tensor,
    weight: PackedWeight,
    c: torch.Tensor,
    *,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None = None,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    weight.check()
    _check_config(config, weight)
    _check_operands(x, weight, c)
    (m, k), n = x.shape, weight.rows
    written: dict[str, torch.Tensor] = {"c": c}
    # Pointers that the compiler drops need to be some tensor's.
    partial, arrived = weight.row_scale, weight.row_scale
    if int(config["split_k"]) > 1:
        words = workspace_words(config, m, n)
        partial, arrived = check_workspace(config, workspace, words=words, m=m, n=n, like=x)
        partial = partial.view(torch.float32)
        written["workspace"] = arrived
    parts = {f"weight.{name}": getattr(weight, name) for name in _PARTS}
    check_memory(written, {"x": x, **parts})
    constexprs = constants(
        config=config,
        element=weight.element,
        group=weight.group,
        scale_format=weight.scale_format,
        k=k,
        fp16=x.dtype == torch.float16,
        out=OUTPUTS[c.dtype],
        capability=capability_of(x.device),
    )
    operands: tuple[Any, Any] = (x, weight.codes)
    if config["tma"]:
        operands = _descriptors(x, weight.codes, config)
    tiles = triton.cdiv(m, int(config["block_m"])) * triton.cdiv(n, int(config["block_n"]))
    positional = [
        *operands,
        c,
        weight.row_scale if weight.scale is None else _patterns(weight.scale),
        weight.row_scale if weight.zero is None else weight.zero,
        weight.row_scale,
        partial,
        arrived,
        m,
        n,
        k,
        weight.codes.shape[0],
        x.stride(0),
        c.stride(0),
    ]
    options = {"num_warps": int(config["num_warps"]), "num_stages": int(config["num_stages"])}
    return tiles * int(config["split_k"]), positional, {**constexprs, **options}
