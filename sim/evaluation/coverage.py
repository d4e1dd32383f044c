"""Intervals: how often they hold the measured time, and how wide they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Coverage", "coverage"]

F64 = NDArray[np.float64]

RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """Of intervals that ask for one share of the measured times."""

    share: float  #: of the rows whose measured time lies inside
    low: float  #: lower end of the 90 % bootstrap interval of ``share``, shapes resampled
    high: float  #: its upper end
    width: float  #: geometric mean of upper over lower end


def coverage(
    low_us: F64, high_us: F64, measured_us: F64, shapes: Sequence[object], *, seed: int = 0
) -> Coverage:
    """Coverage over rows, each counting the same.

    Rows of one shape err together, so the bootstrap draws shapes, not rows: with few of them its
    interval is wide, as it should be.

    Args:
        low_us, high_us, measured_us: (rows,) positive.
        shapes: (rows,) what a row belongs to, hashable.
        seed: of the bootstrap.
    """
    inside = (low_us <= measured_us) & (measured_us <= high_us)
    known = {shape: index for index, shape in enumerate(dict.fromkeys(shapes))}
    member = np.array([known[shape] for shape in shapes])
    counts = np.bincount(member, minlength=len(known)).astype(np.float64)
    hits = np.bincount(member, weights=inside.astype(np.float64), minlength=len(known))
    drawn = np.random.default_rng(seed).integers(len(known), size=(RESAMPLES, len(known)))
    shares = hits[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(shares, (5, 95))
    return Coverage(
        share=float(inside.mean()),
        low=float(low),
        high=float(high),
        width=float(np.exp(np.log(high_us / low_us).mean())),
    )
