"""The error that a recipe's quantisation leaves in a product, without any kernel or GPU.

The product of what the codes stand for is compared with the fp64 product of the originals.
Outliers are handled as the recipe says.  Rounding of the output is left out: every recipe of a
comparison shares it.  Rounding of the sums is left out as well, unless an
:class:`~sim.error.accumulation.Accumulation` is asked for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.error.accumulation import Accumulation
from sim.error.tensor import Rounder, check_finite, numpy_rounder, ratio_db
from tiles.recipes import Recipe

__all__ = ["MatmulError", "exact_product", "product_error"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

#: Products of at most this many multiplications are cut into slices, see :func:`exact_product`.
_SMALL = 2**23
_SLICE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulError:
    """How far the quantised product lies from the exact one."""

    data: str  #: kind of the operands' data
    sqnr_db: float  #: 10·log10(sum of exact² / sum of error²)
    relative_max: float  #: largest |error| over the root mean square of the exact product
    relative_rms: float  #: ||error|| / ||exact||
    accumulation: str = "exact"  #: how sums were modelled, as :class:`Accumulation` spells it


def exact_product(a: F32 | F64, b: F32 | F64) -> F64:
    """``a @ b.T`` in fp64; (M, K) times (N, K) gives (M, N).

    Small products go in slices of 64 columns: BLAS libraries keep products of 64 x 64 x 64 on one
    thread, and waking a pool of threads for larger ones costs a cold start more than the products
    do.
    """
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    if len(a) * len(b) * a.shape[1] > _SMALL or a.shape[1] % _SLICE:
        large: F64 = a @ b.T
        return large
    a_slices, b_slices = (x.reshape(len(x), -1, _SLICE).transpose(1, 0, 2) for x in (a, b))
    total: F64 = np.matmul(a_slices, b_slices.transpose(0, 2, 1)).sum(axis=0)
    return total


def product_error(
    recipe: Recipe,
    a: F32,
    b: F32,
    *,
    rounder: Rounder = numpy_rounder,
    accumulation: Accumulation = Accumulation.EXACT,
    exact: F64 | None = None,
    data: str = "given",
    seed: int = 0,
) -> MatmulError:
    """Error of ``a @ b.T`` under a recipe; the output is not rounded.

    Args:
        recipe: formats of activations and weights, and what happens to outliers.
        a: (M, K) float32 activations, finite.
        b: (N, K) float32 weights, finite.
        rounder: the codec.
        accumulation: how sums along K are rounded.
        exact: (M, N) ``exact_product(a, b)``, where it is known already.
        data: goes into the result's ``data``.
        seed: of stochastic rounding; activations, weights and residuals take different bits.
    Raises:
        TypeError: operands are not float32.
        ValueError: operands do not multiply, or hold a NaN or an infinity.
    """
    check_finite(a, "activations")
    check_finite(b, "weights")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"operands of shapes {a.shape} and {b.shape} do not multiply")
    if exact is None:
        exact = exact_product(a, b)
    error = _product(recipe, a, b, rounder, seed) - exact
    noise = float(np.mean(error * error))
    signal = float(np.mean(exact * exact))
    return MatmulError(
        data=data,
        sqnr_db=ratio_db(signal, noise),
        relative_max=float(np.max(np.abs(error))) / signal**0.5,
        relative_rms=(noise / signal) ** 0.5,
    )


def _product(recipe: Recipe, a: F32, b: F32, rounder: Rounder, seed: int) -> F64:
    seeds = [(4 * seed + i) % 2**64 for i in range(3)]
    weights = rounder(b, recipe.weight, seeds[1])
    return exact_product(rounder(a, recipe.activation, seeds[0]), weights)
