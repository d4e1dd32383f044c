"""What a score may lose: one comparison for the search, for what it tells and for coverage."""

import math

__all__ = ["SLACK", "holds", "relative_loss"]

#: A loss of exactly the criterion holds, however its parts were rounded: 0.99 of 1 under 1 %, whose
#: difference in float64 is 0.010000000000000009.  Far below what one sample moves any score by.
SLACK = 1e-9


def relative_loss(reference: float, score: float) -> float:
    """``(reference - score) / |reference|``; infinite for a score that is no number.

    Args:
        reference: finite and not zero.
    """
    if math.isnan(score):
        return math.inf
    return (reference - score) / abs(reference)


def holds(loss: float, criterion: float) -> bool:
    """Whether a relative loss is within the criterion; one that is no number is not."""
    return loss <= criterion + SLACK
