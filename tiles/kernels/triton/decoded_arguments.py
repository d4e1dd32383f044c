"""Turns the operands of a decoded product and a configuration into what a launch runs."""

from collections.abc import Mapping
from typing import Any

import torch
import triton

from .capability import capability_of
from .decoded_call import Call
from .decoded_checks import check_config, check_product
from .decoded_constants import WIDE, constants, pointers, scale_strides, wide_name
from .decoded_element import block_format
from .decoded_operand import StoredMatrix
from .decoded_staging import TILE, pitch, staged, workspace_bytes
from .launch_checks import OUTPUTS, check_memory
from .tile_checks import WHOLE, check_reach

__all__ = ["arguments", "workspace_bytes"]


def _in_loop(
    a: StoredMatrix,
    b: StoredMatrix,
    c: torch.Tensor,
    config: Mapping[str, int | bool],
    capability: int,
) -> Call:
    block_m, block_n, block_k = (int(config[x]) for x in ("block_m", "block_n", "block_k"))
    wide = wide_name(a, b)
    made: dict[str, Any] = {}
    addresses: list[Any] = []
    strides: list[int] = []
    outer_strides: list[int] = []
    for prefix, side, tile in (("A", a, (block_m, block_k)), ("B", b, (block_n, block_k))):
        scales, block = side.outer
        if block is not None and block[1]:
            raise ValueError(
                f"{prefix.lower()}.block {block}: fp32 scales that change along K need a staged "
                "configuration"
            )
        found = constants(side, tile, wide, capability)
        made |= {f"{prefix}_{name}": value for name, value in found.items()}
        made[f"{prefix}_OUTER"] = 0 if block is None else block[0] or WHOLE
        addresses += [*pointers(side), c if scales is None else scales]
        strides += scale_strides(side)
        outer_strides.append(0 if scales is None else scales.stride(0))
    made |= {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": int(config["group_m"]),
        "WIDE": WIDE[wide][1],
        "OUT": OUTPUTS[c.dtype],
        "WGMMA": capability == 90,
        "INTERPRET": capability == 0,
        "num_warps": int(config["num_warps"]),
        "num_stages": int(config["num_stages"]),
    }
    sizes = (a.rows, b.rows, a.columns)
    return Call(
        kernel="loop",
        grid=triton.cdiv(a.rows, block_m) * triton.cdiv(b.rows, block_n),
        positional=(
            *addresses,
            c,
            a.codes.stride(0),
            b.codes.stride(0),
            *sizes,
            *strides,
            *outer_strides,
            c.stride(0),
        ),
        keywords=made,
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
    made: dict[str, Any] = {"SCALE_COLS": a.block[1]}
    addresses: list[Any] = []
    strides: list[int] = []
    for prefix, side, name in (("A", a, formats[0]), ("B", b, formats[1])):
        made |= {
            f"{prefix}_FORMAT": name,
            f"{prefix}_STORED": side.stored,
            f"{prefix}_ROWS": side.block[0] or WHOLE,
            f"{prefix}_OUTER": side.tensor_scale is not None,
        }
        outer = c if side.tensor_scale is None else side.tensor_scale
        addresses += [side.codes, side.scales, outer]
        strides += scale_strides(side)
    made |= {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "GROUP_M": int(config["group_m"]),
        "EVEN": a.rows % block_m == b.rows % block_n == a.columns % block_k == 0,
        "OUT": OUTPUTS[c.dtype],
        "num_warps": int(config["num_warps"]),
        "num_stages": int(config["num_stages"]),
    }
    sizes = (a.codes.stride(0), b.codes.stride(0), a.rows, b.rows, a.columns)
    return Call(
        kernel="native",
        grid=triton.cdiv(a.rows, block_m) * triton.cdiv(b.rows, block_n),
        positional=(*addresses, c, *sizes, *strides, c.stride(0)),
        keywords=made,
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
    check_config(config, num_sms)
    check_product(a, b, c)
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
            TILE if config["staged"] else tile, (side.rows, pitch(side.columns)), transposed=False
        )
    capability = capability_of(c.device)
    if config["staged"]:
        return staged(a, b, c, config, workspace, num_sms, capability)
    if config["native"]:
        return _native(a, b, c, config)
    return _in_loop(a, b, c, config, capability)
