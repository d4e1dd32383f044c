"""What the dataflow operators mean, in float64, and how far a kernel's fp32 values may lie from it.

Written once for NumPy arrays and torch tensors: NumPy is the reference, torch carries it to large
matrices on a GPU.  Inputs are what codes stand for, so they are exact; outputs are the values that
the kernel rounds to codes, with an a-priori bound of the error of each.

**Bounds.**  u = 2^-24.  A correctly rounded operation adds u of its result, ``ex2.approx`` and
``rsqrtf`` 4u, ``rcp.approx`` 2u of theirs.  GELU's gate is ``1 / (1 + 2^-q(x))`` with an odd
polynomial q of degree 7 fitted to ``log2(Phi(x) / Phi(-x))`` on [0, 5]: it is off by at most
``GATE_ERROR`` of the smaller of Phi(x) and Phi(-x), which a test holds on every fp32 step of the
kernel's inputs; beyond 5 it is monotone, so it lies with Phi between 0 and Phi(-5) = 2.9e-7 of the
limit.  In steps of an int8 output that is at most 0.15 where a whole block is negative, and below
0.02 in any other.  Row statistics merge N = columns / 16 pairs of moments at most, each merge
adding at most 6u of the larger mean and 8u of the second moment; sums along a row or a column of n
terms err by at most n·u of the sum of magnitudes.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tiles.formats.rounding import random_bits

__all__ = ["GATE_ERROR", "TINY", "Inputs", "Outcome", "dropped", "outcome", "statistics"]

U = 2.0**-24
#: Largest error of GELU's gate over the smaller of Phi(x) and Phi(-x), |x| <= 5.
GATE_ERROR = 1.15e-3
FIT_END = 5.0
#: Phi(-5), rounded up.
TAIL = 2.9e-7
#: Magnitudes below count as zero, in units of the largest of a block.
TINY = 2.0**-110


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Operands of an operator in float64; what it does not take is ``None``."""

    x: Any  #: (R, C)
    other: Any = None  #: (R, C): the second addend, or the gradient that comes back
    mean: Any = None  #: (R)
    variance: Any = None  #: (R)
    gamma: Any = None  #: (C)
    beta: Any = None  #: (C)
    keep: Any = None  #: (R, C) bool, of dropout
    keep_scale: float = 1.0
    epsilon: float = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an operator yields in float64, and by how much a kernel may miss it."""

    values: Any  #: (R, C), before rounding to codes
    error: Any  #: (R, C)
    vectors: dict[str, tuple[Any, Any]] = field(default_factory=dict)  #: name -> value, error


def dropped(rows: int, cols: int, below: int, seed: int) -> Any:
    """(rows, cols) bool, NumPy: which elements dropout drops.

    Element ``i`` of the flat, row-major matrix is dropped when its 16 random bits, those that
    stochastic rounding takes under the same seed, are less than ``below``.
    """
    return (random_bits(0, rows * cols, seed) >> 16 < below).reshape(rows, cols)


def _library(x: Any) -> Any:
    if isinstance(x, np.ndarray):
        return np
    import torch

    return torch


def _normal_cdf(x: Any) -> Any:
    lib = _library(x)
    if lib is np:
        return 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2.0))
    return 0.5 * lib.special.erfc(-x / math.sqrt(2.0))


def _gelu_gate_error(x: Any) -> Any:
    lib = _library(x)
    return lib.where(abs(x) <= FIT_END, GATE_ERROR * _normal_cdf(-abs(x)), TAIL)


def _logistic(x: Any) -> Any:
    lib = _library(x)
    tail = lib.exp(-abs(x))
    return lib.where(x >= 0, 1.0, tail) / (1.0 + tail)


def _gelu(a: Inputs) -> Outcome:
    gate = _normal_cdf(a.x)
    tail = abs(a.x) * _gelu_gate_error(a.x) * (abs(a.x) < 1e3)
    return Outcome(values=a.x * gate, error=tail + 16 * U * abs(a.x) * gate)


def _gelu_bwd(a: Inputs) -> Outcome:
    lib = _library(a.x)
    gate = _normal_cdf(a.x)
    bell = a.x * lib.exp(-0.5 * a.x * a.x) / math.sqrt(2.0 * math.pi)
    slope = gate + bell
    error = _gelu_gate_error(a.x) + abs(bell) * U * (2 * a.x * a.x + 12) + 16 * U * gate
    error = lib.where(abs(a.x) < 1e3, error, 16 * U * gate)  # a bell of 0 times an infinity is NaN
    slope = lib.where(abs(a.x) < 1e3, slope, gate)
    return Outcome(values=a.other * slope, error=abs(a.other) * (error + 4 * U * abs(slope)))


def _silu(a: Inputs) -> Outcome:
    gate = _logistic(a.x)
    values = a.x * gate
    rounding = (16 + 4 * abs(a.x) * _logistic(-a.x)) * U
    return Outcome(values=values, error=abs(values) * rounding)


def _silu_bwd(a: Inputs) -> Outcome:
    gate, rest = _logistic(a.x), _logistic(-a.x)
    slope = gate * (1.0 + a.x * rest)
    error = gate * (1.0 + abs(a.x)) * (16 + 8 * abs(a.x) * rest) * U
    return Outcome(values=a.other * slope, error=abs(a.other) * error)


def _relu(a: Inputs) -> Outcome:
    values = a.x * (a.x > 0)
    return Outcome(values=values, error=2 * U * abs(values))


def _relu_bwd(a: Inputs) -> Outcome:
    values = a.other * (a.x > 0) + 0.0 * a.x  # a NaN in either is one
    return Outcome(values=values, error=2 * U * abs(values))


def _dropout(a: Inputs) -> Outcome:
    values = a.x * a.keep * a.keep_scale
    return Outcome(values=values, error=4 * U * abs(values))


def _residual(a: Inputs) -> Outcome:
    values = a.x + a.other
    return Outcome(values=values, error=2 * U * (abs(a.x) + abs(a.other)))


def statistics(x: Any) -> dict[str, tuple[Any, Any]]:
    """Mean and variance of the rows of a matrix, with the errors that a kernel may make."""
    merges = x.shape[1] / 16 + 8
    mean = x.mean(axis=1)
    variance = ((x - mean[:, None]) ** 2).mean(axis=1)
    largest = _row_peak(x)
    shift = 6 * U * merges * largest
    return {
        "mean": (mean, shift),
        "variance": (variance, 8 * U * merges * variance + shift**2 + 2.0**-130),
    }


def _row_peak(x: Any) -> Any:
    peak = abs(x).max(axis=1)
    return peak if isinstance(x, np.ndarray) else peak.values


def _normal(a: Inputs, centred: bool) -> tuple[Any, Any]:
    """Reciprocal of the spread of the rows (R, 1), and what is subtracted from them."""
    mean, variance = a.mean[:, None], a.variance[:, None]
    spread = variance if centred else variance + mean * mean
    return (spread + a.epsilon) ** -0.5, mean * centred


def _apply(a: Inputs, centred: bool) -> Outcome:
    rstd, level = _normal(a, centred)
    values = (a.x - level) * rstd * a.gamma
    error = abs(a.gamma) * (abs(a.x) + abs(level)) * rstd * 12 * U
    if centred:
        values = values + a.beta
        error = error + 4 * U * (abs(values) + abs(a.beta))
    return Outcome(values=values, error=error)


def _forward(a: Inputs, centred: bool) -> Outcome:
    found = statistics(a.x)
    (mean, shift), (variance, _) = found["mean"], found["variance"]
    known = Inputs(
        x=a.x, mean=mean, variance=variance, gamma=a.gamma, beta=a.beta, epsilon=a.epsilon
    )
    exact = _apply(known, centred)
    rstd, level = _normal(known, centred)
    merges = a.x.shape[1] / 16 + 8
    relative = (4 * U * merges + 4 * U) * abs(a.x - level) * rstd
    if not centred:  # the mean enters through its square
        relative = relative + abs(mean * shift)[:, None] * rstd**3 * abs(a.x)
    moved = shift[:, None] * rstd * centred
    return Outcome(
        values=exact.values,
        error=exact.error + abs(a.gamma) * (relative + moved),
        vectors=found,
    )


def _backward(a: Inputs, centred: bool) -> Outcome:
    rows, cols = a.x.shape
    rstd, level = _normal(a, centred)
    normal = (a.x - level) * rstd
    slip = (abs(a.x) + abs(level)) * rstd * 8 * U
    weighted = a.other * a.gamma
    depth = (64 + cols / 16) * U
    plain = weighted.mean(axis=1)[:, None] * centred
    along = (weighted * normal).mean(axis=1)[:, None]
    plain_error = depth * abs(weighted).mean(axis=1)[:, None] * centred
    along_error = (abs(weighted) * (depth * abs(normal) + slip)).mean(axis=1)[:, None]
    values = rstd * (weighted - plain - normal * along)
    parts = abs(weighted) + abs(plain) + abs(normal * along)
    error = rstd * (parts * 12 * U + plain_error + abs(normal) * along_error + slip * abs(along))
    down = (64 + rows) * U
    d_gamma = (a.other * normal).sum(axis=0)
    d_gamma_error = (abs(a.other) * (abs(normal) * down + slip)).sum(axis=0)
    vectors = {"d_gamma": (d_gamma, d_gamma_error)}
    if centred:
        vectors["d_beta"] = (a.other.sum(axis=0), down * abs(a.other).sum(axis=0))
    return Outcome(values=values, error=error, vectors=vectors)


def outcome(op: str, inputs: Inputs) -> Outcome:
    """Work an operator out.

    Statistics that ``residual`` yields are not here: they are those of the sum as it is stored,
    see :func:`statistics`.

    Raises:
        ValueError: no such operator.
    """
    elementwise = {
        "gelu": _gelu,
        "gelu-bwd": _gelu_bwd,
        "silu": _silu,
        "silu-bwd": _silu_bwd,
        "relu": _relu,
        "relu-bwd": _relu_bwd,
        "dropout": _dropout,
        "residual": _residual,
    }
    if op in elementwise:
        return elementwise[op](inputs)
    name, _, kind = op.partition("-")
    makers = {"": _forward, "apply": _apply, "bwd": _backward}
    if name not in ("layernorm", "rmsnorm") or kind not in makers:
        raise ValueError(f"no reference of operator {op!r}")
    return makers[kind](inputs, name == "layernorm")
