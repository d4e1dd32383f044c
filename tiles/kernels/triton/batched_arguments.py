"""Checks a batched GEMM's tensors and turns them and a configuration into kernel arguments."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import triton

from .launch_checks import check_fields, check_integer_sums, check_memory, check_tile_config
from .operand_checks import (
    FP8,
    check_grid,
    check_tensor,
    flat_descriptor,
    numeric_constants,
    tile_constants,
)

__all__ = ["FIELDS", "arguments"]

FIELDS = ("block_m", "block_n", "block_k", "group_m", "num_warps", "num_stages", "tma")


def _with_heads(tensor: torch.Tensor) -> torch.Tensor:
    """Two batch dimensions, the first of one where there was one."""
    return tensor.unsqueeze(0) if tensor.ndim == 3 else tensor


def arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    second: str,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    check_fields(config, FIELDS)
    if second not in ("nk", "kn"):
        raise ValueError(f"second = {second!r}: choose nk or kn")
    check_tensor("a", a, (3, 4), a, output=False)
    # The tensor cores' instructions take 32 bytes of K.
    check_tile_config(config, {"block_m": 16, "block_n": 16, "block_k": 32 // a.element_size()})
    check_tensor("b", b, (a.ndim,), a, output=False)
    check_tensor("c", c, (a.ndim,), a, output=True)
    *batch, m, k = a.shape
    n = b.shape[-2 if second == "nk" else -1]
    wanted = (*batch, n, k) if second == "nk" else (*batch, k, n)
    if tuple(b.shape) != wanted:
        raise ValueError(f"b must be {wanted} for a {tuple(a.shape)}, got {tuple(b.shape)}")
    if tuple(c.shape) != (*batch, m, n):
        raise ValueError(f"c must be {(*batch, m, n)}, got shape {tuple(c.shape)}")
    block_m, block_n, block_k = (int(config[name]) for name in ("block_m", "block_n", "block_k"))
    check_grid("a", a_scale, a_block, a.shape, a, block_k)
    check_grid("b", b_scale, b_block, (*batch, n, k), a, block_k)
    if b_block is not None and b_block[1] and b_block[0] % block_n:
        raise ValueError(f"block_n {block_n} does not divide the {b_block[0]} rows under a b_scale")
    check_integer_sums(a.dtype, k, a_block, b_block)
    if config["tma"] and second == "kn" and k % block_k:
        raise ValueError(
            f"K = {k}, block_k {block_k}: tma would read the next matrix behind a [K, N] one, take "
            "a config without tma"
        )
    check_memory({"c": c}, {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale})
    constants = {
        **tile_constants(a_block, b_block, config, k),
        "B_KN": second == "kn",
        "TMA": bool(config["tma"]),
        **numeric_constants(
            a.dtype, b.dtype, c.dtype, decode=decode, interpreted=a.device.type == "cpu"
        ),
    }
    if decode and a.dtype in FP8:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    box = [block_n, block_k] if second == "nk" else [block_k, block_n]
    a4, b4, c4 = (_with_heads(t) for t in (a, b, c))
    stride_bn, stride_bk = b4.stride(2), b4.stride(3)
    if second == "kn":
        stride_bn, stride_bk = stride_bk, stride_bn
    grid = math.prod(batch) * triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    positional = [
        flat_descriptor("a", a, [block_m, block_k]) if config["tma"] else a,
        flat_descriptor("b", b, box) if config["tma"] else b,
        c,
        # The compiler drops what an unscaled operand never reads; any pointer stands in.
        c if a_scale is None else a_scale,
        c if b_scale is None else b_scale,
        a4.shape[1],
        m,
        n,
        k,
        *a4.stride()[:3],
        *b4.stride()[:2],
        stride_bn,
        stride_bk,
        *c4.stride()[:3],
        *((0, 0, 0, 0) if a_scale is None else _with_heads(a_scale).stride()),
        *((0, 0, 0, 0) if b_scale is None else _with_heads(b_scale).stride()),
    ]
    options = {"num_warps": int(config["num_warps"]), "num_stages": int(config["num_stages"])}
    return grid, positional, {**constants, **options}
