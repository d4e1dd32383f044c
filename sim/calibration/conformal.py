"""Conformal 90 % intervals: quantiles of held-out errors, by what binds and by format.

Errors on one shape go together, so it is shapes that are exchangeable, not rows.  Every shape
weighs the same whatever was timed on it, the shape to come weighs as much and errs without bound,
and the width is the weighted 0.9 quantile: it covers a row of a new shape with probability 0.9
whatever the errors' distribution (hierarchical conformal prediction: Lee, Barber, Willett, arXiv
2306.06342; with one row a shape it is split conformal prediction).  The errors here come from
cross-validation over shapes.  Strata with few errors take those of a wider one.

Fewer than nine shapes promise nothing without an assumption.  There errors are taken for normal,
those on one shape for one, and the width is Student's, as for a sample of so many.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COVERAGE",
    "EVERY",
    "FEWEST",
    "conformal_width",
    "stratum_widths",
    "student_width",
    "width_of",
]

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

COVERAGE = 0.9
#: Repeated measurements are no nearer to one another, in log time.
LEAST_WIDTH = 1e-3
#: Errors that a stratum needs for a width of its own.
FEWEST = 20
#: Shapes that a variance needs.
FEWEST_SHAPES = 3
#: Quantiles 0.95 of Student's distribution with 1, 2, ... degrees of freedom.
STUDENT_95 = (6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860)
#: Of a stratum's text: whatever binds, whatever the format.
EVERY = "*"


def conformal_width(errors: F64, shapes: Sequence[int] | I64) -> float:
    """Half-width in log time that covers a row of the next shape with probability 0.9.

    Infinite for fewer than nine shapes: no finite width has that property.

    Args:
        errors: (rows,) held-out logs of measured over predicted.
        shapes: (rows,) what a row belongs to, whole numbers from 0.
    """
    _, member, counts = np.unique(shapes, return_inverse=True, return_counts=True)
    weights = 1.0 / counts[member] / (len(counts) + 1)
    order = np.argsort(np.abs(errors), kind="stable")
    reached = np.cumsum(weights[order]) >= COVERAGE - 1e-9
    if not reached.any():
        return math.inf
    return float(np.abs(errors)[order][np.argmax(reached)])


def student_width(errors: F64, shapes: Sequence[int] | I64) -> float:
    """Half-width in log time of a 90 % prediction interval for normal errors around zero.

    Infinite for fewer than three shapes.

    Args:
        errors, shapes: as :func:`conformal_width` takes them.
    """
    _, member, counts = np.unique(shapes, return_inverse=True, return_counts=True)
    if len(counts) < FEWEST_SHAPES:
        return math.inf
    variance = float(np.mean(np.bincount(member, weights=errors**2) / counts))
    quantile = STUDENT_95[min(len(counts), len(STUDENT_95)) - 1]
    return max(LEAST_WIDTH, quantile * math.sqrt(variance))


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
    bindings: Sequence[str], elements: Sequence[str], errors: F64, shapes: Sequence[int] | I64
) -> dict[str, float]:
    """Widths of all strata that have enough errors, by their text.

    Args:
        bindings, elements: (rows,) the term that binds and the operands' elements.
        shapes: (rows,) as :func:`conformal_width` takes them.
    """
    members: dict[str, list[int]] = {}
    for row, (binding, element) in enumerate(zip(bindings, elements, strict=True)):
        for text in _wider(binding, element):
            members.setdefault(text, []).append(row)
    every = _text(EVERY, EVERY)
    numbers = np.asarray(shapes)
    widths = {}
    for text, rows in members.items():
        width = conformal_width(errors[rows], numbers[rows])
        if math.isfinite(width) and (len(rows) >= FEWEST or text == every):
            widths[text] = max(width, LEAST_WIDTH)
    return widths


def width_of(widths: Mapping[str, float], binding: str, element: str) -> float | None:
    """The width of the narrowest stratum that has one; ``None`` without any."""
    return next((widths[text] for text in _wider(binding, element) if text in widths), None)
