"""Symmetric densities of unit variance, with the integrals that expected errors need."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sim.error.datasets import DEGREES_OF_FREEDOM

__all__ = ["DENSITIES", "Density", "Laplace", "Normal", "StudentT"]

F64 = NDArray[np.float64]


class Density(ABC):
    """A symmetric density f of mean 0 and variance 1; arguments are magnitudes, one-sided."""

    @abstractmethod
    def density(self, x: F64) -> F64:
        """f(x)."""

    @abstractmethod
    def tails(self, x: F64) -> tuple[F64, F64, F64]:
        """Integrals of f, y·f and y²·f over y > x; x may be infinite.

        Of tails, not from zero on: far out they are small, and squares of what is far out large.
        """

    def survival(self, x: F64) -> F64:
        """Probability of a larger magnitude, of either sign."""
        return 2 * self.tails(x)[0]


def _each(function: Callable[[float], float], x: F64) -> F64:
    """A function of :mod:`math` over an array; NumPy has no error function."""
    values = np.fromiter(map(function, x.ravel().tolist()), np.float64, x.size)
    return values.reshape(x.shape)


def _times(x: F64, f: F64) -> F64:
    """x·f, with 0 for an infinite x, where every f used here vanishes."""
    return np.where(np.isinf(x), 0.0, x) * f


class Normal(Density):
    """The normal density."""

    def density(self, x: F64) -> F64:
        return np.exp(-x * x / 2) / math.sqrt(2 * math.pi)

    def tails(self, x: F64) -> tuple[F64, F64, F64]:
        f = self.density(x)
        mass = _each(math.erfc, x / math.sqrt(2)) / 2
        return mass, f, mass + _times(x, f)

    def survival(self, x: F64) -> F64:
        return _each(math.erfc, x / math.sqrt(2))


class Laplace(Density):
    """exp(-|x| sqrt 2) / sqrt 2."""

    def density(self, x: F64) -> F64:
        return np.exp(-math.sqrt(2) * x) / math.sqrt(2)

    def tails(self, x: F64) -> tuple[F64, F64, F64]:
        mass = np.exp(-math.sqrt(2) * x) / 2
        first = _times(x, mass)
        return mass, first + mass / math.sqrt(2), _times(x, first) + math.sqrt(2) * first + mass


class StudentT(Density):
    """Student's t with five degrees of freedom, divided by its standard deviation.

    With x = stretch · u, f is proportional to (1 + u²)^-3, and the integrals of that and of its
    products with u and u² have closed forms.  Those of the first and the last are differences of
    nearly equal numbers far out, where three terms of their series are exact to nine digits.
    """

    #: t = sqrt(degrees) · u, and t has the variance degrees / (degrees - 2).
    stretch = math.sqrt(DEGREES_OF_FREEDOM - 2)
    peak = 8 / (3 * math.pi)  #: of (1 + u²)^-3 as a density of u
    far = 50.0

    def density(self, x: F64) -> F64:
        u = x / self.stretch
        return self.peak / (1 + u * u) ** 3 / self.stretch

    def tails(self, x: F64) -> tuple[F64, F64, F64]:
        u = x / self.stretch
        near = np.minimum(u, self.far)
        w = 1 / (1 + near * near)
        angle = np.arctan2(1, near)
        mass = 3 / 8 * angle - near * w * (3 / 8 + w / 4)
        second = (angle - near * w) / 8 + near * w * w / 4
        r = 1 / np.maximum(u, self.far)
        r2 = r * r
        beyond = u > self.far
        mass = np.where(beyond, r2 * r2 * r * (1 / 5 - r2 * (3 / 7 - r2 * (6 / 9))), mass)
        second = np.where(beyond, r2 * r * (1 / 3 - r2 * (3 / 5 - r2 * (6 / 7))), second)
        first = 1 / (1 + u * u) ** 2 / 4
        return (
            self.peak * mass,
            self.peak * self.stretch * first,
            self.peak * self.stretch**2 * second,
        )


DENSITIES: dict[str, Density] = {
    "normal": Normal(),
    "laplace": Laplace(),
    "student-t": StudentT(),
}
