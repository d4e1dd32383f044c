"""What choosing by predicted times costs: the best of the first few, and pruning.

Equal predictions are taken in random order, and every number here is the expectation over it in
closed form.  Where all predictions tie this is what choosing at random gives.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEAR", "expected_fraction", "kept_share", "pruning_recall"]

F64 = NDArray[np.float64]

#: A configuration within this share of the best counts as a winner: noise tells them not apart.
NEAR = 0.01


def _split(predicted: F64, count: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
    """Rows that are surely among the first ``count``, those that tie for the rest, and how many."""
    bar = np.partition(predicted, count - 1)[count - 1]
    sure = predicted < bar
    return sure, predicted == bar, count - int(sure.sum())


def _none_of(special: int, of: int, drawn: int) -> float:
    """Chance that ``drawn`` of ``of`` rows, without replacement, miss all ``special`` ones."""
    if drawn > of - special:
        return 0.0
    factors = (of - special - np.arange(drawn)) / (of - np.arange(drawn))
    return float(np.prod(factors))


def expected_fraction(predicted: F64, measured_us: F64, count: int) -> float:
    """Fastest measured time over the best among the ``count`` rows predicted fastest.

    Args:
        predicted: (rows,) any score, the smaller the faster.
        measured_us: (rows,) positive.
        count: how many are tried, 1..rows.

    Returns:
        In 0..1; the share of the optimum that trying them reaches.
    """
    sure, tied, draws = _split(predicted, count)
    best = float(measured_us.min())
    reached = float(measured_us[sure].min()) if sure.any() else np.inf
    ordered = np.sort(measured_us[tied])
    rows = len(ordered)
    # Chance that the fastest row drawn is the r-th: none of those before it, and this one.
    ranks = np.arange(rows - draws + 1)
    first = draws / rows
    steps = (rows - ranks[:-1] - draws) / (rows - 1 - ranks[:-1])
    chances = first * np.concatenate(([1.0], np.cumprod(steps)))
    return float((chances * best / np.minimum(reached, ordered[: len(ranks)])).sum())


def kept_share(rows: int, dropped: float) -> int:
    """Rows that are left when a share of them is dropped: at least one."""
    return max(1, int(np.ceil((1 - dropped) * rows - 1e-9)))


def pruning_recall(predicted: F64, measured_us: F64, dropped: float) -> float:
    """Chance that a winner is left when the rows predicted slowest are dropped.

    A winner is any row within :data:`NEAR` of the fastest.

    Args:
        dropped: share of the rows, in 0..1.
    """
    sure, tied, draws = _split(predicted, kept_share(len(predicted), dropped))
    winners = measured_us <= measured_us.min() * (1 + NEAR)
    if (winners & sure).any():
        return 1.0
    return 1.0 - _none_of(int((winners & tied).sum()), int(tied.sum()), draws)
