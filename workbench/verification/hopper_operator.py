"""Checks of functions of torch tensors some of whose kernels are CUDA C++ for Hopper."""

import importlib
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tiles.problems import GroupedGemm
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_checks import BLOCKS, NO_INTERPRETER
from workbench.verification.hopper_launcher import judge_launcher
from workbench.verification.operator_checks import OperatorChecks
from workbench.verification.recorder import Recorder

__all__ = ["HopperOperatorChecks"]


class HopperOperatorChecks(OperatorChecks):
    """Where the kernel cannot run its launcher is asked, and its stand-in checked."""

    hopper: ClassVar[str]  #: the family in CUDA C++

    def in_cuda(self, family: str) -> bool:
        """Whether a family is in CUDA C++."""
        return family == self.hopper

    def obstacle(self, subject: Subject, tuned: Tuned) -> str:
        if not self.in_cuda(tuned.kernel):
            return ""
        if subject.device == "cpu":
            return NO_INTERPRETER
        hopper = importlib.import_module(f"{subject.package.__name__}._hopper_gemm")
        found: str = hopper.obstacle(torch.device(subject.device))
        return found

    def launcher(
        self, subject: Subject, tuned: Tuned, choice: Any
    ) -> Callable[[Recorder], None] | None:
        problem = tuned.problem

        def judge(check: Recorder) -> None:
            judge_launcher(
                check,
                subject.package._lookup.template(choice),
                layout=choice.file.layout,
                out=problem.formats[-1],
                config=tuned.config,
                both=tuned.kernel == BLOCKS,
                experts=problem.experts if isinstance(problem, GroupedGemm) else 0,
            )

        return judge
