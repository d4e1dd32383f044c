"""CTAs or warps beside one another on an SM, each of which waits, computes and waits again.

What one asks of the SM takes longer the more of the others compute meanwhile: as many as their own
share of computing in a turn says.  That is mean value analysis of a closed network of one queue and
a delay, in its approximation by Schweitzer (Int. Conf. on Stochastic Control and Optimization,
1979): a lone one computes and then waits, and many wait for the queue alone.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["turn_ns"]

F64 = NDArray[np.float64]

#: Halvings of the distance to the fixed point.
ITERATIONS = 10


def turn_ns(resident: F64, *, work: F64, chain: F64, waits: F64, exponent: F64) -> F64:
    """Nanoseconds of a turn.

    Args:
        resident: that share an SM, at least 1.
        work: of the SM's busiest resources, of one; ``chain``: of its own instructions, each of
            which waits for the one before; ``exponent``: of the norm that joins both.
        waits: in which it asks for nothing.
    """
    others = np.maximum(resident, 1.0) - 1.0

    def computed(share: F64 | float) -> F64:
        queued = (1.0 + others * share) * work
        joined: F64 = (chain**exponent + queued**exponent) ** (1.0 / exponent)
        return joined

    turn = waits + computed(1.0)
    for _ in range(ITERATIONS):
        turn = (turn + waits + computed((turn - waits) / turn)) / 2
    return turn
