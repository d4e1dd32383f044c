"""Configurations of tests with as many stages as shared memory holds for a problem."""

from dataclasses import replace
from typing import Any

from tiles.kernels.base import Kernel, Limits
from tiles.problems import Problem

__all__ = ["fitting"]


def fitting(family: Kernel, problem: Problem, config: Any, limits: Limits) -> Any:
    """The configuration, with fewer stages where its own do not fit.

    Raises:
        ValueError: no two stages fit.
    """
    for stages in range(config.stages, 1, -1):
        one = replace(config, stages=stages)
        if getattr(family.judge(problem, one, limits), "rule", "") != "shared memory":
            return one
    raise ValueError(f"{family.name}: two stages of {config} do not fit {problem}")
