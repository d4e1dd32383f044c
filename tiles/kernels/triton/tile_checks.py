"""Checks of codes, scales and names that the tile kernels share, made before any launch."""

import torch

from .launch_checks import check_given
from .tile_elements import ELEMENTS, constants
from .tile_packing import WORD_CODES, row_bytes

__all__ = [
    "STORED",
    "SWIZZLE",
    "WHOLE",
    "check_codes",
    "check_levels",
    "check_names",
    "check_reach",
    "check_scales",
    "check_tensor_scale",
    "check_whole",
    "whole_words",
]

#: Formats of stored scales, and the dtype that holds them.
STORED = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "e8m0fnu": torch.uint8,
    "e4m3fn": torch.uint8,
}
#: Rows and columns of a tile of swizzled scales.
SWIZZLE = (128, 4)
#: A power of two above every extent under one scale: what stands for a whole extent.
WHOLE = 2**30


def whole_words(codes: torch.Tensor, cols: int, bits: int) -> bool:
    """True where rows of packed codes consist of whole aligned 4-byte words."""
    return bits in WORD_CODES and cols % WORD_CODES[bits] == 0 and codes.data_ptr() % 4 == 0


def check_names(element: str, stored: str) -> None:
    """Refuse an element or a scale format that is not served.

    Raises:
        ValueError: the first of them.
    """
    if element not in ELEMENTS:
        raise ValueError(f"element {element!r}: choose one of {', '.join(ELEMENTS)}")
    if stored not in STORED:
        raise ValueError(f"stored {stored!r}: choose one of {', '.join(STORED)}")


def check_levels(stored: str, tensor_scale: torch.Tensor | None) -> None:
    """Refuse a second level without e4m3fn scales, and the other way round.

    Raises:
        ValueError: one of them is missing.
    """
    if (stored == "e4m3fn") != (tensor_scale is not None):
        raise ValueError("e4m3fn scales, and they alone, take a tensor_scale")


def check_tensor_scale(tensor_scale: torch.Tensor) -> None:
    """Refuse a second level that is not (1,) fp32.

    Raises:
        TypeError: another dtype; ValueError: another shape.
    """
    if tensor_scale.dtype != torch.float32:
        raise TypeError(f"tensor_scale has dtype {tensor_scale.dtype}: it must be float32")
    if tuple(tensor_scale.shape) != (1,):
        raise ValueError(f"tensor_scale has shape {tuple(tensor_scale.shape)}: it must be (1,)")


def check_reach(tile: tuple[int, int], shape: tuple[int, int], *, transposed: bool) -> None:
    """Refuse tiles whose offsets do not fit into 32 bits.

    Args:
        transposed: tiles of the transposed matrix are written as well.
    Raises:
        ValueError: names tile and matrix.
    """
    (rows, cols), (high, wide) = shape, tile
    if high * max(cols, wide) >= 2**31 or (transposed and wide * max(rows, high) >= 2**31):
        raise ValueError(f"tile {high}x{wide} of {rows}x{cols}: it spans 2^31 elements or more")


def check_whole(name: str, shape: tuple[int, int], block: tuple[int, int]) -> None:
    """Refuse an extent under one scale, 0 in ``block``, that :data:`WHOLE` does not cover.

    Raises:
        ValueError: names the matrix.
    """
    for extent, under in zip(shape, block, strict=True):
        if under == 0 and extent > WHOLE:
            raise ValueError(f"{name}: {extent} rows or columns under one scale, at most {WHOLE}")


def check_codes(name: str, codes: torch.Tensor, rows: int, cols: int, element: str) -> None:
    bits = constants(element)["BITS"]
    check_given(name, codes)
    if codes.element_size() != 1 or codes.dtype == torch.bool:
        raise TypeError(f"{name} have dtype {codes.dtype}: they must be of a one-byte dtype")
    wanted = (rows, row_bytes(cols, int(bits)))
    if tuple(codes.shape) != wanted:
        raise ValueError(
            f"{name} have shape {tuple(codes.shape)}: {rows}x{cols} codes of {bits} bits take "
            f"{wanted}"
        )
    if not codes.is_contiguous():
        raise ValueError(f"{name} have strides {codes.stride()}: they must be contiguous")


def check_scales(
    name: str,
    scales: torch.Tensor,
    shape: tuple[int, int],
    block: tuple[int, int],
    stored: str,
    swizzled: bool,
) -> None:
    check_given(name, scales)
    if scales.dtype != STORED[stored]:
        raise TypeError(f"{name} have dtype {scales.dtype}: {stored} scales are {STORED[stored]}")
    grid = [-(-n // b) if b else 1 for n, b in zip(shape, block, strict=True)]
    if not swizzled:
        if list(scales.shape) != grid:
            raise ValueError(
                f"{name} have shape {tuple(scales.shape)}: blocks of {tuple(block)} on "
                f"{tuple(shape)} need {tuple(grid)}"
            )
        return
    size = -(-grid[0] // SWIZZLE[0]) * -(-grid[1] // SWIZZLE[1]) * SWIZZLE[0] * SWIZZLE[1]
    if tuple(scales.shape) != (size,) or not scales.is_contiguous():
        raise ValueError(
            f"{name} have shape {tuple(scales.shape)}: {grid[0]}x{grid[1]} swizzled scales take "
            f"({size},), contiguous"
        )
