"""Number formats: elements, scaling, and the reference codec."""

from tiles.formats.catalogue import ELEMENTS, SCALE_ELEMENTS, element, scale_element
from tiles.formats.codec import Quantized, dequantize, quantize, scale_codes
from tiles.formats.elements import (
    CodebookElement,
    ElementFormat,
    ExponentElement,
    FloatElement,
    IntElement,
    PositElement,
    Specials,
)
from tiles.formats.encode import can_overflow, code_dtype, decode, encode
from tiles.formats.grid import CodeGrid, code_grid, code_values
from tiles.formats.packed import PackedMatrix, pack, unpack
from tiles.formats.packing import pack_codes, swizzle_scales, unpack_codes, unswizzle_scales
from tiles.formats.rounding import Rounding, philox, random_bits
from tiles.formats.scaling import ScaleRule, Scaling
from tiles.formats.tensor import TensorFormat

__all__ = [
    "ELEMENTS",
    "SCALE_ELEMENTS",
    "CodeGrid",
    "CodebookElement",
    "ElementFormat",
    "ExponentElement",
    "FloatElement",
    "IntElement",
    "PackedMatrix",
    "PositElement",
    "Quantized",
    "Rounding",
    "ScaleRule",
    "Scaling",
    "Specials",
    "TensorFormat",
    "can_overflow",
    "code_dtype",
    "code_grid",
    "code_values",
    "decode",
    "dequantize",
    "element",
    "encode",
    "pack",
    "pack_codes",
    "philox",
    "quantize",
    "random_bits",
    "scale_codes",
    "scale_element",
    "swizzle_scales",
    "unpack",
    "unpack_codes",
    "unswizzle_scales",
]
