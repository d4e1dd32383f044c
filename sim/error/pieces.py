"""The squared error of rounding to an element format, as a quadratic on each of many pieces."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sim.error.densities import Density
from tiles.formats import ElementFormat, FloatElement, IntElement, Rounding, code_grid

__all__ = ["Pieces", "lattice", "pieces"]

F64 = NDArray[np.float64]

#: From this many mantissa bits on, errors within a binade are taken as uniform: the density bends
#: too little within a step for the difference to show in the fourth digit.
_SMOOTH_MANTISSA = 7
_TABLE_BITS = 16
#: Integers with more steps than this count as smooth too.
_MANY_STEPS = 2**10


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """``error² = c2 y² + c1 y + c0`` between one edge and the next, for ``y >= 0``."""

    edges: F64  #: (n + 1,) ascending, from 0 to infinity
    coefficients: F64  #: (3, n) c0, c1, c2

    def at(self, y: F64) -> F64:
        """The squared error of single magnitudes."""
        place = np.searchsorted(self.edges, y, side="right") - 1
        c0, c1, c2 = self.coefficients[:, np.minimum(place, self.coefficients.shape[1] - 1)]
        return np.asarray(c0 + y * (c1 + y * c2))

    def below(self, limits: F64, scales: F64, density: Density, gain: float = 1.0) -> F64:
        """Integral of error² times the density from 0 to ``limits``, one side alone.

        Args:
            limits: (m,) in the data's units.
            scales: (m,) what one unit of ``edges`` is there.
            gain: the data are ``gain`` times what has the density.
        Returns:
            (m,) squares in the data's units.
        """
        ends = np.minimum(self.edges * scales[:, None], limits[:, None]) / gain
        zeroth, first, second = (-np.diff(tail, axis=1) for tail in density.tails(ends))
        c0, c1, c2 = self.coefficients
        unit = scales / gain
        total = second @ c2 + (first @ c1) * unit + (zeroth @ c0) * unit**2
        # Differences of nearly equal integrals: nothing is left below some 1e-16.
        return np.asarray(np.maximum(total, 0.0) * gain**2)


@cache
def pieces(
    element: ElementFormat, rounding: Rounding, *, exact: bool = False
) -> tuple[Pieces, Pieces]:
    """The pieces of positive and of negative numbers, saturating.

    Args:
        exact: a piece for each value even where the format has many.
    """
    smooth = isinstance(element, FloatElement) and element.mantissa_bits >= _SMOOTH_MANTISSA
    if smooth and not (exact and element.bits <= _TABLE_BITS):
        assert isinstance(element, FloatElement)
        positive = _smooth(element, rounding)
        return positive, positive if element.signed else _flat()
    grid = code_grid(element)
    thresholds = grid.thresholds(rounding).astype(np.float64)
    if grid.by_magnitude:
        positive = _between(grid.values, thresholds, rounding)
        unsigned = isinstance(element, FloatElement) and not element.signed
        return positive, _flat() if unsigned else positive
    zero = int(np.argmin(np.abs(grid.values)))
    return (
        _between(grid.values[zero:], thresholds[zero:], rounding),
        _between(-grid.values[zero::-1], -thresholds[:zero][::-1], rounding),
    )


@cache
def lattice(element: IntElement, rounding: Rounding) -> Pieces:
    """Whole steps from 0 on, as integers with a zero point have them on either side.

    For ``y`` up to the last code of its side, which the zero point decides; beyond, values are
    taken to go on.
    """
    if element.max_integer >= _MANY_STEPS:
        share = np.array([[1 / _share(rounding)], [0.0], [0.0]])
        return Pieces(edges=np.array([0.0, np.inf]), coefficients=share)
    steps = np.arange(element.max_integer + 1.0)
    thresholds = steps[1:] if rounding is Rounding.TOWARD_ZERO else steps[:-1] + 0.5
    return _between(steps, thresholds, rounding)


def _share(rounding: Rounding) -> int:
    """Step² over the mean squared error, 12 to nearest; errors are uniform within a step."""
    return {Rounding.STOCHASTIC: 6, Rounding.TOWARD_ZERO: 3}.get(rounding, 12)


def _flat() -> Pieces:
    """Everything becomes zero."""
    return Pieces(edges=np.array([0.0, np.inf]), coefficients=np.array([[0.0], [0.0], [1.0]]))


def _between(values: F64, thresholds: F64, rounding: Rounding) -> Pieces:
    """Pieces of values that ascend from 0 and of the thresholds between them."""
    edges = np.concatenate([[0.0], thresholds, [np.inf]])
    nearest = np.array([values**2, -2 * values, np.ones_like(values)])
    if rounding is not Rounding.STOCHASTIC:
        return Pieces(edges=edges, coefficients=nearest)
    # Up with probability (y - low) / (high - low): the mean square is (y - low)(high - y).
    low, high = values[:-1], values[1:]
    between = np.array([-low * high, low + high, -np.ones_like(low)])
    if thresholds.size and thresholds[0] < values[1] / 2:  # nothing but zero goes to zero
        between[:, 0] = nearest[:, 1]
    return Pieces(
        edges=np.concatenate([values, [np.inf]]),
        coefficients=np.concatenate([between, nearest[:, -1:]], axis=1),
    )


def _smooth(element: FloatElement, rounding: Rounding) -> Pieces:
    """Binades with an error that is uniform within a step."""
    exponents = np.arange(element.min_exponent, element.max_exponent + 1)
    steps = np.ldexp(1.0, exponents - element.mantissa_bits)
    edges = np.concatenate([[0.0], np.ldexp(1.0, exponents[1:]), [element.max, np.inf]])
    constant = np.array([steps**2 / _share(rounding), np.zeros_like(steps), np.zeros_like(steps)])
    over = np.array([[element.max**2], [-2 * element.max], [1.0]])
    return Pieces(edges=edges, coefficients=np.concatenate([constant, over], axis=1))
