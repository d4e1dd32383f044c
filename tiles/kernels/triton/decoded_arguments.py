"""Checks the operands of a decoded product and turns them and a configuration into arguments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
import triton.language as tl

from .decoded_element import FOLDED, block_format, row_bytes, wide_type
from .decoded_operand import StoredMatrix
from .decoded_ptx import float_bytes, six_bits
from .launch_checks import check_memory, power_of_two
from .tile_checks import WHOLE, check_reach, check_whole, whole_words

__all__ = ["Call", "arguments", "workspace_bytes"]

_OUTPUTS = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}
_WIDE = {"bf16": (torch.bfloat16, tl.bfloat16), "fp16": (torch.float16, tl.float16)}
_INNER = (
    "block_m",
    "block_n",
    "block_k",
    "group_m",
    "num_warps",
    "num_stages",
    "tma",
    "persistent",
)
_FIELDS = (*_INNER, "staged", "native")
#: Tile and warps of the decoding pass: 32 elements a thread, four 16-byte stores.
_TILE, _WARPS = (8, 512), 4
#: First capability that converts 8-bit floats, times ten.
_CAST_CAPABILITY = 89
#: Facts of the floats that it converts.
_CASTS = (("float", 8, 3, 7, "fn"), ("float", 8, 2, 15, "ieee"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What a launch runs: decoding passes, then a product."""

    #: Grid, positional and keyword arguments of ``decode_operand``.
    passes: tuple[tuple[int, tuple[Any, ...], dict[str, Any]], ...] = ()
    kernel: str  #: staged (``gemm_scaled``), native (``gemm_block_scaled``) or loop
    grid: int = 0  #: of the kernels but ``gemm_scaled``
    positional: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)


def _pitch(columns: int) -> int:
    """Elements from row to row of a decoded operand: multiples of 16 bytes."""
    return -(-columns // 8) * 8


def _side_bytes(rows: int, columns: int) -> int:
    return -(-2 * rows * _pitch(columns) // 128) * 128


def workspace_bytes(config: Mapping[str, int | bool], m: int, n: int, k: int) -> int:
    """Bytes of workspace that a launch needs: both operands as 16-bit floats."""
    return _side_bytes(m, k) + _side_bytes(n, k) if config["staged"] else 0


def _check_codes(name: str, side: StoredMatrix) -> None:
    codes, element = side.codes, side.element
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
    if scales is not None:
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
        if scales is None or block[1] != 0:
            raise ValueError(f"{name}.zero_points go with scales that do not change along K")
        if side.zero_points.dtype != torch.uint8:
            raise TypeError(f"{name}.zero_points have dtype {side.zero_points.dtype}: torch.uint8")
        if side.zero_points.shape != scales.shape or not side.zero_points.is_contiguous():
            raise ValueError(f"{name}.zero_points must be contiguous, shaped as {name}.scales")
    if side.tensor_scale is not None:
        if not side.folded:
            raise ValueError(f"{name}.tensor_scale stands beside folded scales only")
        if side.tensor_scale.dtype != torch.float32:
            raise TypeError(f"{name}.tensor_scale has dtype {side.tensor_scale.dtype}: fp32")
        if tuple(side.tensor_scale.shape) != (1,):
            raise ValueError(f"{name}.tensor_scale must have shape (1,)")


def _check_product(a: StoredMatrix, b: StoredMatrix, c: torch.Tensor) -> None:
    for name, side in (("a", a), ("b", b)):
        _check_codes(name, side)
        _check_scales(name, side)
    if c.dtype not in _OUTPUTS:
        raise TypeError(f"c has dtype {c.dtype}: choose one of {', '.join(map(str, _OUTPUTS))}")
    if a.columns != b.columns:
        raise ValueError(f"a has {a.columns} columns and b {b.columns}: they must be equal")
    if tuple(c.shape) != (a.rows, b.rows):
        raise ValueError(f"c must be {a.rows} x {b.rows}, got shape {tuple(c.shape)}")
    if c.shape[1] > 1 and c.stride(1) != 1:
        raise ValueError(f"c has stride {c.stride(1)} along its columns: rows must be contiguous")
    if c.shape[0] > 1 and c.stride(0) < c.shape[1]:
        raise ValueError(f"c has rows {c.stride(0)} apart, less than its {c.shape[1]} columns")


def _check_config(config: Mapping[str, int | bool], num_sms: int | None) -> None:
    if set(config) != set(_FIELDS):
        wrong = sorted(set(config) ^ set(_FIELDS))
        raise ValueError(f"config: wrong or missing field {wrong[0]!r}, need {', '.join(_FIELDS)}")
    for name in ("block_m", "block_n", "block_k", "num_warps"):
        least = 1 if name == "num_warps" else 16
        if int(config[name]) < least or not power_of_two(int(config[name])):
            raise ValueError(f"{name} {config[name]}: it must be a power of two, at least {least}")
    for name in ("group_m", "num_stages"):
        if int(config[name]) < 1:
            raise ValueError(f"{name} {config[name]}: it must be at least 1")
    if (config["tma"] or config["persistent"]) and not config["staged"]:
        raise ValueError("tma and persistent belong to staged configurations")
    if config["native"] and config["staged"]:
        raise ValueError("native and staged exclude each other: take one of them")
    if config["persistent"] and (num_sms is None or num_sms < 1):
        raise ValueError("a persistent config needs num_sms, the number of multiprocessors")


def _capability(device: torch.device) -> int:
    """Of an NVIDIA GPU, times ten; 0 for Triton's interpreter."""
    if device.type == "cpu":
        return 0
    if device.type == "meta":
        # Nothing lies there: the GPU that Triton was told to compile for.
        return int(triton.runtime.driver.active.get_current_target().arch)
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def _wide_name(a: StoredMatrix, b: StoredMatrix) -> str:
    names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return wide_type(
        *((s.element, s.stored if s.folded else "", names.get(s.codes.dtype, "")) for s in (a, b))
    )


def _fast(side: StoredMatrix, wide: str, capability: int) -> tuple[str, str]:
    """How codes become 16-bit floats without fp32 between, and by which PTX.

    See ``decoded_tile.operand_tile``.  The interpreter runs no PTX.
    """
    element = side.element
    facts = (element.kind, element.bits, element.mantissa, element.bias, element.specials)
    if not capability:
        return "", ""
    if capability >= _CAST_CAPABILITY and facts in _CASTS:
        return "cast", ""
    if element.kind == "int" and element.bits == 8 and (side.folded or not element.mantissa):
        return "int8", ""
    if facts == ("float", 4, 1, 1, "none"):
        return "halves", ""
    if ptx := float_bytes(element, wide):
        return "bytes", ptx
    words = whole_words(side.codes, side.columns, element.bits)
    if words and (ptx := six_bits(element, wide)):
        return "six", ptx
    return "", ""


def _constants(
    side: StoredMatrix, tile: tuple[int, int], wide: str, capability: int
) -> dict[str, Any]:
    """Compile-time constants of ``operand_tile``, tile and type aside."""
    element = side.element
    rows, cols = (extent or WHOLE for extent in side.block)
    even = side.rows % tile[0] == 0 and side.columns % tile[1] == 0
    fast, ptx = _fast(side, wide, capability)
    return {
        "KIND": element.kind,
        "BITS": element.bits,
        "MANTISSA": element.mantissa,
        "BIAS": element.bias,
        "SPECIALS": element.specials,
        "OFFSET": element.offset,
        "STORED": side.stored if side.folded else "",
        "ROWS": rows,
        "COLS": cols,
        "FAST": fast,
        "PTX": ptx,
        "WORDS": whole_words(side.codes, side.columns, element.bits),
        "EVEN": even,
    }


def _pointers(side: StoredMatrix) -> tuple[Any, ...]:
    """Codes, folded scales and zero points; the compiler drops what is never read."""
    scales = side.scales if side.folded else None
    zeros = side.zero_points
    stand_in = side.codes
    return side.codes, stand_in if scales is None else scales, stand_in if zeros is None else zeros


def _scale_strides(side: StoredMatrix) -> tuple[int, int]:
    if side.folded and side.scales is not None:
        return side.scales.stride(0), side.scales.stride(1)
    return 0, 0


def _decoding(
    side: StoredMatrix, out: torch.Tensor, wide: str, capability: int
) -> tuple[int, tuple[Any, ...], dict[str, Any]]:
    found = _constants(side, _TILE, wide, capability)
    renamed = {"ROWS": "SCALE_ROWS", "COLS": "SCALE_COLS"}
    constants = {renamed.get(name, name): value for name, value in found.items()}
    across = triton.cdiv(side.columns, _TILE[1])
    positional = (
        *_pointers(side),
        out,
        side.codes.stride(0),
        side.rows,
        side.columns,
        *_scale_strides(side),
        out.stride(0),
        across,
    )
    constants |= {"TILE_ROWS": _TILE[0], "TILE_COLS": _TILE[1], "num_warps": _WARPS}
    return triton.cdiv(side.rows, _TILE[0]) * across, positional, constants


def _staged(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None,
    num_sms: int | None,
    capability: int,
) -> Call:
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
    name = _wide_name(a, b)
    dtype = _WIDE[name][0]
    passes, decoded, start = [], [], 0
    for side in (a, b):
        size = _side_bytes(side.rows, side.columns)
        if side.element.kind == "plain":
            decoded.append(side.codes)
        else:
            rows = workspace[start : start + 2 * side.rows * _pitch(side.columns)].view(dtype)
            wide = rows.view(side.rows, _pitch(side.columns))[:, : side.columns]
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
            "config": {name: config[name] for name in _INNER},
            "num_sms": num_sms,
        },
    )


def _in_loop(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    config: Mapping[str, int | bool],
    capability: int,
) -> Call:
    block_m, block_n, block_k = (int(config[x]) for x in ("block_m", "block_n", "block_k"))
    wide = _wide_name(a, b)
    constants: dict[str, Any] = {}
    pointers: list[Any] = []
    strides: list[int] = []
    outer_strides: list[int] = []
    for prefix, side, tile in (("A", a, (block_m, block_k)), ("B", b, (block_n, block_k))):
        scales, block = side.outer
        if block is not None and block[1]:
            raise ValueError(
                f"{prefix.lower()}.block {block}: fp32 scales that change along K need a staged "
                "configuration"
            )
        found = _constants(side, tile, wide, capability)
        constants |= {f"{prefix}_{name}": value for name, value in found.items()}
        constants[f"{prefix}_OUTER"] = 0 if block is None else block[0] or WHOLE
        pointers += [*_pointers(side), c if scales is None else scales]
        strides += _scale_strides(side)
        outer_strides.append(0 if scales is None else scales.stride(0))
    constants |= {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": int(config["group_m"]),
        "WIDE": _WIDE[wide][1],
        "OUT": _OUTPUTS[c.dtype],
        "INTERPRET": capability == 0,
        "num_warps": int(config["num_warps"]),
        "num_stages": int(config["num_stages"]),
    }
    sizes = (a.rows, b.rows, a.columns)
    return Call(
        kernel="loop",
        grid=triton.cdiv(a.rows, block_m) * triton.cdiv(b.rows, block_n),
        positional=(
            *pointers,
            c,
            a.codes.stride(0),
            b.codes.stride(0),
            *sizes,
            *strides,
            *outer_strides,
            c.stride(0),
        ),
        keywords=constants,
    )


def _native(
    a: StoredMatrix, b: StoredMatrix, c: torch.Tensor, config: Mapping[str, int | bool]
) -> Call:
    formats = [block_format(s.element, s.stored, s.block[1]) for s in (a, b)]
    if "" in formats or a.stored != b.stored:
        raise ValueError(
            "native configurations multiply e4m3fn, e5m2 and e2m1fn with E8M0 scales of 32 "
            "columns, or e2m1fn with e4m3fn scales of 16, alike in a and b"
        )
    block_m, block_n, block_k = (int(config[x]) for x in ("block_m", "block_n", "block_k"))
    if block_k < 64:
        raise ValueError(f"block_k {block_k}: native configurations take at least 64")
    constants: dict[str, Any] = {"SCALE_COLS": a.block[1]}
    pointers: list[Any] = []
    strides: list[int] = []
    for prefix, side, name in (("A", a, formats[0]), ("B", b, formats[1])):
        constants |= {
            f"{prefix}_FORMAT": name,
            f"{prefix}_STORED": side.stored,
            f"{prefix}_ROWS": side.block[0] or WHOLE,
            f"{prefix}_OUTER": side.tensor_scale is not None,
        }
        outer = c if side.tensor_scale is None else side.tensor_scale
        pointers += [side.codes, side.scales, outer]
        strides += _scale_strides(side)
    constants |= {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": int(config["group_m"]),
        "EVEN": a.rows % block_m == b.rows % block_n == a.columns % block_k == 0,
        "OUT": _OUTPUTS[c.dtype],
        "num_warps": int(config["num_warps"]),
        "num_stages": int(config["num_stages"]),
    }
    sizes = (a.codes.stride(0), b.codes.stride(0), a.rows, b.rows, a.columns)
    return Call(
        kernel="native",
        grid=triton.cdiv(a.rows, block_m) * triton.cdiv(b.rows, block_n),
        positional=(*pointers, c, *sizes, *strides, c.stride(0)),
        keywords=constants,
    )


def arguments(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None,
    num_sms: int | None,
) -> Call:
    """Check everything, then say what a launch runs."""
    _check_config(config, num_sms)
    _check_product(a, b, c)
    named = {
        f"{name}.{what}": t for name, s in (("a", a), ("b", b)) for what, t in s.tensors.items()
    }
    written = {"c": c}
    if config["staged"] and workspace is not None:
        written["workspace"] = workspace
    check_memory(written, named)
    depth = int(config["block_k"])
    for side, tile in ((a, (int(config["block_m"]), depth)), (b, (int(config["block_n"]), depth))):
        check_reach(
            _TILE if config["staged"] else tile, (side.rows, _pitch(side.columns)), transposed=False
        )
    capability = _capability(c.device)
    if config["staged"]:
        return _staged(a, b, c, config, workspace, num_sms, capability)
    if config["native"]:
        return _native(a, b, c, config)
    return _in_loop(a, b, c, config, capability)
