"""The scales behind a rounded tensor, and what its blocks can represent."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tiles.formats import (
    CodebookElement,
    ElementFormat,
    FloatElement,
    IntElement,
    PositElement,
    Rounding,
    ScaleRule,
    Scaling,
    TensorFormat,
)
from tiles.formats.block_scales import block_amax, block_scales, tensor_scale, zero_points

__all__ = ["BlockScales", "block_grid", "find_scales", "scales_of"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]

_Grid = TypeVar("_Grid", F32, F64)


def block_grid(grid: _Grid, scaling: Scaling | None, first: int, rows: int, cols: int) -> _Grid:
    """One item an element for ``rows`` rows from ``first`` on, or what broadcasts to that."""
    if scaling is None:
        return grid
    if scaling.rows is not None:
        grid = grid[np.arange(first, first + rows) // scaling.rows]
    if scaling.cols is not None:
        grid = np.repeat(grid, scaling.cols, axis=1)[:, :cols]
    return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockScales:
    """Scales of a tensor, its second level included."""

    format: TensorFormat
    scales: F64  #: scale grid of the format; a single 1 without scaling
    zeros: F64 | None  #: zero points, on the same grid

    def limits(self) -> tuple[F64, F64]:
        """Lowest and highest number of each block that does not saturate, on the scale grid.

        As IEEE 754-2019, section 7.4 has it for overflow: a number saturates when rounding to
        nearest without a largest code would leave it beyond that code, so half a step above the
        largest value still counts as rounding.
        """
        low, high = _reach(self.format.element)
        zeros = 0.0 if self.zeros is None else self.zeros
        return (low - zeros) * self.scales, (high - zeros) * self.scales


def find_scales(x: F32, fmt: TensorFormat, rounded: Floats) -> BlockScales:
    """The scales that a rounder used on ``x``.

    They follow from ``x`` by the reference's rules.  Those of the MSE rule, which the reference
    searches for block by block, are read off the result where they can be: such scales lie at or
    below amax / max_element, so each block's largest magnitude has the largest code.

    Args:
        x: (rows, cols) float32, finite.
        rounded: (rows, cols) what the codes of ``x`` stand for.
    """
    scaling = fmt.scaling
    if scaling is None:
        return BlockScales(format=fmt, scales=np.ones((1, 1)), zeros=None)
    nearest = fmt.rounding is Rounding.NEAREST_EVEN
    if scaling.rule is ScaleRule.MSE and nearest and not scaling.two_level:
        tops = block_amax(rounded.astype(np.float32), scaling) / np.float64(fmt.element.max)
        return BlockScales(format=fmt, scales=np.where(tops > 0, tops, 1.0), zeros=None)
    outer = np.float32(1)
    if scaling.two_level:
        outer = tensor_scale(block_amax(x, scaling), fmt.element, scaling)
    scales = block_scales(x, fmt.element, scaling, outer)
    zeros = None
    if fmt.asymmetric:
        assert isinstance(fmt.element, IntElement)
        zeros = zero_points(x, fmt.element, scaling, scales).astype(np.float64)
    return BlockScales(
        format=fmt, scales=scales.astype(np.float64) * np.float64(outer), zeros=zeros
    )


def scales_of(amax: F32, fmt: TensorFormat, scaling: Scaling, outer: np.float32) -> F32:
    """(n,) scales of blocks with these largest magnitudes, by the reference's rule.

    Args:
        amax: (n,) float32; of asymmetric formats the span from the lowest to the highest value.
        outer: the tensor's own scale, 1 where there is one level; the result has it multiplied in.
    """
    single = replace(scaling, rows=1, cols=1)
    return block_scales(amax[:, None], fmt.element, single, outer)[:, 0] * outer


def _reach(element: ElementFormat) -> tuple[float, float]:
    """Lowest and highest number that rounding to nearest does not saturate."""
    match element:
        case FloatElement():
            half = 2.0 ** (element.max_exponent - element.mantissa_bits - 1)
            low = -element.max - half if element.signed else -element.min_subnormal / 2
            return low, element.max + half
        case IntElement():
            half = element.min_subnormal / 2
            return (-element.max if element.signed else 0.0) - half, element.max + half
        case CodebookElement():
            v = element.values
            return v[0] - (v[1] - v[0]) / 2, v[-1] + (v[-1] - v[-2]) / 2
        case PositElement():
            return -element.max, element.max
