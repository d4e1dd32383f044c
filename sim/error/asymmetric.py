"""Expected noise of blocks with a zero point, whose scale follows from both extremes."""

import numpy as np
from numpy.typing import NDArray

from sim.error.densities import Density
from sim.error.pieces import Pieces, lattice
from sim.error.populations import Population, largest
from sim.error.scales import scales_of
from tiles.formats import IntElement, Scaling, TensorFormat

__all__ = ["FEWEST_VALUES", "asymmetric_noise"]

F64 = NDArray[np.float64]

#: Of a block: the extremes of fewer depend on each other.
FEWEST_VALUES = 16
#: Slices of either extreme, whose square counts: scales that are stored in few bits jump.
_SMOOTH_SLICES, _JUMPING_SLICES = 24, 64
_SMOOTH_BITS = 16


def asymmetric_noise(fmt: TensorFormat, scaling: Scaling, block: Population) -> float:
    """Expected sum of squared errors in a block of values without outliers.

    The extremes are taken as independent, as those of many values nearly are.  Codes reach from
    ``-zero`` to ``max - zero`` steps; a scale that was stored rounded down saturates beyond them.
    """
    element = fmt.element
    assert isinstance(element, IntElement)
    jumping = scaling.stored.bits < _SMOOTH_BITS
    extreme = largest(block, _JUMPING_SLICES if jumping else _SMOOTH_SLICES, one_sided=True)
    high, low = (x.ravel() for x in np.meshgrid(extreme.sizes, extreme.sizes))
    weights = np.outer(extreme.weights, extreme.weights).ravel()
    spans = (high + low).astype(np.float32)
    scales = scales_of(spans, fmt, scaling, np.float32(1)).astype(np.float64)
    zeros = np.clip(np.rint(low / scales), 0, element.max_integer)
    density = block.density
    inside = 1 - (density.survival(high) + density.survival(low)) / 2
    steps = lattice(element, fmt.rounding)
    noise = np.zeros_like(high)
    for end, tops in ((high, element.max_integer - zeros), (low, zeros)):
        between = _below(steps, end, scales, tops, density)
        noise += max(0, block.count - 2) * between / inside
        size = end / scales
        noise += np.where(size > tops, (size - tops) ** 2, steps.at(size)) * scales**2
    return float(noise @ weights)


def _below(steps: Pieces, ends: F64, scales: F64, tops: F64, density: Density) -> F64:
    """(pairs,) integrals of error² times the density from 0 to ``ends``, one side alone.

    Args:
        tops: (pairs,) steps of the last code on this side; what lies beyond saturates.
    """
    reach = tops * scales
    total = steps.below(np.minimum(ends, reach), scales, density)
    first, last = np.minimum(reach, ends), ends
    zeroth, linear, square = (
        before - after
        for before, after in zip(density.tails(first), density.tails(last), strict=True)
    )
    # Differences of nearly equal integrals: nothing is left below some 1e-16.
    return total + np.maximum(square - 2 * reach * linear + reach**2 * zeroth, 0.0)
