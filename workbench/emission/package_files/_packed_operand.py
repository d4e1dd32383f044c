"""Packed codes and their scales: what they must look like, and scales as kernels read them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._operands import scale_grid
from ._torch_device import NAMES

#: Dtypes in which scales of a stored format are taken; the first is the kernel's.
_SCALES = {
    "fp32": (torch.float32,),
    "e8m0fnu": (torch.uint8, torch.float8_e8m0fnu, torch.float32),
    "e4m3fn": (torch.uint8, torch.float8_e4m3fn),
}


def item_bits(facts: Mapping[str, Any]) -> int:
    """Bits of codes that an item of the tensor holds."""
    bits: int = facts["bits"] if facts["kind"] == "plain" else 8
    return bits


def check_side(
    name: str,
    codes: Tensor,
    scale: Tensor | None,
    outer: Tensor | None,
    facts: Mapping[str, Any],
    columns: int,
) -> None:
    """Raises ValueError or TypeError for an operand that is not what a recipe asks for."""
    plain = facts["kind"] == "plain"
    if plain and NAMES.get(codes.dtype) != facts["element"]:
        raise TypeError(f"{name} must hold {facts['element']} for this recipe, got {codes.dtype}")
    if not plain and codes.element_size() != 1:
        raise TypeError(f"{name} holds {codes.dtype}: view its codes as torch.uint8")
    items = columns if plain else -(-columns * facts["bits"] // 8)
    if codes.shape[1] != items:
        raise ValueError(
            f"{name} has {codes.shape[1]} items a row: {columns} columns of {facts['bits']} bits "
            f"take {items}"
        )
    block = facts["block"]
    if block is None:
        if scale is not None:
            raise ValueError(f"{name}_scale: the recipe leaves {name} unscaled, pass None")
        return
    grid = scale_grid(codes.shape[0], columns, block)
    if scale is None:
        raise ValueError(f"{name}_scale is missing: the recipe takes scales {grid}")
    if scale.dtype not in _SCALES[facts["stored"]]:
        wanted = " or ".join(map(str, _SCALES[facts["stored"]]))
        raise TypeError(f"{name}_scale must be {wanted}, got {scale.dtype}")
    if tuple(scale.shape) != grid:
        raise ValueError(f"{name}_scale must be {grid}, got {tuple(scale.shape)}")
    if facts["two_level"] != (outer is not None):
        needed = "needs" if facts["two_level"] else "has no"
        raise ValueError(f"{name}_tensor_scale: the recipe {needed} a second level of scales")


def scale_bits(scale: Tensor | None, stored: str) -> Tensor | None:
    """Scales as the decoding kernel reads them: fp32, or bit patterns."""
    if scale is None or stored == "fp32" or scale.dtype == torch.uint8:
        return scale
    if scale.dtype == torch.float32:
        # The exponent field: that of 2^-127, a subnormal, is 0, that of NaN 255.
        return (scale.view(torch.int32) >> 23).to(torch.uint8)
    return scale.view(torch.uint8)


def powers(scale: Tensor) -> Tensor:
    """E8M0 scales as fp32."""
    if scale.dtype == torch.float32:
        return scale
    bits = scale.view(torch.uint8).to(torch.int32)
    words = torch.where(bits == 0, 1 << 22, bits << 23)
    return torch.where(bits == 255, 0x7FC00000, words).view(torch.float32)
