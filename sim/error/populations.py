"""The values of a block, and the distribution of the largest of them."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sim.error.datasets import OUTLIER_GAIN
from sim.error.densities import Density

__all__ = ["Largest", "Population", "largest"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
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
class Largest:
    """The distribution of a largest magnitude, cut into slices."""

    sizes: F64  #: (slices,) the magnitude in the middle of each
    weights: F64  #: (slices,) their probabilities


@cache
def largest(population: Population, slices: int, *, one_sided: bool = False) -> Largest:
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
    return Largest(sizes=high, weights=2 * middles / slices)
