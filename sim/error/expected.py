"""The signal-to-noise ratio that a format should leave, from densities instead of samples.

With a scale ``s`` the squared error is a quadratic between neighbouring thresholds of the element
(:mod:`sim.error.pieces`), so its mean over a density is a sum of differences of three integrals,
exact and without sampling.  Scales follow from a block's largest magnitude A, whose distribution is
``F(a)^n``; it is cut into slices, and the scale of each comes from the reference's own rule.  Given
A the other values are independent and have the density cut off at A.  What is computed is the ratio
of the expected sums of squares.

There is no such form for scales that depend on more than extremes (MSE, percentile), nor for zero
points beside outliers or in blocks of a few values.
"""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sim.error.asymmetric import FEWEST_VALUES, asymmetric_noise
from sim.error.datasets import check_kind, outlier_channels
from sim.error.densities import DENSITIES, Density
from sim.error.pieces import pieces
from sim.error.populations import Population, largest
from sim.error.scales import scales_of
from sim.error.tensor import ratio_db
from tiles.formats import Rounding, ScaleRule, Scaling, TensorFormat, decode, encode
from tiles.formats.block_scales import tensor_scale

__all__ = ["expected_sqnr_db"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Slices of the distribution of a block's largest magnitude: scales that are powers of two jump,
#: others follow it smoothly.
_JUMPING_SLICES = 512
_SMOOTH_SLICES = 96
#: Slices of a tensor's largest magnitude, where a second level of scales follows from it.
_TENSOR_SLICES = 8
#: Numbers of outlier channels in a block that are less likely than this are left out.
_RARE = 1e-9


@cache
def expected_sqnr_db(fmt: TensorFormat, kind: str, rows: int, cols: int) -> float | None:
    """Expected signal-to-noise ratio of a tensor under a format, in decibel.

    Args:
        fmt: element, scaling and rounding.
        kind: one of ``DATA_KINDS``; ``outlier`` means activations, with six of 1024 channels
            enlarged.
        rows: extent of the tensor; the largest of many values depends on their number.
        cols: extent of the tensor.
    Returns:
        10·log10(expected sum of x² / expected sum of error²), infinite for fp32 without scales or
        under powers of two; ``None`` where no closed form or one-dimensional integral exists.
    Raises:
        ValueError: unknown kind or an empty tensor.
    """
    check_kind(kind)
    if rows < 1 or cols < 1:
        raise ValueError(f"data of shape {rows} x {cols}: both extents must be at least 1")
    scaling = fmt.scaling
    if scaling is None:
        if fmt.element.name == "fp32":
            return math.inf
        whole = _whole(kind, rows, cols)
        return ratio_db(whole.signal, _unscaled_noise(fmt, whole))
    if scaling.rule in (ScaleRule.MSE, ScaleRule.PERCENTILE):
        return None
    if fmt.asymmetric and (kind == "outlier" or _block_size(scaling, rows, cols) < FEWEST_VALUES):
        return None
    noise = 0.0
    for likely, outer in _outer_scales(fmt, scaling, kind, rows, cols):
        for expected, block in _blocks(scaling, kind, rows, cols):
            if fmt.asymmetric:
                noise += expected * asymmetric_noise(fmt, scaling, block)
            else:
                noise += likely * expected * _block_noise(fmt, scaling, block, outer)
    return ratio_db(_whole(kind, rows, cols).signal, noise)


def _density(kind: str) -> Density:
    return DENSITIES["normal" if kind == "outlier" else kind]


def _whole(kind: str, rows: int, cols: int) -> Population:
    channels = outlier_channels(cols) if kind == "outlier" else 0
    return Population(
        density=_density(kind), plain=rows * (cols - channels), outliers=rows * channels
    )


def _block_size(scaling: Scaling, rows: int, cols: int) -> int:
    """Values of a whole block."""
    return min(scaling.rows or rows, rows) * min(scaling.cols or cols, cols)


def _spans(total: int, extent: int | None) -> Iterator[tuple[int, int]]:
    """How many blocks there are along one axis, and their extent; the ragged one last."""
    extent = total if extent is None else min(extent, total)
    yield total // extent, extent
    if total % extent:
        yield 1, total % extent


def _blocks(
    scaling: Scaling, kind: str, rows: int, cols: int
) -> Iterator[tuple[float, Population]]:
    """Expected numbers of blocks, and what is in them."""
    channels = outlier_channels(cols) if kind == "outlier" else 0
    for high_count, high in _spans(rows, scaling.rows):
        for wide_count, wide in _spans(cols, scaling.cols):
            for among in range(max(0, wide - cols + channels), min(channels, wide) + 1):
                # The channels are drawn without replacement: a hypergeometric number of them.
                likely = math.comb(channels, among) * math.comb(cols - channels, wide - among)
                probability = likely / math.comb(cols, wide)
                if probability < _RARE:
                    continue
                yield (
                    probability * high_count * wide_count,
                    Population(
                        density=_density(kind),
                        plain=high * (wide - among),
                        outliers=high * among,
                    ),
                )


def _outer_scales(
    fmt: TensorFormat, scaling: Scaling, kind: str, rows: int, cols: int
) -> Iterator[tuple[float, np.float32]]:
    """Scales of the whole tensor and their probabilities; 1 where there is one level."""
    if not scaling.two_level:
        yield 1.0, np.float32(1)
        return
    top = largest(_whole(kind, rows, cols), _TENSOR_SLICES)
    for size, weight in zip(top.sizes.astype(np.float32), top.weights, strict=True):
        yield float(weight), tensor_scale(np.array([[size]]), fmt.element, scaling)


def _unscaled_noise(fmt: TensorFormat, population: Population) -> float:
    one, everything = np.ones(1), np.full(1, np.inf)
    return sum(
        n * float(_both_sides(fmt, everything, one, population.density, gain)[0])
        for n, gain in population.groups
    )


def _both_sides(fmt: TensorFormat, limits: F64, scales: F64, density: Density, gain: float) -> F64:
    # Division rounds to fp32 before the element's own rounding, which then has nothing to do.
    rounding = Rounding.NEAREST_EVEN if fmt.element.name == "fp32" else fmt.rounding
    positive, negative = pieces(fmt.element, rounding)
    above = positive.below(limits, scales, density, gain)
    same = negative is positive
    return above + (above if same else negative.below(limits, scales, density, gain))


def _block_noise(
    fmt: TensorFormat, scaling: Scaling, block: Population, outer: np.float32
) -> float:
    """Expected sum of squared errors in a block."""
    found = largest(block, _SMOOTH_SLICES if fmt.plain else _JUMPING_SLICES)
    amax = found.sizes.astype(np.float32)
    if scaling.two_level:
        # No block exceeds the tensor's largest magnitude.
        top = outer * np.float32(fmt.element.max * scaling.stored.max)
        amax = np.minimum(amax, top)
    stored = scales_of(amax, fmt, scaling, outer)
    limits, scales = amax.astype(np.float64), stored.astype(np.float64)
    noise = _largest_noise(fmt, amax, stored)
    # Which group the largest belongs to goes with n f / F.
    inside = [np.maximum(1 - block.density.survival(limits / g), 1e-300) for _, g in block.groups]
    rates = [
        n * block.density.density(limits / g) / g / mass
        for (n, g), mass in zip(block.groups, inside, strict=True)
    ]
    for (n, g), mass, rate in zip(block.groups, inside, rates, strict=True):
        others = n - rate / sum(rates)
        noise += others * _both_sides(fmt, limits, scales, block.density, g) / mass
    if fmt.element.name == "fp32":
        # Quotients by a power of two are fp32 numbers, others are rounded by the division.
        noise = np.where(np.frexp(stored)[0] == 0.5, 0.0, noise)
    return float(noise @ found.weights)


def _largest_noise(fmt: TensorFormat, amax: F32, stored: F32) -> F64:
    """(slices,) squared error of the largest values; often their codes have them exactly."""
    scales = stored.astype(np.float64)
    with np.errstate(over="ignore"):  # as the codec divides
        ratio = amax / stored
    if fmt.rounding is Rounding.STOCHASTIC and fmt.element.name != "fp32":
        sides = pieces(fmt.element, fmt.rounding, exact=True)
        # Quotients beyond fp32 saturate, by as much as they would exceed the last code.
        size = np.where(np.isinf(ratio), amax / scales, ratio).astype(np.float64)
        return (sides[0].at(size) + sides[1].at(size)) / 2 * scales**2
    rounding = Rounding.NEAREST_EVEN if fmt.element.name == "fp32" else fmt.rounding
    noise = np.zeros_like(scales)
    for sign in (1, -1):
        code = encode(np.float32(sign) * ratio, fmt.element, rounding)
        value = decode(code, fmt.element).astype(np.float64)
        noise += (value * scales - sign * amax.astype(np.float64)) ** 2 / 2
    return noise
