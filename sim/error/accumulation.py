"""How a tensor core adds up a product of 8-bit floats, modelled step by step.

**Modelled.** An MMA instruction takes 32 products along K, which are exact (8 significand bits).
Together with the accumulator they are shifted to the exponent of the largest of them, 14 bits of
each are kept by truncation toward zero, and the sum goes back into the accumulator, truncated to 14
bits.  That is what the DeepSeek-V3 report (arXiv 2412.19437, sections 3.3.2 and 3.5.2) finds in
Hopper: products are aligned "by right-shifting based on the maximum exponent", "the highest 14
bits" are added.  When the sum is promoted, it is multiplied by its blocks' scales and added to fp32
registers, in fp32.  A kernel has to promote wherever a scale changes along K, whether asked or not.

**Not modelled.** The order within an instruction, which truncation of every addend to one unit
makes irrelevant; hardware may align to the largest sum of the operands' exponents instead of the
product's own, which coarsens some units by one bit; guard bits, if there are any.  Nothing of this
was measured here: the 14 bits are the literature's, and the bounds in
:mod:`tiles.kernels.accuracy`, which kernels are held to on the GPU, rest on the same figure.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sim.error.rounding import round_to_nearest
from sim.error.scales import BlockScales, block_grid
from tiles.formats import ELEMENTS, FloatElement, TensorFormat
from tiles.intake import nearest, shown
from tiles.kernels.accumulator import HOPPER_FP8_BITS, HOPPER_FP8_DEPTH

__all__ = ["Accumulation", "Operand", "limited", "limited_product", "promotions"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Elements of the output that are added up at once: some 0.25 MB a temporary.
_TILE_ELEMENTS = 2**16
_NAMES = ("exact", "hopper-fp8", "hopper-fp8+128")
_EXPONENT = np.uint32(0x7F80_0000)
#: What wgmma and mma.sync take as ``.e4m3`` and ``.e5m2``: PTX ISA, section 9.7.
_MULTIPLIED = (ELEMENTS["e4m3fn"], ELEMENTS["e5m2"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulation:
    """The arithmetic of the sums along K."""

    significand_bits: int | None = None  #: kept of each addend; ``None``: exact, in fp64
    depth: int = HOPPER_FP8_DEPTH  #: elements along K of one MMA instruction
    interval: int | None = None  #: elements along K between promotions to fp32; ``None``: never

    EXACT: ClassVar["Accumulation"]
    HOPPER_FP8: ClassVar["Accumulation"]  #: promoted where scales change along K, or never
    HOPPER_FP8_PROMOTED: ClassVar["Accumulation"]  #: every 128 of K, four instructions

    def __post_init__(self) -> None:
        if self.significand_bits is None:
            if self.interval is not None:
                raise ValueError("exact sums are not promoted: leave the interval out")
        elif not 8 <= self.significand_bits <= 18:
            # Products have 8 bits; 18 more than hold 33 addends of up to 18 bits in fp32.
            raise ValueError(f"accumulators of 8 to 18 bits, got {self.significand_bits}")
        if not 1 <= self.depth <= HOPPER_FP8_DEPTH:
            raise ValueError(
                f"an instruction adds 1 to {HOPPER_FP8_DEPTH} products, got {self.depth}"
            )
        if self.interval is not None and (self.interval < 1 or self.interval % self.depth):
            raise ValueError(
                f"promotion every {self.interval} of K: take a multiple of {self.depth}, the depth "
                "of an instruction"
            )

    @classmethod
    def parse(cls, text: str) -> "Accumulation":
        """Read ``exact``, ``hopper-fp8`` or, promoted every 128 of K, ``hopper-fp8+128``.

        Raises:
            ValueError: none of these, or an interval that is no multiple of 32.
        """
        if text == "exact":
            return cls.EXACT
        match = re.fullmatch(r"hopper-fp8(?:\+([1-9][0-9]{0,5}))?", text)
        if match is None:
            raise ValueError(
                f"unknown accumulation {shown(text)}: {nearest(text, _NAMES)}"
                "choose exact, hopper-fp8 or, promoted every 128 of K, hopper-fp8+128"
            )
        return cls(
            significand_bits=HOPPER_FP8_BITS, interval=None if match[1] is None else int(match[1])
        )

    def __str__(self) -> str:
        """As :meth:`parse` reads it; other widths and depths have no spelling of their own."""
        if self.significand_bits is None:
            return "exact"
        return "hopper-fp8" + ("" if self.interval is None else f"+{self.interval}")


Accumulation.EXACT = Accumulation()
Accumulation.HOPPER_FP8 = Accumulation(significand_bits=HOPPER_FP8_BITS)
Accumulation.HOPPER_FP8_PROMOTED = Accumulation(significand_bits=HOPPER_FP8_BITS, interval=128)


def limited(fmt: TensorFormat) -> bool:
    """True for the 8-bit floats that tensor cores multiply, through the limited accumulator.

    They are e4m3fn and e5m2; other 8-bit floats are decoded into 16 bits first, whose sums keep 24
    bits.  Sums of int8 are exact.
    """
    return fmt.element in _MULTIPLIED


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """One side of a product as the tensor core gets it: element values, and scales apart."""

    values: F32  #: (rows, K) on the element's grid
    blocks: BlockScales

    @classmethod
    def of(cls, rounded: F32 | F64, blocks: BlockScales) -> "Operand":
        """Take what codes stand for apart into values and scales.

        Args:
            rounded: (rows, K) what the codes stand for, in fp32 or better.
        """
        element = blocks.format.element
        assert isinstance(element, FloatElement)
        scales = block_grid(blocks.scales, blocks.format.scaling, 0, *rounded.shape)
        # The quotient is an element's value but for the rounding of code x scale.
        values = round_to_nearest((rounded / scales).astype(np.float32), element)
        return cls(values=values.astype(np.float32), blocks=blocks)

    def scales_at(self, k: int) -> F32:
        """(rows,) scales of column ``k``."""
        scaling = self.blocks.format.scaling
        cols = None if scaling is None else scaling.cols
        column = self.blocks.scales[:, 0 if cols is None else k // cols]
        rows = len(self.values)
        high = rows if scaling is None or scaling.rows is None else scaling.rows
        return column[np.arange(rows) // high].astype(np.float32)


def promotions(a: TensorFormat, b: TensorFormat, k: int, accumulation: Accumulation) -> list[int]:
    """Columns where sums start from zero, ascending, and ``k`` at the end."""
    intervals = [accumulation.interval]
    intervals += [fmt.scaling.cols for fmt in (a, b) if fmt.scaling is not None]
    starts = {0, k}
    for interval in intervals:
        if interval is not None:
            starts.update(range(0, k, interval))
    return sorted(starts)


def limited_product(a: Operand, b: Operand, accumulation: Accumulation) -> F64:
    """``a @ b.T`` through an accumulator that keeps few bits.

    Args:
        a: (M, K). b: (N, K).
    Returns:
        (M, N) float64 that hold the fp32 results.
    """
    (m, k), n = a.values.shape, len(b.values)
    edges = promotions(a.blocks.format, b.blocks.format, k, accumulation)
    a_columns, b_columns = (np.ascontiguousarray(x.values.T) for x in (a, b))
    total = np.zeros((m, n), np.float32)
    step = max(1, _TILE_ELEMENTS // n)
    for first, end in pairwise(edges):
        a_scales, b_scales = a.scales_at(first), b.scales_at(first)
        for row in range(0, m, step):
            rows = slice(row, row + step)
            part = _sum(a_columns[first:end, rows], b_columns[first:end], accumulation)
            total[rows] += part * (a_scales[rows, None] * b_scales)
    return total.astype(np.float64)


def _sum(a: F32, b: F32, accumulation: Accumulation) -> F32:
    """(m, n) sums of a[k, m] · b[k, n] over k, never promoted."""
    bits = accumulation.significand_bits
    assert bits is not None
    total = np.zeros((a.shape[1], b.shape[1]), np.float32)
    product = np.empty_like(total)
    # What truncation to ``bits`` leaves of an fp32 significand.
    kept = np.uint32(0xFFFF_FFFF << (24 - bits) & 0xFFFF_FFFF)
    for first in range(0, len(a), accumulation.depth):
        columns = [
            (x[:, None], y)
            for x, y in zip(
                a[first : first + accumulation.depth],
                b[first : first + accumulation.depth],
                strict=True,
            )
        ]
        top = np.abs(total)
        for x, y in columns:
            np.multiply(np.abs(x), np.abs(y), out=product)
            np.maximum(top, product, out=top)
        exponent = (top.view(np.uint32) & _EXPONENT).view(np.float32)
        unit = np.where(top > 0, exponent, np.float32(1)) * np.float32(2.0 ** (1 - bits))
        per_unit = np.float32(1) / unit  # a power of two: exact
        total *= per_unit
        np.trunc(total, out=total)
        for x, y in columns:
            np.multiply(x, y, out=product)
            product *= per_unit
            np.trunc(product, out=product)
            total += product
        total *= unit
        total = (total.view(np.uint32) & kept).view(np.float32)
    return total
