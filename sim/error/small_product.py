"""The error of one small product under each recipe: the figure that stands beside a prediction.

How representative a 64 x 64 x 1024 product is: scales that cover a row or a block see blocks of the
size that real layers give them, so their figures carry over within a few tenths of a decibel
(a row of 8192 instead of 1024 normal values raises the expected maximum by 0.6 sigma, 1.5 dB of
uniform noise).  A tensor of millions of values has a larger maximum than the 65 536 here, which
costs another 2 dB under integer formats and next to nothing under floating-point ones.
"""

from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from sim.error.datasets import Side, check_kind, sample
from sim.error.product import MatmulError, exact_product, product_error
from sim.error.rounding import numpy_rounder
from tiles.formats import TensorFormat
from tiles.recipes import Recipe

__all__ = ["matmul_error"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ROWS, COLUMNS, DEPTH = 64, 64, 1024
#: Rounded operands that are kept: recipes with a format in common stand together, and memory that
#: is used again costs less than fresh memory.
_KEPT = 12


@cache
def _operand(side: Side, data: str) -> F32:
    """Activations (64, 1024) or weights (64, 1024)."""
    return sample(data, ROWS if side == "activation" else COLUMNS, DEPTH, side=side)


@cache
def _exact(data: str) -> F64:
    """The product that every recipe is compared with."""
    return exact_product(_operand("activation", data), _operand("weight", _weights(data)))


def _weights(data: str) -> str:
    """Weights beside outlier activations are normal ones: the same matrix under one name."""
    return "normal" if data == "outlier" else data


@lru_cache(maxsize=_KEPT)
def _rounded(side: Side, data: str, fmt: TensorFormat, seed: int) -> F64:
    """What an operand's codes stand for; recipes share formats, and kinds of data weights."""
    return numpy_rounder(_operand(side, data), fmt, seed)


@cache
def matmul_error(recipe: Recipe, data: str = "normal") -> MatmulError:
    """Error of a 64 x 64 x 1024 product under a recipe; deterministic, computed once a recipe.

    Sums are exact and the output is not rounded, see :func:`sim.error.product_error`.

    Args:
        recipe: formats of activations and weights; plain 16-bit elements count with their rounding.
        data: one of ``DATA_KINDS``.
    Raises:
        ValueError: another kind of data.
    """
    check_kind(data)
    a, b = _operand("activation", data), _operand("weight", _weights(data))

    def rounder(x: F32, fmt: TensorFormat, seed: int) -> F64:
        if x is a:
            return _rounded("activation", data, fmt, seed)
        if x is b:
            return _rounded("weight", _weights(data), fmt, seed)
        return numpy_rounder(x, fmt, seed)

    return product_error(recipe, a, b, rounder=rounder, exact=_exact(data), data=data)
