"""The legality gate beside the launcher: what one takes, the other does."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, Kernel, Limits
from tiles.problems import Problem

__all__ = ["broken_rows", "takes"]


def broken_rows(
    family: Kernel, problem: Problem, table: ConfigTable, limits: Limits, hard: Collection[str]
) -> NDArray[np.bool_]:
    """Rows that break a rule of what the kernel cannot do; every rule tells of what breaks it.

    Args:
        hard: names of these rules; the others are about size, and what is not worth trying.
    """
    broken = np.zeros(len(table), dtype=np.bool_)
    for rule in family.rules(problem, table, limits):
        for row in np.flatnonzero(rule.broken)[:3].tolist():
            assert rule.explain(row)
        if rule.name in hard:
            broken |= rule.broken
    return broken


def takes(options: Callable[[Any, Any], object], problem: Problem, config: object) -> bool:
    """Whether a launcher has compiler options for a configuration."""
    try:
        options(problem, config)
    except ValueError:
        return False
    return True
