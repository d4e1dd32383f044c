"""The error that a recipe's quantisation leaves in a product, without any kernel or GPU.

The product of what the codes stand for is compared with the fp64 product of the originals.
Outliers are handled as the recipe says.  Rounding of the output is left out unless it is asked for:
most recipes of a comparison share it.  Rounding of the sums is left out as well, unless an
:class:`~sim.error.accumulation.Accumulation` is asked for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.error.accumulation import Accumulation, Operand, limited, limited_product
from sim.error.outliers import fallback_amax, kept_columns, residual
from sim.error.rounding import Rounder, numpy_rounder
from sim.error.scales import find_scales
from sim.error.tensor import check_finite, ratio_db
from tiles.formats import decode, encode
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe

__all__ = ["MatmulError", "exact_product", "product_error", "product_errors"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Floats = NDArray[np.float32] | NDArray[np.float64]

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


def exact_product(a: Floats, b: Floats) -> F64:
    """``a @ b.T`` in fp64; (M, K) times (N, K) gives (M, N).

    Small products go in slices of 64 columns: BLAS libraries keep products of 64 x 64 x 64 on one
    thread, and waking a pool of threads for larger ones costs a cold start more than the products
    do.
    """
    a, b = a.astype(np.float64, copy=False), b.astype(np.float64, copy=False)
    if len(a) * len(b) * a.shape[1] > _SMALL or a.shape[1] % _SLICE or a.shape[1] == 0:
        large: F64 = a @ b.T
        return large
    total: F64 = np.zeros((len(a), len(b)))
    part = np.empty_like(total)
    for first in range(0, a.shape[1], _SLICE):
        columns = slice(first, first + _SLICE)
        total += np.matmul(a[:, columns], b[:, columns].T, out=part)
    return total


def product_error(
    recipe: Recipe,
    a: F32,
    b: F32,
    *,
    rounder: Rounder = numpy_rounder,
    accumulation: Accumulation = Accumulation.EXACT,
    exact: F64 | None = None,
    whole: F32 | None = None,
    round_output: bool = False,
    data: str = "given",
    seed: int = 0,
) -> MatmulError:
    """Error of ``a @ b.T`` under a recipe.

    Args:
        recipe: formats of activations and weights, and what happens to outliers.
        a: (M, K) float32 activations, finite.
        b: (N, K) float32 weights, finite.
        rounder: the codec.
        accumulation: how sums along K are rounded.  Only products with e4m3fn or e5m2 on both
            sides have a limited accumulator; the result says what was modelled.
        exact: (M, N) ``exact_product(a, b)``, where it is known already.
        whole: (rows, K) the activations that ``a`` is a part of, whose outliers are taken out;
            ``a`` itself unless given.
        round_output: count the rounding of the product to ``recipe.output`` in.
        data: goes into the result's ``data``.
        seed: of stochastic rounding; activations, weights, residuals and output take different
            bits.
    Raises:
        TypeError: operands are not float32.
        ValueError: operands do not multiply, or hold a NaN or an infinity.
    """
    product, exact, way = _multiply(recipe, a, b, rounder, accumulation, exact, whole, seed)
    if round_output:
        return _error(_output(product, recipe, rounder, seed), exact, data, way)
    return _error(product, exact, data, way)


def product_errors(
    recipe: Recipe,
    a: F32,
    b: F32,
    *,
    rounder: Rounder = numpy_rounder,
    accumulation: Accumulation = Accumulation.EXACT,
    exact: F64 | None = None,
    whole: F32 | None = None,
    data: str = "given",
    seed: int = 0,
) -> tuple[MatmulError, MatmulError]:
    """Error of one product before and after its rounding to ``recipe.output``.

    Arguments and errors are those of :func:`product_error`.
    """
    product, exact, way = _multiply(recipe, a, b, rounder, accumulation, exact, whole, seed)
    output = _output(product, recipe, rounder, seed)
    return _error(product, exact, data, way), _error(output, exact, data, way)


def _multiply(
    recipe: Recipe,
    a: F32,
    b: F32,
    rounder: Rounder,
    accumulation: Accumulation,
    exact: F64 | None,
    whole: F32 | None,
    seed: int,
) -> tuple[F64, F64, Accumulation]:
    """The product under the recipe, the exact one, and how sums were modelled."""
    check_finite(a, "activations")
    check_finite(b, "weights")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"operands of shapes {a.shape} and {b.shape} do not multiply")
    if exact is None:
        exact = exact_product(a, b)
    if not (limited(recipe.activation) and limited(recipe.weight)):
        accumulation = Accumulation.EXACT
    product = _Product(recipe=recipe, rounder=rounder, accumulation=accumulation, seed=seed)
    return product.multiply(a, b, a if whole is None else whole), exact, accumulation


def _output(product: F64, recipe: Recipe, rounder: Rounder, seed: int) -> Floats:
    return rounder(product.astype(np.float32), recipe.output, _seed(seed, 3))


def _error(product: Floats, exact: F64, data: str, accumulation: Accumulation) -> MatmulError:
    error = product - exact
    noise = float(np.mean(error * error))
    signal = float(np.mean(exact * exact))
    # Operands whose product is all zero leave nothing to compare an error with.
    size = signal**0.5 if signal > 0 else 1.0
    return MatmulError(
        data=data,
        sqnr_db=ratio_db(signal, noise),
        relative_max=float(np.max(np.abs(error))) / size,
        relative_rms=noise**0.5 / size,
        accumulation=str(accumulation),
    )


def _seed(seed: int, tensor: int) -> int:
    """Different bits for each of four tensors of one product."""
    return (4 * seed + tensor) % 2**64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Product:
    recipe: Recipe
    rounder: Rounder
    accumulation: Accumulation
    seed: int

    def multiply(self, a: F32, b: F32, whole: F32) -> F64:
        """The product of (M, K) and (N, K) under the recipe; outliers are those of ``whole``."""
        outliers = self.recipe.outliers
        weights = self.rounder(b, self.recipe.weight, _seed(self.seed, 1))
        if isinstance(outliers, OutlierColumns):
            kept = kept_columns(whole, outliers)
            # Weights are quantised ahead of time, before anyone knows the columns; a zero in the
            # activations takes theirs out of the product and of the activations' scales.
            rest = np.where(kept, np.float32(0), a) if kept.any() else a
            product = self._times(rest, self._rounded(rest, 0), b, weights)
            wide = (decode(encode(x[:, kept], outliers.kept), outliers.kept) for x in (a, b))
            return product + exact_product(*wide)
        rounded = self._rounded(a, 0)
        product = self._times(a, rounded, b, weights)
        if isinstance(outliers, OutlierBlocks):
            fmt = self.recipe.activation
            rest = residual(a, rounded, fmt, fallback_amax(whole, fmt, outliers))
            product += self._times(rest, self._rounded(rest, 2), b, weights)
        return product

    def _rounded(self, a: F32, tensor: int) -> Floats:
        return self.rounder(a, self.recipe.activation, _seed(self.seed, tensor))

    def _times(self, a: F32, a_rounded: Floats, b: F32, b_rounded: Floats) -> F64:
        if self.accumulation.significand_bits is None:
            return exact_product(a_rounded, b_rounded)
        return limited_product(
            Operand.of(a_rounded, find_scales(a, self.recipe.activation, a_rounded)),
            Operand.of(b_rounded, find_scales(b, self.recipe.weight, b_rounded)),
            self.accumulation,
        )
