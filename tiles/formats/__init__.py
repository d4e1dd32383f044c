"""Number formats: elements, scaling, and the reference codec."""

from tiles.formats.codec import Quantized, dequantize, quantize, round_to_element
from tiles.formats.elements import (
    ELEMENTS,
    ElementFormat,
    FloatElement,
    IntElement,
    Specials,
    element,
)
from tiles.formats.tensor import Scaling, TensorFormat

__all__ = [
    "ELEMENTS",
    "ElementFormat",
    "FloatElement",
    "IntElement",
    "Quantized",
    "Scaling",
    "Specials",
    "TensorFormat",
    "dequantize",
    "element",
    "quantize",
    "round_to_element",
]
