"""The checks of ``dataflow``."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from tiles.formats import Rounding
from tiles.kernels.dataflow_operands import EPSILON, PROBABILITY, DataflowOperands, Tensors
from tiles.problems import Dataflow, Problem
from workbench.verification.dataflow_launcher import judge_launcher
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_checks import NO_INTERPRETER
from workbench.verification.operator_case import Case
from workbench.verification.operator_checks import OperatorChecks
from workbench.verification.recorder import Recorder
from workbench.verification.rivals import Contender
from workbench.verification.tile_function import copy_contender

__all__ = ["DataflowFunctionChecks", "operator_read", "operator_written"]

#: The workbench's names of tensors, where the package has others.
NAMES = {"dy": "other", "dy_scales": "other_scales", "out": "codes", "out_scales": "scales"}


class DataflowFunctionChecks(OperatorChecks):
    """Codes between those that the fp64 value and its bound allow; vectors within theirs."""

    function: ClassVar[str] = "dataflow"
    module: ClassVar[str] = "_dataflow"
    rival: ClassVar[str] = "a copy of as many bytes"
    patterns: ClassVar[tuple[str, ...]] = ("random", "NaN scale")

    def obstacle(self, subject: Subject, tuned: Tuned) -> str:
        return NO_INTERPRETER if subject.device == "cpu" else ""

    def misread(self, subject: Subject, problem: Problem, pattern: str) -> str:
        return "does not run CUDA C++"

    def launcher(
        self, subject: Subject, tuned: Tuned, choice: Any
    ) -> Callable[[Recorder], None] | None:
        assert isinstance(tuned.problem, Dataflow)
        problem = tuned.problem

        def judge(check: Recorder) -> None:
            judge_launcher(check, subject.package._lookup.template(choice), problem, choice)

        return judge

    def small(self, tuned: Tuned) -> Problem:
        # Columns stay: a configuration of rows was tuned for theirs.
        rows, cols = tuned.problem.shape
        return tuned.problem.resized(min(rows, 200), cols)

    def tails(self, tuned: Tuned, device: str) -> Problem:
        rows, cols = tuned.problem.shape
        return tuned.problem.resized(min(rows, 200) + 5, max(cols - 3, 1))

    def odd(self, tuned: Tuned, device: str) -> Problem:
        return tuned.problem.resized(67, 333)

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Dataflow)
        package = subject.package
        drawn = DataflowOperands(problem, device=subject.device, seed=subject.seed)
        if pattern == "NaN scale":
            matrix = drawn.drawn[1][0]
            assert matrix.scales is not None
            matrix.scales[-1, -1] = torch.nan  # what is read is a view of it
        op, target = problem.formats
        read = operator_read(drawn.tensors)
        seed = subject.seed if problem.target.rounding is Rounding.STOCHASTIC else None
        numbers: dict[str, Any] = {"seed": seed, "epsilon": EPSILON}
        if op == "dropout":
            numbers |= {"probability": PROBABILITY, "mask_seed": subject.seed + 1}

        def call() -> list[torch.Tensor]:
            found = package.dataflow(op, format=target, **read, **numbers)
            return [tensor for tensor in found if tensor is not None]

        def launch(choice: Any) -> list[torch.Tensor]:
            written = drawn.tensors.copy().written
            drawn.poison(written)
            told = {**numbers, "seed": 0 if seed is None else seed}
            package._dataflow.run(choice, read, operator_written(written), told)
            return list(written.values())

        def judge(check: Recorder, found: Any, choice: Any) -> None:
            accuracy = drawn.verdict(dict(zip(drawn.tensors.written, found, strict=True)))
            check.expect(accuracy.ok, accuracy.reason)
            check.note(f"{problem}: error at most {accuracy.max_error_over_bound:.3g} of the bound")

        names = ("other", "other_scales", "mean", "variance", "gamma", "beta")
        rest = (target, seed, numbers.get("probability", 0.0), numbers.get("mask_seed", 0), EPSILON)
        tensors = (read["x"], read["x_scales"], *(read.get(name) for name in names))
        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="dataflow",
            arguments=(op, *tensors, *rest),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        assert isinstance(tuned.problem, Dataflow)
        problem, size = tuned.problem, tuned.problem.min_bytes
        drawn = DataflowOperands(problem, device=subject.device, seed=subject.seed)
        numbers: dict[str, Any] = {"seed": subject.seed, "epsilon": EPSILON}
        if problem.op == "dropout":
            numbers |= {"probability": PROBABILITY, "mask_seed": subject.seed + 1}

        def own() -> Callable[[], object]:
            held = drawn.tensors.copy()
            read, written = operator_read(held), operator_written(held.written)
            return lambda: subject.package._dataflow.run(choice, read, written, numbers)

        return [
            Contender(problem=str(problem), name="this package", make=own, set_bytes=size),
            copy_contender(problem, size, subject.device),
        ]


def operator_read(tensors: Tensors) -> dict[str, torch.Tensor]:
    """What an operator reads, by the package's names."""
    return {NAMES.get(name, name): tensor for name, tensor in tensors.read.items()}


def operator_written(written: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What an operator writes, by the package's names."""
    return {NAMES.get(name, name): tensor for name, tensor in written.items()}
