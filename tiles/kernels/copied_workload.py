"""Workloads whose launches run on copies of operands that are drawn once."""

from abc import abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Generic, TypeVar

from tiles.kernels.base import Workload
from tiles.kernels.config import TileConfig
from tiles.problems import Problem

__all__ = ["CopiedWorkload"]

Operands = TypeVar("Operands")


class CopiedWorkload(Workload, Generic[Operands]):
    """Launches on separate copies of operands and outputs, the first of which is checked."""

    def __init__(self, problem: Problem, *, device: str, seed: int) -> None:
        """Open the problem; operands are drawn on first use.

        Args:
            device: ``cuda``, ``cuda:1``, ..., or ``cpu`` for Triton's interpreter.
            seed: seeds the operands, and stochastic rounding where there is some.
        """
        self.problem = problem
        self.device = device
        self._seed = seed

    @abstractmethod
    def _copy(self) -> Operands:
        """A fresh copy of the drawn operands, with outputs of its own."""

    @abstractmethod
    def _launcher(self, copy: Operands, config: TileConfig) -> Callable[[], None]:
        """A launch on one copy."""

    @cached_property
    def operands(self) -> Operands:
        """The copy that :meth:`check` uses."""
        return self._copy()

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        copies = [self.operands, *(self._copy() for _ in range(sets - 1))]
        return [self._launcher(copy, config) for copy in copies]
