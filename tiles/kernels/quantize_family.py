"""What the families of block quantisation share, in Triton and in CUDA C++."""

from abc import abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiles.formats import IntElement, Scaling
from tiles.kernels.base import Kernel, Limits, NumericPath
from tiles.kernels.tile_rules import CAST_CAPABILITY
from tiles.problems import Problem, Quantize

__all__ = [
    "MAX_PROGRAMS",
    "MAX_REGISTERS",
    "MAX_THREADS",
    "QuantizeKernel",
    "casts_in_hardware",
    "extents_of",
    "is_row",
    "is_tensor",
    "powers_of_two",
    "scaling_of",
    "source_bytes",
]

TARGETS = ("int8", "e4m3fn", "e5m2")
#: Most programs (CTAs) along the first axis of a launch.
MAX_PROGRAMS = 2**31 - 1
MAX_THREADS = 1024
MAX_REGISTERS = 255


def powers_of_two(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which numbers are 1, 2, 4, ..."""
    powers: NDArray[np.bool_] = (values > 0) & (values & (values - 1) == 0)
    return powers


def extents_of(problem: Quantize) -> tuple[int, int]:
    """Rows and columns under one scale, a whole extent spelt out."""
    scaling = scaling_of(problem)
    return scaling.rows or problem.rows, scaling.cols or problem.cols


def scaling_of(problem: Quantize) -> Scaling:
    """The target's scaling."""
    assert problem.target.scaling is not None  # Quantize refuses formats without scaling
    return problem.target.scaling


def is_tensor(problem: Quantize) -> bool:
    """True where one scale serves the tensor."""
    scaling = scaling_of(problem)
    return scaling.rows is None and scaling.cols is None


def is_row(problem: Quantize) -> bool:
    """True where every row has one scale."""
    scaling = scaling_of(problem)
    return scaling.rows == 1 and scaling.cols is None


def source_bytes(problem: Quantize) -> int:
    """Bytes of an element that is read."""
    return problem.source_element.bits // 8


def casts_in_hardware(problem: Quantize, limits: Limits) -> bool:
    """True where the GPU has an instruction that rounds to the target."""
    if isinstance(problem.target.element, IntElement):
        return True
    return limits.vendor == "nvidia" and limits.capability >= CAST_CAPABILITY


class QuantizeKernel(Kernel):
    """What both families share."""

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        if not isinstance(problem, Quantize):
            return f"{self.name} serves quantize problems, not {problem}"
        if problem.target.element.name not in TARGETS:
            return f"{self.name} writes {', '.join(TARGETS)}, not {problem.target.element}"
        return None

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        assert isinstance(problem, Quantize)
        native = casts_in_hardware(problem, limits)
        return NumericPath.NATIVE if native else NumericPath.EMULATED

    @property
    @abstractmethod
    def template(self) -> Path: ...
