"""Conformal 90 % intervals: quantiles of held-out errors, by what binds and by format.

A quantile of n held-out errors that counts the new one in, ``ceil((n + 1) 0.9)`` of n, covers it
with probability 0.9 whatever the errors' distribution, as long as old and new are exchangeable
(Vovk et al., split conformal prediction; the errors here come from cross-validation over shapes).
Strata with few errors take those of a wider one.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["COVERAGE", "EVERY", "FEWEST", "conformal_width", "stratum_widths", "width_of"]

F64 = NDArray[np.float64]

COVERAGE = 0.9
#: Errors that a stratum needs for a width of its own.
FEWEST = 20
#: Of a stratum's text: whatever binds, whatever the format.
EVERY = "*"


def conformal_width(errors: F64) -> float:
    """Half-width in log time that covers the next error with probability 0.9.

    Infinite for fewer than nine errors: no finite width has that property.

    Args:
        errors: (rows,) held-out logs of measured over predicted.
    """
    rank = math.ceil((len(errors) + 1) * COVERAGE)
    if rank > len(errors):
        return math.inf
    return float(np.sort(np.abs(errors))[rank - 1])


def _text(binding: str, element: str) -> str:
    return f"{binding} {element}"


def _wider(binding: str, element: str) -> tuple[str, ...]:
    """The stratum and those that stand in for it, the narrowest first."""
    return (
        _text(binding, element),
        _text(EVERY, element),
        _text(binding, EVERY),
        _text(EVERY, EVERY),
    )


def stratum_widths(
    bindings: Sequence[str], elements: Sequence[str], errors: F64
) -> dict[str, float]:
    """Widths of all strata that have enough errors, by their text.

    Args:
        bindings, elements: (rows,) the term that binds and the activations' element.
    """
    members: dict[str, list[float]] = {}
    for binding, element, error in zip(bindings, elements, errors.tolist(), strict=True):
        for text in _wider(binding, element):
            members.setdefault(text, []).append(error)
    widths = {}
    for text, found in members.items():
        width = conformal_width(np.array(found))
        if math.isfinite(width) and (len(found) >= FEWEST or text == _text(EVERY, EVERY)):
            widths[text] = width
    return widths


def width_of(widths: Mapping[str, float], binding: str, element: str) -> float | None:
    """The width of the narrowest stratum that has one; ``None`` without any."""
    return next((widths[text] for text in _wider(binding, element) if text in widths), None)
