"""Checks a scaled GEMM's tensors and turns them and a configuration into kernel arguments."""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_fields, check_integer_sums, check_overlap
from .operand_checks import FP8, check_grid, check_tensor, flat_descriptor, tile_constants

__all__ = ["arguments", "constants", "scale_group", "subtiles"]

_SCALES = (torch.float32, torch.float16)
_FIELDS = (
    "block_m",
    "block_n",
    "block_k",
    "group_m",
    "num_warps",
    "num_stages",
    "tma",
    "persistent",
)


def scale_group(quant_rows: int, tile_rows: int) -> int:
    """Consecutive tile rows that surely share a scale: the whole tile, a divisor of it, or 1."""
    if quant_rows == 0 or quant_rows % tile_rows == 0:
        return tile_rows
    return quant_rows if tile_rows % quant_rows == 0 else 1


def subtiles(config: Mapping[str, int | bool]) -> int:
    """Parts in which the epilogue writes a tile through its descriptor."""
    # A flattened persistent loop keeps its pipeline buffers while the epilogue stages the output.
    flattened = config["tma"] and config["persistent"]
    return 2 if flattened and config["block_m"] * config["block_n"] >= 128 * 128 else 1


def constants(
    *,
    config: Mapping[str, int | bool],
    k: int,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    a_type: str,
    b_type: str,
    out_type: str,
    decode: bool,
    interpreted: bool,
) -> dict[str, Any]:
    """Compile-time constants of :func:`gemm_scaled`.

    Args:
        config: the configuration, see the module's docstring.
        k: contracted extent, elements.
        a_block: (rows, cols) of A under one scale, 0 = whole extent; ``None`` when unscaled.
        b_block: the same for B.
        a_type: element of A: bf16, fp16, e4m3fn, e5m2 or int8.
        b_type: element of B.
        out_type: element of C: bf16, fp16 or fp32.
        decode: multiply 8-bit floats as fp16.
        interpreted: run by Triton's interpreter, whose bf16 products are wrong.
    """
    block_m, block_n = int(config["block_m"]), int(config["block_n"])
    a_rows, a_cols = a_block or (0, 0)
    b_rows, b_cols = b_block or (0, 0)
    return {
        **tile_constants(a_block, b_block, config, k),
        "A_GROUP": scale_group(a_rows, block_m) if a_cols else block_m,
        "B_GROUP": scale_group(b_rows, block_n) if b_cols else block_n,
        "TMA": bool(config["tma"]),
        "PERSISTENT": bool(config["persistent"]),
        "SUBTILES": subtiles(config),
        "INTEGER": a_type == "int8",
        "A_DECODE": a_type if decode and a_type in ("e4m3fn", "e5m2") else "",
        "B_DECODE": b_type if decode and b_type in ("e4m3fn", "e5m2") else "",
        "UPCAST": interpreted and a_type == "bf16",
        "OUT": {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}[out_type],
    }


_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int8: "int8",
    torch.float8_e4m3fn: "e4m3fn",
    torch.float8_e5m2: "e5m2",
}


def arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
    num_sms: int | None = None,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    check_fields(config, _FIELDS)
    if config["persistent"] and (num_sms is None or num_sms < 1):
        raise ValueError("a persistent config needs num_sms, the number of multiprocessors")
    check_tensor("a", a, (2,), a, output=False)
    check_tensor("b", b, (2,), a, output=False)
    check_tensor("c", c, (2,), a, output=True)
    (m, k), n = a.shape, b.shape[0]
    if b.shape[1] != k:
        raise ValueError(f"a is {m} x {k} and b {n} x {b.shape[1]}: the second extents differ")
    if tuple(c.shape) != (m, n):
        raise ValueError(f"c must be {m} x {n}, got shape {tuple(c.shape)}")
    block_m, block_n, block_k = (int(config[name]) for name in ("block_m", "block_n", "block_k"))
    check_grid("a", a_scale, a_block, a.shape, a, block_k, _SCALES, columns=True)
    check_grid("b", b_scale, b_block, b.shape, a, block_k, _SCALES, columns=True)
    check_integer_sums(a.dtype, k, a_block, b_block)
    check_overlap({"c": c}, {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale})
    constexprs = constants(
        config=config,
        k=k,
        a_block=a_block,
        b_block=b_block,
        a_type=_NAMES[a.dtype],
        b_type=_NAMES[b.dtype],
        out_type=_NAMES[c.dtype],
        decode=decode,
        interpreted=a.device.type == "cpu",
    )
    if decode and a.dtype in FP8:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    operands: list[Any] = [a, b, c]
    if config["tma"]:
        operands = [
            flat_descriptor("a", a, [block_m, block_k]),
            flat_descriptor("b", b, [block_n, block_k]),
            flat_descriptor("c", c, [block_m, block_n // constexprs["SUBTILES"]]),
        ]
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = min(tiles, num_sms) if config["persistent"] and num_sms else tiles
    positional = [
        *operands,
        # The compiler drops what an unscaled operand never reads; any pointer stands in.
        c if a_scale is None else a_scale,
        c if b_scale is None else b_scale,
        m,
        n,
        k,
        a.stride(0),
        b.stride(0),
        c.stride(0),
        *((0, 0) if a_scale is None else a_scale.stride()),
        *((0, 0) if b_scale is None else b_scale.stride()),
    ]
    options = {"num_warps": int(config["num_warps"]), "num_stages": int(config["num_stages"])}
    return grid, positional, {**constexprs, **options}
