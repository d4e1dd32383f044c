"""The first of some configurations that a family's rules accept: how defaults are chosen."""

from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from tiles.kernels.base import Kernel, Limits
from tiles.kernels.config import TileConfig
from tiles.kernels.table import ConfigTable
from tiles.problems import Problem

__all__ = ["first_legal"]

Config = TypeVar("Config", bound=TileConfig)


def first_legal(
    family: Kernel, problem: Problem, limits: Limits, configs: Iterable[Config]
) -> Config:
    """The first configuration that breaks no rule; all are judged at once.

    Args:
        configs: at least one, the best liked first.
    Raises:
        ValueError: all do.
    """
    candidates = list(configs)
    broken = np.zeros(len(candidates), dtype=np.bool_)
    for rule in family.rules(problem, ConfigTable.of(candidates), limits):
        broken |= rule.broken
    if broken.all():
        raise ValueError(f"{family.name} has no default for {problem} on {limits.gpu}")
    return candidates[int(np.argmin(broken))]
