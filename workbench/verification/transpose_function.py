"""The checks of ``transpose``."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tiles.formats.torch_encode import CODE_DTYPES
from tiles.problems import Problem, Transpose
from workbench.verification.cupy_launcher import cupy_obstacle, judge_arguments
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_launcher import fake_array
from workbench.verification.operator_case import Case
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender
from workbench.verification.tile_function import (
    TileFunctionChecks,
    copy_contender,
    judge_bits,
    poisoned_like,
)

__all__ = ["TransposeFunctionChecks"]


class TransposeFunctionChecks(TileFunctionChecks):
    """Codes of all 256 patterns, each where it belongs."""

    function: ClassVar[str] = "transpose"
    module: ClassVar[str] = "_transpose"
    patterns: ClassVar[tuple[str, ...]] = ("random",)
    fallback: ClassVar[str] = "triton_transpose"

    def obstacle(self, subject: Subject, tuned: Tuned) -> str:
        return cupy_obstacle(subject.package._transpose, subject, tuned, self.fallback)

    def launcher(
        self, subject: Subject, tuned: Tuned, choice: Any
    ) -> Callable[[Recorder], None] | None:
        """Whether the launcher takes the tuned configuration, and refuses bad arguments."""
        problem = tuned.problem
        assert isinstance(problem, Transpose)
        rows, cols = problem.shape
        template = subject.package._lookup.template(choice)

        def judge(check: Recorder) -> None:
            asked = {
                "codes": fake_array((rows, cols), problem.element),
                "out": fake_array((cols, rows), problem.element),
                "config": dict(choice.config),
            }
            wrong: dict[str, tuple[dict[str, Any], str]] = {
                "an output of another shape": (
                    {"out": fake_array((cols + 1, rows), problem.element)},
                    "out has shape",
                ),
                "a configuration with an unknown field": (
                    {"config": {**choice.config, "warps": 4}},
                    "warps",
                ),
            }
            judge_arguments(check, template.launch, asked, wrong)

        return judge

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Transpose)
        package, codes = subject.package, _draw(problem, subject)
        wanted = codes.view(torch.uint8).t().contiguous().view(codes.dtype)

        def call() -> torch.Tensor:
            found: torch.Tensor = package.transpose(codes, out=poisoned_like(wanted))
            return found

        def launch(choice: Any) -> torch.Tensor:
            out = poisoned_like(wanted)
            package._transpose.run(choice, codes, out)
            return out

        def judge(check: Recorder, found: Any, choice: Any) -> None:
            judge_bits(check, found, wanted)

        return Case(call=call, launch=launch, judge=judge, operator="transpose", arguments=(codes,))

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        assert isinstance(tuned.problem, Transpose)
        problem, drawn = tuned.problem, _draw(tuned.problem, subject)

        def own() -> Callable[[], object]:
            codes, out = drawn.clone(), drawn.new_empty(problem.cols, problem.rows)
            return lambda: subject.package._transpose.run(choice, codes, out)

        size = problem.min_bytes
        return [
            Contender(problem=str(problem), name="this package", make=own, set_bytes=size),
            copy_contender(problem, size, subject.device),
        ]


def _draw(problem: Transpose, subject: Subject) -> torch.Tensor:
    generator = torch.Generator(subject.device).manual_seed(subject.seed)
    bits = torch.randint(
        0, 256, problem.shape, dtype=torch.uint8, generator=generator, device=subject.device
    )
    return bits.view(CODE_DTYPES[problem.element])
