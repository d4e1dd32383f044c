"""Which codes and scales kernels and layers lay out alike, and how kernels call them."""

import torch

from tiles.formats import Rounding, TensorFormat

__all__ = [
    "PLAIN",
    "ROW_STEP",
    "in_blocks",
    "powers",
    "seed_of",
    "square_side",
    "stored_scales",
    "turns",
]

#: Rows of codes begin at multiples of 16 bytes in the products' loads.
ROW_STEP = 16
#: Element names of torch's dtypes.
PLAIN = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
#: Elements whose codes are a byte each, which kernels and layers lay out alike.
_BYTES = ("int8", "mxint8", "e4m3fn", "e5m2")


def stored_scales(fmt: TensorFormat) -> str | None:
    """How kernels store the scales of codes that layers lay out alike; nothing for other codes."""
    scaling = fmt.scaling
    if scaling is None or scaling.two_level or fmt.asymmetric or fmt.element.name not in _BYTES:
        return None
    name = scaling.stored.name
    return name if name in ("fp32", "e8m0fnu") else None


def in_blocks(fmt: TensorFormat) -> bool:
    """True for codes of a byte in blocks of several rows, whose scales are fp32 and row-major."""
    scaling = fmt.scaling
    if scaling is None or stored_scales(fmt) != "fp32":
        return False
    return scaling.rows is not None and scaling.rows > 1 and scaling.cols is not None


def square_side(fmt: TensorFormat) -> int:
    """Side of the square blocks of INT8 codes that a program holds; 0 of all other formats."""
    scaling = fmt.scaling
    if not in_blocks(fmt) or scaling is None or not scaling.plain:
        return 0
    side = scaling.rows or 0
    fits = fmt.element.name == "int8" and side == scaling.cols and not side & (side - 1)
    return side if fits and 32 <= side <= 128 else 0


def turns(fmt: TensorFormat) -> bool:
    """True where one pass quantises a transposed view: INT8 in square blocks, to nearest."""
    return bool(square_side(fmt)) and fmt.rounding is Rounding.NEAREST_EVEN


def seed_of(out: TensorFormat, seed: int) -> int | None:
    """A kernel's seed: none of what is rounded to nearest."""
    return seed if out.rounding is Rounding.STOCHASTIC else None


def powers(bits: torch.Tensor) -> torch.Tensor:
    """E8M0 scales as layers keep them, in fp32: 2^(bits - 127), and NaN."""
    words = (bits.int() << 23).masked_fill(bits == 0, 1 << 22)  # 2^-127 is a subnormal of fp32
    return words.masked_fill(bits == 255, 0x7FC00000).view(torch.float32)
