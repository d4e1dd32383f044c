"""Formats of the Hopper products in CUDA C++, as the sources number them."""

from __future__ import annotations

__all__ = [
    "ARCHITECTURE",
    "BOTH",
    "DTYPES",
    "ELEMENTS",
    "ELEMENT_BYTES",
    "MAX_INT32_K",
    "MX",
    "MX_QUANT",
    "OUTPUTS",
    "QUANT",
    "ROW_BYTES",
    "SCALES",
]

#: What alone has ``wgmma``.
ARCHITECTURE = "sm_90a"
#: Operand formats by macro value; bf16 arrives as uint16, 8-bit floats as uint8 views.
ELEMENTS = ("bf16", "fp16", "e4m3fn", "e5m2", "int8")
#: Output formats by macro value; bf16 as a uint16 view.
OUTPUTS = ("bf16", "fp16", "fp32")
#: Scale modes by macro value: none, one each, rows of A and of B, 1x128 and 128x128, 128x128 both.
SCALES = ("none", "tensor", "row", "b1x128", "b128x128")
#: The next value, of one kernel alone: 1x128 scales on both sides.
BOTH = "b1x128_b1x128"
DTYPES = {
    "bf16": ("uint16",),
    "fp16": ("float16", "uint16"),
    "fp32": ("float32",),
    "e4m3fn": ("uint8",),
    "e5m2": ("uint8",),
    "int8": ("int8",),
    "e8m0fnu": ("uint8",),
}
ELEMENT_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "e4m3fn": 1, "e5m2": 1, "int8": 1}
#: Of one kernel alone: E8M0 scales of 1x32 on both sides, and K under one of them.
MX, MX_QUANT = "mx", 32
#: Bytes of K in a stage, the width of the swizzle, and of a staging buffer's rows.
ROW_BYTES = 128
#: K, and rows of B, under one scale of the blockwise modes.
QUANT = 128
#: An integer sum of this many products of codes up to 127 stays below 2^31.
MAX_INT32_K = (2**31 - 1) // 127**2
