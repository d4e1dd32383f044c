"""The error that a recipe's quantisation leaves in a product, without any kernel or GPU.

Operands of a fixed small product are quantised with the reference codec, and the fp64 product of
what the codes stand for is compared with the fp64 product of the originals.  Rounding of the output
and of the accumulator is left out: every recipe of a comparison shares the first, and kernels are
held to bounds on the second.

How representative a 64 x 64 x 1024 product is: scales that cover a row or a block see blocks of the
size that real layers give them, so their figures carry over within a few tenths of a decibel
(a row of 8192 instead of 1024 normal values raises the expected maximum by 0.6 sigma, 1.5 dB of
uniform noise).  A tensor of millions of values has a larger maximum than the 65 536 here, which
costs another 2 dB under integer formats and next to nothing under floating-point ones.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tiles.formats import TensorFormat, dequantize, quantize
from tiles.recipes import Recipe

__all__ = ["DATA_KINDS", "MatmulError", "matmul_error"]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

DATA_KINDS = ("normal", "outlier")
SIDES = ("activation", "weight")
ROWS, COLUMNS, DEPTH = 64, 64, 1024
#: Outlier data: this many of the 1024 channels, and how much larger they are.  LLM.int8()
#: (arXiv 2208.07339) finds features up to 20 times as large in about 0.1 % of the dimensions, and
#: later measurements tens of times in up to 1 %.
OUTLIER_CHANNELS = 6
OUTLIER_GAIN = 30.0
_SEED = 20_240_229


@dataclass(frozen=True, slots=True, kw_only=True)
class MatmulError:
    """How far the quantised product lies from the exact one."""

    data: str  #: "normal" or "outlier"
    sqnr_db: float  #: 10·log10(sum of exact² / sum of error²)
    relative_max: float  #: largest |error| over the root mean square of the exact product
    relative_rms: float  #: ||error|| / ||exact||


@cache
def _operand(side: str, data: str) -> F32:
    """Activations (64, 1024) or weights (64, 1024)."""
    random = np.random.default_rng((_SEED, SIDES.index(side)))
    x = random.standard_normal((ROWS if side == "activation" else COLUMNS, DEPTH), dtype=np.float32)
    if data == "outlier":
        channels = random.choice(DEPTH, OUTLIER_CHANNELS, replace=False)
        x[:, channels] *= np.float32(OUTLIER_GAIN)
    return x


@cache
def _rounded(side: str, data: str, fmt: TensorFormat) -> F64:
    """What an operand's codes stand for; recipes share formats, and both kinds of data weights."""
    return dequantize(quantize(_operand(side, data), fmt))


@cache
def _exact(data: str) -> F64:
    """The product that every recipe is compared with."""
    # Weights have no outliers: layers whose activations show such channels do not.
    a, b = _operand("activation", data), _operand("weight", "normal")
    return _product(a.astype(np.float64), b.astype(np.float64))


def _product(a: F64, b: F64) -> F64:
    """``a @ b.T`` in slices of 64 columns.

    BLAS libraries keep products of 64 x 64 x 64 on one thread; waking a pool of threads for larger
    ones costs a cold start more than the products do.
    """
    a_slices, b_slices = (x.reshape(len(x), -1, 64).transpose(1, 0, 2) for x in (a, b))
    total: F64 = np.matmul(a_slices, b_slices.transpose(0, 2, 1)).sum(axis=0)
    return total


@cache
def matmul_error(recipe: Recipe, data: str = "normal") -> MatmulError:
    """Error of a 64 x 64 x 1024 product under a recipe; deterministic, computed once a recipe.

    Args:
        recipe: formats of activations and weights; plain 16-bit elements count with their rounding.
        data: ``normal``, independent standard normal operands, or ``outlier``, the same with six
            activation channels of 1024 enlarged 30 times.
    Raises:
        ValueError: another kind of data.
    """
    if data not in DATA_KINDS:
        raise ValueError(f"data {data!r}: choose one of {', '.join(DATA_KINDS)}")
    exact = _exact(data)
    product = _product(
        _rounded("activation", data, recipe.activation),
        _rounded("weight", "normal", recipe.weight),
    )
    error = product - exact
    noise = float(np.mean(error * error))
    signal = float(np.mean(exact * exact))
    return MatmulError(
        data=data,
        # An exact recipe has no noise to take the logarithm of.
        sqnr_db=10 * float(np.log10(signal / noise)) if noise > 0 else float("inf"),
        relative_max=float(np.max(np.abs(error))) / signal**0.5,
        relative_rms=(noise / signal) ** 0.5,
    )
