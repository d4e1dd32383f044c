"""Agreement of two orders: Spearman's and Kendall's rank correlation, ties counted."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["average_ranks", "kendall", "spearman"]

F64 = NDArray[np.float64]

#: Pairs that are compared at a time, which bounds the memory taken.
_PAIRS = 2**22


def average_ranks(values: F64) -> F64:
    """Ranks from 0 on, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks: F64 = (last - (counts - 1) / 2)[inverse]
    return ranks


def spearman(first: F64, second: F64) -> float:
    """Spearman's rho: Pearson's correlation of average ranks.

    Zero where either order ties throughout, which orders nothing.
    """
    a, b = (ranks - ranks.mean() for ranks in (average_ranks(first), average_ranks(second)))
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def kendall(first: F64, second: F64) -> float:
    """Kendall's tau-b: (concordant - discordant pairs) over those tied in neither, by root.

    Zero where either order ties throughout.  Quadratic in the rows.
    """
    rows = len(first)
    step = max(1, _PAIRS // max(1, rows))
    agreement = untied_first = untied_second = 0
    for begin in range(0, rows, step):
        end = begin + step
        a = np.sign(first[begin:end, None] - first[None, :]).astype(np.int8)
        b = np.sign(second[begin:end, None] - second[None, :]).astype(np.int8)
        agreement += int((a * b).sum(dtype=np.int64))
        untied_first += int(np.count_nonzero(a))
        untied_second += int(np.count_nonzero(b))
    scale = float(np.sqrt(float(untied_first) * float(untied_second)))
    return agreement / scale if scale else 0.0
