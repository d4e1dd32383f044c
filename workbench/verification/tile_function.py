"""Checks of one-pass kernels over tiles of a matrix: what they write is right bit for bit."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tiles.kernels.exact_difference import POISON, first_difference
from tiles.problems import Problem
from workbench.verification.function_checks import Tuned
from workbench.verification.operator_checks import OperatorChecks
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender

__all__ = ["TileFunctionChecks", "copy_contender", "judge_bits", "poisoned_like"]


class TileFunctionChecks(OperatorChecks):
    """Functions of a matrix whose configurations are tiles of it."""

    rival: ClassVar[str] = "a copy of as many bytes"

    def small(self, tuned: Tuned) -> Problem:
        rows, cols = tuned.problem.shape
        return tuned.problem.resized(min(rows, 72), min(cols, 160))

    def tails(self, tuned: Tuned, device: str) -> Problem:
        rows, cols = int(tuned.config["block_rows"]) + 5, int(tuned.config["block_cols"]) + 6
        if device == "cpu":
            rows, cols = min(rows, 69), min(cols, 134)
        return tuned.problem.resized(rows, cols)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        return tuned.problem.resized(*((37, 77) if device == "cpu" else (67, 333)))


def poisoned_like(tensor: torch.Tensor) -> torch.Tensor:
    """Memory of the same shape and dtype that holds what is rarely right.

    Of operations that ``torch.compile`` traces and compiles: inductor fills no 8-bit floats.
    """
    if tensor.element_size() > 1:
        return torch.full_like(tensor, -1.25)
    return torch.full_like(tensor, POISON, dtype=torch.uint8).view(tensor.dtype)


def judge_bits(check: Recorder, found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Hold an output to the right one, bit for bit, NaN for NaN."""
    if found.element_size() == 1:
        found, wanted = found.view(torch.uint8), wanted.view(torch.uint8)
    reason = first_difference("out", found, wanted)
    check.expect(not reason, reason)
    check.note(f"{'x'.join(map(str, found.shape))}: bit for bit")


def copy_contender(problem: Problem, size: int, device: str) -> Contender:
    """A copy of a tensor that moves ``size`` bytes in all: half of them read, half written."""

    def copy() -> Callable[[], object]:
        source = torch.zeros(max(1, size // 2), dtype=torch.uint8, device=device)
        target: Any = torch.empty_like(source)
        return lambda: target.copy_(source)

    name = "torch copy of as many bytes"
    return Contender(problem=str(problem), name=name, make=copy, set_bytes=size)
