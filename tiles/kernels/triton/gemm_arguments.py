"""Checks a scaled GEMM's tensors and turns them and a configuration into kernel arguments."""

from collections.abc import Mapping
from typing import Any

import torch
import triton.language as tl

from .launch_checks import check_aligned_rows, check_fields, check_integer_sums, check_overlap
from .operand_checks import FP8, check_grid, check_tensor, flat_descriptor, tile_constants
from .split_workspace import check_workspace, stream_programs, workspace_words

__all__ = ["arguments", "constants", "scale_group", "shares_k", "subtiles"]

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
#: What a configuration may leave out, with what that means.
_MODES: dict[str, int | bool] = {
    "split_k": 1,
    "stream_k": False,
    "subtiles": 0,
    "overlap": False,
    "specialize": False,
}


def scale_group(quant_rows: int, tile_rows: int) -> int:
    """Consecutive tile rows that surely share a scale: the whole tile, a divisor of it, or 1."""
    if quant_rows == 0 or quant_rows % tile_rows == 0:
        return tile_rows
    return quant_rows if tile_rows % quant_rows == 0 else 1


def subtiles(config: Mapping[str, int | bool]) -> int:
    """Parts in which the epilogue writes a tile through its descriptor."""
    if not config["tma"]:
        return 1
    if asked := int(config.get("subtiles", 0)):
        return asked
    # A flattened persistent loop keeps its pipeline buffers while the epilogue stages the output.
    return 2 if config["persistent"] and config["block_m"] * config["block_n"] >= 128 * 128 else 1


def shares_k(config: Mapping[str, int | bool]) -> bool:
    """Whether programs share the K extent of a tile."""
    return bool(config.get("stream_k", False)) or int(config.get("split_k", 1)) > 1


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
    """Compile-time constants of the kernel that runs a configuration.

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
    found = {
        **tile_constants(a_block, b_block, config, k),
        "A_GROUP": scale_group(a_rows, block_m) if a_cols else block_m,
        "B_GROUP": scale_group(b_rows, block_n) if b_cols else block_n,
        "TMA": bool(config["tma"]),
        "PERSISTENT": bool(config["persistent"]),
        "SUBTILES": subtiles(config),
        "OVERLAP": bool(config.get("overlap", False)),
        "INTEGER": a_type == "int8",
        "A_DECODE": a_type if decode and a_type in ("e4m3fn", "e5m2") else "",
        "B_DECODE": b_type if decode and b_type in ("e4m3fn", "e5m2") else "",
        "UPCAST": interpreted and a_type == "bf16",
        "OUT": {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}[out_type],
    }
    left_out: tuple[str, ...] = ()
    if config.get("specialize", False):
        left_out = ("PERSISTENT", "SUBTILES", "OVERLAP", "EVEN_K", "A_DECODE", "B_DECODE", "TMA")
    elif shares_k(config):
        left_out = ("PERSISTENT", "SUBTILES")
        if not config.get("stream_k", False):
            found["SPLIT_K"] = int(config["split_k"])
    return {name: value for name, value in found.items() if name not in left_out}


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
    workspace: torch.Tensor | None = None,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    config = {**_MODES, **config}
    check_fields(config, (*_FIELDS, *_MODES))
    _check_modes(config, a_block, b_block, decode=decode)
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
    written = {"c": c}
    shared: list[torch.Tensor] = []
    if shares_k(config):
        words = workspace_words(config, m, n, k, num_sms)
        partial, counters = check_workspace(
            config, workspace, words=words, m=m, n=n, like=a, name="a"
        )
        # Integer sums stay integers until they are scaled.
        promoted = any(block is not None and block[1] for block in (a_block, b_block))
        shared = [
            partial if a.dtype == torch.int8 and not promoted else partial.view(torch.float32)
        ]
        shared.append(counters)
        written["workspace"] = counters
    check_overlap(written, {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale})
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
    if config["specialize"]:
        # The kernel makes its descriptors.
        check_aligned_rows("a", a)
        check_aligned_rows("b", b)
    elif config["tma"]:
        operands[:2] = [
            flat_descriptor("a", a, [block_m, block_k]),
            flat_descriptor("b", b, [block_n, block_k]),
        ]
        if not shared:
            operands[2] = flat_descriptor("c", c, [block_m, block_n // constexprs["SUBTILES"]])
    positional = [
        *operands,
        # The compiler drops what an unscaled operand never reads; any pointer stands in.
        c if a_scale is None else a_scale,
        c if b_scale is None else b_scale,
        *shared,
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
    return _programs(config, m, n, k, num_sms), positional, {**constexprs, **options}


def _programs(config: Mapping[str, int | bool], m: int, n: int, k: int, num_sms: int | None) -> int:
    """Size of the launch's grid."""
    tiles = -(-m // int(config["block_m"])) * -(-n // int(config["block_n"]))
    if config["stream_k"]:
        return stream_programs(config, m, n, k, num_sms)
    if config["persistent"] and num_sms:
        return min(tiles, num_sms)
    return tiles * int(config["split_k"])


def _check_modes(
    config: Mapping[str, int | bool],
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    *,
    decode: bool,
) -> None:
    """Refuse modes that exclude each other, or that the product has no use for.

    Raises:
        ValueError: names them.
    """
    split, parts = int(config["split_k"]), int(config["subtiles"])
    if split < 1:
        raise ValueError(f"split_k {split}: it must be at least 1")
    if split > 1 and config["persistent"]:
        raise ValueError(f"split_k {split} of a persistent config: take stream_k, or split_k 1")
    if config["stream_k"] and not config["persistent"]:
        raise ValueError("stream_k needs a persistent config: its programs are multiprocessors")
    if parts not in (0, 1, 2, 4) or (parts and (not config["tma"] or shares_k(config))):
        raise ValueError(
            f"subtiles {parts}: 1, 2 or 4 parts that descriptors write, with tma and without "
            "split_k or stream_k; else 0"
        )
    promoted = any(block is not None and block[1] for block in (a_block, b_block))
    if config["overlap"] and not promoted:
        raise ValueError("overlap needs scales along K: there is nothing to promote")
    if config["specialize"]:
        if not config["tma"] or config["persistent"] or shares_k(config) or parts:
            raise ValueError("specialize needs tma, one tile a program, and no other mode")
        if config["overlap"] or decode or int(config["num_warps"]) != 4:
            raise ValueError(
                "specialize needs num_warps 4, which its three warpgroups have each, no overlap, "
                "and elements that the tensor cores multiply"
            )
        _check_halves(config, a_block, b_block)


def _check_halves(
    config: Mapping[str, int | bool],
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
) -> None:
    """Refuse tiles that the compiler does not halve between two warpgroups, or halves wrongly.

    Raises:
        ValueError: names the extent.
    """
    if int(config["block_m"]) % 128:
        raise ValueError(
            f"specialize needs block_m in multiples of 128, not {config['block_m']}: each of two "
            "warpgroups multiplies half of the rows, 64 at a time"
        )
    for side, block in (("m", a_block), ("n", b_block)):
        extent = int(config[f"block_{side}"])
        if block is not None and block[1] and 1 < scale_group(block[0], extent) < extent:
            raise ValueError(
                f"specialize needs one scale over block_{side} {extent} or one a row, not blocks "
                f"of {block[0]} rows: the compiler does not halve a tile of several"
            )
