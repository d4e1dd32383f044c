"""What the weight-only products on Hopper share: what they serve, and names of formats."""

from abc import abstractmethod
from typing import Any, ClassVar

from tiles.kernels.base import Backend, Kernel, Limits, NumericPath
from tiles.kernels.hopper_rules import CAPABILITY, row_refusal
from tiles.kernels.hopper_weight_only_rules import ROWS_MULTIPLE, scale_format
from tiles.kernels.weight_only import weight_only_refusal
from tiles.kernels.weight_only_resources import group_columns
from tiles.problems import Gemm, Problem

__all__ = ["HopperWeightKernel"]


class HopperWeightKernel(Kernel):
    """A family of 16-bit activations by packed weights, in CUDA C++.  Capability 9.0 alone."""

    backend: ClassVar[Backend] = Backend.CUPY

    @abstractmethod
    def rows_refusal(self, m: int) -> str | None:
        """Why it is not for so many rows of activations, or ``None``."""

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Gemm):
            return f"{self.name} serves gemm problems, not {problem}"
        if limits.vendor != "nvidia" or limits.capability != CAPABILITY:
            return f"{self.name} is for capability {CAPABILITY}, {limits.gpu} has another"
        if reason := weight_only_refusal(self.name, problem):
            return reason
        if reason := self.rows_refusal(problem.m):
            return reason
        if problem.n % ROWS_MULTIPLE:
            return f"N {problem.n}: {self.name} takes multiples of {ROWS_MULTIPLE} rows of weights"
        return row_refusal(problem, problem.out)

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.EMULATED

    @staticmethod
    def weight_formats(problem: Gemm) -> dict[str, Any]:
        """Weights, their scales and groups, as the launchers take them."""
        weight = problem.recipe.weight
        return {
            "weight": weight.element.name,
            "scale_format": scale_format(weight),
            "group": group_columns(weight),
        }
