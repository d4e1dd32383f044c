"""Compile-time constants of the kernels that decode: what a stored matrix is, how it is decoded."""

from typing import Any

import torch
import triton.language as tl

from .decoded_element import wide_type
from .decoded_operand import StoredMatrix
from .decoded_ptx import float_bytes, six_bits
from .tile_checks import WHOLE, whole_words

__all__ = ["WIDE", "constants", "pointers", "scale_strides", "wide_name"]

#: 16-bit floats by name.
WIDE = {"bf16": (torch.bfloat16, tl.bfloat16), "fp16": (torch.float16, tl.float16)}
#: First capability that converts 8-bit floats, times ten.
_CAST_CAPABILITY = 89
#: Facts of the floats that it converts.
_CASTS = (("float", 8, 3, 7, "fn"), ("float", 8, 2, 15, "ieee"))


def wide_name(a: StoredMatrix, b: StoredMatrix) -> str:
    """The 16-bit float that both operands are decoded to, by name."""
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


def constants(
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


def pointers(side: StoredMatrix) -> tuple[Any, ...]:
    """Codes, folded scales and zero points; the compiler drops what is never read."""
    scales = side.scales if side.folded else None
    zeros = side.zero_points
    stand_in = side.codes
    return side.codes, stand_in if scales is None else scales, stand_in if zeros is None else zeros


def scale_strides(side: StoredMatrix) -> tuple[int, int]:
    """Row and column strides of folded scales; 0 without any."""
    if side.folded and side.scales is not None:
        return side.scales.stride(0), side.scales.stride(1)
    return 0, 0
