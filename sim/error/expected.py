"""The signal-to-noise ratio that a format should leave, from densities instead of samples.

With a scale ``s`` the squared error is a quadratic between neighbouring thresholds of the element
(:mod:`sim.error.pieces`), so its mean over a density is a sum of differences of three integrals,
exact and without sampling.  Scales follow from a block's largest magnitude A, whose distribution is
``F(a)^n``; it is cut into slices, and the scale of each comes from the reference's own rule.  Given
A the other values are independent and have the density cut off at A.  What is computed is the ratio
of the expected sums of squares.

There is no such form for scales that depend on more than extremes (MSE, percentile).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sim.error.datasets import OUTLIER_GAIN, check_kind, outlier_channels
from sim.error.densities import DENSITIES, Density
from sim.error.pieces import pieces
from sim.error.tensor import ratio_db
from tiles.formats import ScaleRule, Scaling, TensorFormat
from tiles.formats.block_scales import block_scales, tensor_scale

__all__ = ["expected_sqnr_db"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Slices of the distribution of a block's largest magnitude: scales that are powers of two jump,
#: others follow it smoothly.
_JUMPING_SLICES = 512
_SMOOTH_SLICES = 96
#: Slices of a tensor's largest magnitude, where a second level of scales follows from it.
_TENSOR_SLICES = 8
#: Slices of either extreme of a block with a zero point: their square counts.
_EXTREME_SLICES = 24
#: Numbers of outlier channels in a block that are less likely than this are left out.
_RARE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Population:
    """Independent values: so many with the density, so many ``OUTLIER_GAIN`` times as large."""

    density: Density
    plain: int
    outliers: int = 0

    @property
    def count(self) -> int:
        return self.plain + self.outliers

    @property
    def groups(self) -> list[tuple[int, float]]:
        """Sizes and gains of the groups that are not empty."""
        return [(n, g) for n, g in ((self.plain, 1.0), (self.outliers, OUTLIER_GAIN)) if n > 0]

    @property
    def signal(self) -> float:
        """Expected sum of squares."""
        return sum(n * gain**2 for n, gain in self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Largest:
    """The distribution of a largest magnitude, cut into slices."""

    sizes: F64  #: (slices,) the magnitude in the middle of each
    weights: F64  #: (slices,) their probabilities


@cache
def _largest(population: _Population, slices: int, *, one_sided: bool = False) -> _Largest:
    """Slices become thinner toward large magnitudes, whose errors count for more.

    Args:
        one_sided: of positive values alone.
    """
    middles = (np.arange(slices) + 0.5) / slices
    above = middles**2  # probability of a larger one
    wanted = np.log1p(-above)
    share = 0.5 if one_sided else 1.0
    low, high = np.zeros(slices), np.full(slices, 1e5 * max(g for _, g in population.groups))
    for _ in range(60):
        middle = (low + high) / 2
        logs = np.zeros(slices)
        for n, gain in population.groups:
            beyond = share * population.density.survival(middle / gain)
            logs += n * np.log1p(-np.minimum(beyond, 1 - 1e-16))
        low, high = np.where(logs < wanted, middle, low), np.where(logs < wanted, high, middle)
    return _Largest(sizes=high, weights=2 * middles / slices)


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
        10·log10(expected sum of x² / expected sum of error²), infinite for fp32 without scales;
        ``None`` where no closed form or one-dimensional integral exists.
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
    if fmt.asymmetric and kind == "outlier":
        return None
    noise = 0.0
    for likely, outer in _outer_scales(fmt, scaling, kind, rows, cols):
        for expected, block in _blocks(scaling, kind, rows, cols):
            if fmt.asymmetric:
                noise += expected * _asymmetric_noise(fmt, scaling, block)
            else:
                noise += likely * expected * _block_noise(fmt, scaling, block, outer)
    return ratio_db(_whole(kind, rows, cols).signal, noise)


def _density(kind: str) -> Density:
    return DENSITIES["normal" if kind == "outlier" else kind]


def _whole(kind: str, rows: int, cols: int) -> _Population:
    channels = outlier_channels(cols) if kind == "outlier" else 0
    return _Population(
        density=_density(kind), plain=rows * (cols - channels), outliers=rows * channels
    )


def _spans(total: int, extent: int | None) -> Iterator[tuple[int, int]]:
    """How many blocks there are along one axis, and their extent; the ragged one last."""
    extent = total if extent is None else min(extent, total)
    yield total // extent, extent
    if total % extent:
        yield 1, total % extent


def _blocks(
    scaling: Scaling, kind: str, rows: int, cols: int
) -> Iterator[tuple[float, _Population]]:
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
                    _Population(
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
    top = _largest(_whole(kind, rows, cols), _TENSOR_SLICES)
    for size, weight in zip(top.sizes.astype(np.float32), top.weights, strict=True):
        yield float(weight), tensor_scale(np.array([[size]]), fmt.element, scaling)


def _unscaled_noise(fmt: TensorFormat, population: _Population) -> float:
    one, everything = np.ones(1), np.full(1, np.inf)
    return sum(
        n * float(_both_sides(fmt, everything, one, population.density, gain)[0])
        for n, gain in population.groups
    )


def _both_sides(fmt: TensorFormat, limits: F64, scales: F64, density: Density, gain: float) -> F64:
    positive, negative = pieces(fmt.element, fmt.rounding)
    above = positive.below(limits, scales, density, gain)
    same = negative is positive
    return above + (above if same else negative.below(limits, scales, density, gain))


def _scales(amax: F32, fmt: TensorFormat, scaling: Scaling, outer: np.float32) -> F32:
    """The scale of a block with each largest magnitude, by the reference's rule."""
    single = replace(scaling, rows=1, cols=1)
    return block_scales(amax[:, None], fmt.element, single, outer)[:, 0] * outer


def _block_noise(
    fmt: TensorFormat, scaling: Scaling, block: _Population, outer: np.float32
) -> float:
    """Expected sum of squared errors in a block."""
    jumping = scaling.rule is not ScaleRule.ABSMAX or scaling.two_level
    largest = _largest(block, _JUMPING_SLICES if jumping else _SMOOTH_SLICES)
    amax = largest.sizes.astype(np.float32)
    if scaling.two_level:
        # No block exceeds the tensor's largest magnitude.
        top = outer * np.float32(fmt.element.max * scaling.stored.max)
        amax = np.minimum(amax, top)
    stored = _scales(amax, fmt, scaling, outer)
    # The largest value divided by its scale, as the codec divides: often a code's value exactly.
    ratio = (amax / stored).astype(np.float64)
    limits, scales = amax.astype(np.float64), stored.astype(np.float64)
    exact = pieces(fmt.element, fmt.rounding, exact=True)
    noise = (exact[0].at(ratio) + exact[1].at(ratio)) / 2 * scales**2
    # Which group the largest belongs to goes with n f / F.
    inside = [np.maximum(1 - block.density.survival(limits / g), 1e-300) for _, g in block.groups]
    rates = [
        n * block.density.density(limits / g) / g / mass
        for (n, g), mass in zip(block.groups, inside, strict=True)
    ]
    for (n, g), mass, rate in zip(block.groups, inside, rates, strict=True):
        others = n - rate / sum(rates)
        noise += others * _both_sides(fmt, limits, scales, block.density, g) / mass
    return float(noise @ largest.weights)


def _asymmetric_noise(fmt: TensorFormat, scaling: Scaling, block: _Population) -> float:
    """The same with a zero point: the scale follows from both extremes.

    They are taken as independent, as those of many values nearly are.
    """
    extreme = _largest(block, _EXTREME_SLICES, one_sided=True)
    high, low = (x.ravel() for x in np.meshgrid(extreme.sizes, extreme.sizes))
    weights = np.outer(extreme.weights, extreme.weights).ravel()
    scales = _scales((high + low).astype(np.float32), fmt, scaling, np.float32(1)).astype(
        np.float64
    )
    density = block.density
    inside = 1 - (density.survival(high) + density.survival(low)) / 2
    noise = np.zeros_like(high)
    for side, end in zip(pieces(fmt.element, fmt.rounding, lattice=True), (high, low), strict=True):
        noise += (block.count - 2) * side.below(end, scales, density) / inside
        noise += side.at(end / scales) * scales**2
    return float(noise @ weights)
