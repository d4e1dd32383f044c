"""Checks a grouped GEMM's tensors and turns them and a configuration into kernel arguments."""

from collections.abc import Mapping
from typing import Any

import torch
import triton

from .launch_checks import (
    check_fields,
    check_given,
    check_integer_sums,
    check_memory,
    check_tile_config,
)
from .operand_checks import (
    FP8,
    check_grid,
    check_tensor,
    flat_descriptor,
    numeric_constants,
    tile_constants,
)

__all__ = ["FIELDS", "arguments"]

#: Registers of a multiprocessor, from NVIDIA's capability 7.0 on.
_REGISTERS = 65536
FIELDS = (
    "block_m", "block_n", "block_k", "group_m", "num_warps", "num_stages", "ctas_per_sm", "tma",
)  # fmt: skip


def _check_index(
    name: str, tensor: torch.Tensor | None, dtypes: tuple[torch.dtype, ...], like: torch.Tensor
) -> None:
    if tensor is None:
        return
    check_given(name, tensor)
    if tensor.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise TypeError(f"{name} has dtype {tensor.dtype}: it must be {wanted}")
    if tensor.ndim != 1 or not tensor.is_contiguous():
        raise ValueError(f"{name} must be a contiguous vector, got shape {tuple(tensor.shape)}")
    if tensor.device != like.device:
        raise ValueError(f"{name} lies on {tensor.device} and a on {like.device}: move it there")


def _check_layout(
    a: torch.Tensor,
    b: torch.Tensor,
    offsets: torch.Tensor | None,
    counts: torch.Tensor | None,
    ids: torch.Tensor | None,
    top_k: int,
) -> tuple[int, ...]:
    """Check what says where rows lie; returns the shape of C."""
    _check_index("offsets", offsets, (torch.int64,), a)
    _check_index("counts", counts, (torch.int32,), a)
    _check_index("ids", ids, (torch.int32, torch.int64), a)
    experts, n = b.shape[0], b.shape[1]
    if offsets is None and counts is None:
        raise ValueError("give offsets, counts (masked), or both (padded)")
    least = experts if counts is not None else experts + 1
    if offsets is not None and offsets.shape[0] not in (least, experts + 1):
        raise ValueError(f"offsets has {offsets.shape[0]} entries: {experts} experts need {least}")
    if counts is not None and counts.shape[0] != experts:
        raise ValueError(f"counts has {counts.shape[0]} entries for {experts} experts")
    masked = offsets is None
    if a.ndim != (3 if masked else 2):
        shape = "(E, capacity, K)" if masked else "(rows, K)"
        raise ValueError(f"a has shape {tuple(a.shape)}: this layout takes {shape}")
    if masked and a.shape[0] != experts:
        raise ValueError(f"a has {a.shape[0]} groups, b {experts} experts")
    if ids is None:
        if top_k != 1:
            raise ValueError(f"top_k = {top_k} needs ids")
        return (*a.shape[:-1], n)
    if masked or counts is not None:
        raise ValueError("ids go with offsets alone")
    if top_k < 1 or ids.shape[0] == 0:
        raise ValueError(f"top_k = {top_k}, {ids.shape[0]} ids: both are at least 1")
    return (a.shape[0] * top_k, n)


def arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    offsets: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
    ids: torch.Tensor | None = None,
    top_k: int = 1,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
    num_sms: int,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    check_fields(config, FIELDS)
    if num_sms < 1 or int(config["ctas_per_sm"]) < 1:
        raise ValueError(
            f"num_sms = {num_sms}, ctas_per_sm = {config['ctas_per_sm']}: both are at least 1"
        )
    check_tensor("a", a, (2, 3), a, output=False)
    # The tensor cores' instructions take 32 bytes of K.
    check_tile_config(config, {"block_m": 16, "block_n": 16, "block_k": 32 // a.element_size()})
    check_tensor("b", b, (3,), a, output=False)
    check_tensor("c", c, (2, 3), a, output=True)
    shape = _check_layout(a, b, offsets, counts, ids, top_k)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"a is {tuple(a.shape)} and b {tuple(b.shape)}: the last extents must be equal"
        )
    if tuple(c.shape) != shape:
        raise ValueError(f"c must be {shape}, got shape {tuple(c.shape)}")
    masked = offsets is None
    block_m, block_n, block_k = (int(config[name]) for name in ("block_m", "block_n", "block_k"))
    check_grid("a", a_scale, a_block, a.shape, a, block_k)
    check_grid("b", b_scale, b_block, b.shape, a, block_k)
    if a_block is not None and a_block[0] > 1:
        raise ValueError(f"a_block {a_block}: blocks of rows would straddle experts, take (1, ...)")
    if b_block is not None and b_block[1] and b_block[0] % block_n:
        raise ValueError(f"block_n {block_n} does not divide the {b_block[0]} rows under a b_scale")
    check_integer_sums(a.dtype, a.shape[-1], a_block, b_block)
    inputs = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale}
    check_memory({"c": c}, {**inputs, "offsets": offsets, "counts": counts, "ids": ids})

    constants = {
        **tile_constants(a_block, b_block, config, a.shape[-1]),
        "BLOCK_E": triton.next_power_of_2(b.shape[0]),
        "MASKED": masked,
        "COUNTED": counts is not None,
        "TOP_K": 0 if ids is None else top_k,
        "A_TMA": bool(config["tma"]) and ids is None,
        "B_TMA": bool(config["tma"]),
        **numeric_constants(
            a.dtype, b.dtype, c.dtype, decode=decode, interpreted=a.device.type == "cpu"
        ),
    }
    stride_ae, stride_ce = (t.stride(0) if masked else 0 for t in (a, c))
    stride_be, stride_bn = b.stride(0), b.stride(1)
    stride_am = a.stride(-2)
    if decode and a.dtype in FP8:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    # Every expert with rows adds at most one ragged tile.
    rows = a.shape[-2] if ids is None else ids.shape[0]
    experts, n = b.shape[0], b.shape[1]
    if masked:
        most = experts * triton.cdiv(rows, block_m)
    else:
        most = rows // block_m + min(experts, rows)
    grid = min(num_sms * int(config["ctas_per_sm"]), most * triton.cdiv(n, block_n))
    a_scale_strides: tuple[int, ...] = (0, 0, 0)
    if a_scale is not None:
        a_scale_strides = (a_scale.stride(0) if masked else 0, *a_scale.stride()[-2:])
    positional = [
        flat_descriptor("a", a, [block_m, block_k]) if constants["A_TMA"] else a,
        flat_descriptor("b", b, [block_n, block_k]) if constants["B_TMA"] else b,
        c,
        # The compiler drops what is never read; any pointer stands in.
        c if a_scale is None else a_scale,
        c if b_scale is None else b_scale,
        counts if offsets is None else offsets,
        offsets if counts is None else counts,
        c if ids is None else ids,
        experts,
        a.shape[-2],
        rows,
        n,
        a.shape[-1],
        stride_ae,
        stride_am,
        stride_be,
        stride_bn,
        stride_ce,
        c.stride(-2),
        *a_scale_strides,
        *((0, 0, 0) if b_scale is None else b_scale.stride()),
    ]
    options = {"num_warps": int(config["num_warps"]), "num_stages": int(config["num_stages"])}
    if int(config["ctas_per_sm"]) > 1 and torch.version.hip is None:
        # Programs that do not fit together would run in turns: registers must leave room for all.
        threads = 32 * options["num_warps"] * int(config["ctas_per_sm"])
        options["maxnreg"] = min(255, _REGISTERS // threads // 8 * 8)
    return grid, positional, {**constants, **options}
