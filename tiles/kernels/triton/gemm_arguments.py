"""Checks a scaled GEMM's tensors and turns them and a configuration into kernel arguments."""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from .launch_checks import check_integer_sums

__all__ = ["arguments", "constants", "scale_group", "subtiles"]

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_OPERANDS = (torch.bfloat16, torch.float16, torch.int8, *_FP8)
_OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)
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
        "A_SCALED": a_block is not None,
        "B_SCALED": b_block is not None,
        "A_ROWS": a_rows,
        "A_COLS": a_cols,
        "B_ROWS": b_rows,
        "B_COLS": b_cols,
        "A_GROUP": scale_group(a_rows, block_m) if a_cols else block_m,
        "B_GROUP": scale_group(b_rows, block_n) if b_cols else block_n,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": int(config["block_k"]),
        "GROUP_M": int(config["group_m"]),
        "TMA": bool(config["tma"]),
        "PERSISTENT": bool(config["persistent"]),
        "SUBTILES": subtiles(config),
        "EVEN_K": k % int(config["block_k"]) == 0,
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


def _check_operands(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    for name, tensor, allowed in (("a", a, _OPERANDS), ("b", b, _OPERANDS), ("c", c, _OUTPUTS)):
        if tensor.dtype not in allowed:
            choices = ", ".join(str(dtype) for dtype in allowed)
            raise TypeError(f"{name} has dtype {tensor.dtype}: choose one of {choices}")
        if tensor.ndim != 2 or tensor.numel() == 0:
            raise ValueError(f"{name} must be a non-empty matrix, got shape {tuple(tensor.shape)}")
        if tensor.shape[1] > 1 and tensor.stride(1) != 1:
            raise ValueError(
                f"{name} has stride {tensor.stride(1)} along its columns: rows must be contiguous"
            )
        if tensor.device != a.device:
            raise ValueError(f"{name} lies on {tensor.device} and a on {a.device}: move it there")
    if a.dtype != b.dtype and not (a.dtype in _FP8 and b.dtype in _FP8):
        raise TypeError(f"a has dtype {a.dtype} and b {b.dtype}: no tensor core multiplies these")
    (m, k), (n, k_b) = a.shape, b.shape
    if k != k_b:
        raise ValueError(f"a is {m} x {k} and b {n} x {k_b}: the second extents must be equal")
    if tuple(c.shape) != (m, n):
        raise ValueError(f"c must be {m} x {n}, got shape {tuple(c.shape)}")


def _check_scale(
    name: str,
    scale: torch.Tensor | None,
    block: tuple[int, int] | None,
    operand: torch.Tensor,
    block_k: int,
) -> None:
    if (scale is None) != (block is None):
        raise ValueError(f"{name}_scale and {name}_block go together: give both or neither")
    if scale is None or block is None:
        return
    if scale.dtype not in _SCALES:
        choices = " or ".join(map(str, _SCALES))
        raise TypeError(f"{name}_scale has dtype {scale.dtype}: scales are {choices}")
    if scale.device != operand.device:
        raise ValueError(f"{name}_scale lies on {scale.device}, its operand on {operand.device}")
    if min(block) < 0:
        raise ValueError(f"{name}_block {block}: extents are positive, or 0 for the whole extent")
    grid = tuple(
        1 if size == 0 else -(-extent // size)
        for extent, size in zip(operand.shape, block, strict=True)
    )
    if tuple(scale.shape) != grid:
        raise ValueError(
            f"{name}_scale must have shape {grid} for {name}_block {block}, "
            f"got {tuple(scale.shape)}"
        )
    if block[1] and block[1] % block_k:
        raise ValueError(
            f"block_k {block_k} does not divide the {block[1]} columns under one {name}_scale"
        )


def _check_config(config: Mapping[str, int | bool], num_sms: int | None) -> None:
    if set(config) != set(_FIELDS):
        wrong = sorted(set(config) ^ set(_FIELDS))
        raise ValueError(f"config: wrong or missing field {wrong[0]!r}, need {', '.join(_FIELDS)}")
    if config["persistent"] and (num_sms is None or num_sms < 1):
        raise ValueError("a persistent config needs num_sms, the number of multiprocessors")


def _descriptor(name: str, tensor: torch.Tensor, block: list[int]) -> TensorDescriptor:
    row_bytes = tensor.stride(0) * tensor.element_size()
    if tensor.data_ptr() % 16 or row_bytes % 16:
        raise ValueError(
            f"{name}: rows start {row_bytes} B apart from address {tensor.data_ptr():#x}; "
            "tma needs multiples of 16 B, take a config without tma"
        )
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)


def arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool,
    num_sms: int | None,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    _check_config(config, num_sms)
    _check_operands(a, b, c)
    block_m, block_n, block_k = (int(config[name]) for name in ("block_m", "block_n", "block_k"))
    _check_scale("a", a_scale, a_block, a, block_k)
    _check_scale("b", b_scale, b_block, b, block_k)
    check_integer_sums(a.dtype, a.shape[1], a_block, b_block)
    (m, k), n = a.shape, b.shape[0]
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
    if decode and a.dtype in _FP8:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    operands: list[Any] = [a, b, c]
    if config["tma"]:
        operands = [
            _descriptor("a", a, [block_m, block_k]),
            _descriptor("b", b, [block_n, block_k]),
            _descriptor("c", c, [block_m, block_n // constexprs["SUBTILES"]]),
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
