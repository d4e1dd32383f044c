"""The checks of ``gemm_outliers`` and ``pack_outliers``."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.outlier_workload import OutlierGemmWorkload
from tiles.problems import Gemm, Problem
from tiles.recipes import OutlierColumns
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.operator_case import GUARD_ROWS, Case, judge_product, poisoned
from workbench.verification.operator_checks import OperatorChecks
from workbench.verification.recorder import Recorder, Report
from workbench.verification.rivals import Contender

__all__ = ["OutlierGemmFunctionChecks"]

NONE = "no outliers"


class OutlierGemmFunctionChecks(OperatorChecks):
    """Products of codes and outliers, against the fp64 product of both; and how they are packed."""

    function: ClassVar[str] = "gemm_outliers"
    module: ClassVar[str] = "_gemm_outliers"
    rival: ClassVar[str] = "torch.matmul in bf16"
    patterns: ClassVar[tuple[str, ...]] = ("random", NONE, "NaN scale")

    def small(self, tuned: Tuned) -> Problem:
        high, wide = _block(tuned.problem)
        return tuned.problem.resized(high + 21, 48 + high // 2, max(288, 2 * wide + 32))

    def tails(self, tuned: Tuned, device: str) -> Problem:
        step = 16 if tuned.config["tma"] else 1
        m, n = int(tuned.config["block_m"]) + 5, int(tuned.config["block_n"]) + 3 * step
        high, wide = _block(tuned.problem)
        if device == "cpu":
            m, n = min(m, high + 37), 48 + 3 * step
        return tuned.problem.resized(m, n, max(256, wide) + 3 * step)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        return tuned.problem.resized(*((19, 37, 133) if device == "cpu" else (35, 77, 191)))

    def check(self, subject: Subject, report: Report) -> None:
        super().check(subject, report)
        for tuned in {t.problem.formats[0]: t for t in subject.entries(self.function)}.values():
            self._check_packing(subject, tuned, report)

    def _check_packing(self, subject: Subject, tuned: Tuned, report: Report) -> None:
        """What ``pack_outliers`` makes, bit for bit what the rules of the recipe say."""
        problem = self.small(tuned)
        assert isinstance(problem, Gemm)
        for pattern in ("random", NONE, "nasty values"):
            with Recorder(report, f"pack_outliers {problem.recipe}: {pattern}") as check:
                workload = _workload(problem, pattern, subject)
                found = _pack(subject, workload)
                packed = workload.packed
                wanted = (packed.codes, packed.scales, *packed.outliers.tensors.values())
                pairs = zip((found.codes, found.scales, *found.outliers), wanted, strict=True)
                for index, (got, right) in enumerate(pairs):
                    same = (got == right) | (got != got) & (right != right)
                    alike = got.shape == right.shape and got.dtype == right.dtype
                    check.expect(alike and bool(same.all()), f"part {index} of it differs")
                check.note("bit for bit")

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Gemm)
        package, device, dtype = subject.package, subject.device, CODE_DTYPES[problem.out]
        workload = _workload(problem, pattern, subject)
        if pattern == "NaN scale":
            workload.packed.scales[-1, -1] = torch.nan
        made = workload.operands
        operands = (made.a, made.b, made.a_scale, made.b_scale)
        parts = tuple(made.outliers.tensors.values())
        held = package.OutlierActivations(made.a, made.a_scale, parts)

        def call() -> torch.Tensor:
            buffer = poisoned(problem.m, problem.n, dtype, device)
            package.gemm_outliers(
                held,
                made.b,
                made.b_scale,
                recipe=problem.recipe.name,
                out_dtype=dtype,
                out=buffer[:-GUARD_ROWS],
            )
            return buffer

        def launch(choice: Any) -> torch.Tensor:
            buffer = poisoned(problem.m, problem.n, dtype, device)
            package._gemm_outliers.run(choice, operands, parts, buffer[:-GUARD_ROWS])
            return buffer

        def judge(check: Recorder, buffer: Any, choice: Any) -> None:
            judge_product(check, buffer, workload.reference(), "x".join(map(str, problem.shape)))

        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="gemm_outliers",
            arguments=(*operands, list(parts), problem.recipe.name, dtype),
        )

    def contenders(self, subject: Subject, tuned: Tuned, choice: Any) -> list[Contender]:
        problem = tuned.problem
        assert isinstance(problem, Gemm)
        workload = _workload(problem, self.patterns[0], subject)
        wide = [side.to(torch.bfloat16) for side in workload.drawn]
        cells = problem.m * problem.n

        def own() -> Callable[[], object]:
            made = workload.operands
            operands = [x.clone() for x in (made.a, made.b, made.a_scale, made.b_scale)]
            parts = [part.clone() for part in made.outliers.tensors.values()]
            out = torch.empty_like(made.c)
            return lambda: subject.package._gemm_outliers.run(choice, operands, parts, out)

        def matmul() -> Callable[[], object]:
            rows, held = wide[0].clone(), wide[1].clone().t()
            out = rows.new_empty(problem.m, problem.n)
            return lambda: torch.matmul(rows, held, out=out)

        name, size = str(problem), workload.set_bytes
        rival_bytes = sum(side.nbytes for side in wide) + 2 * cells
        return [
            Contender(problem=name, name="this package", make=own, set_bytes=size),
            Contender(problem=name, name="torch.matmul bf16", make=matmul, set_bytes=rival_bytes),
        ]


def _block(problem: Problem) -> Sequence[int]:
    """Rows and columns of a block that falls back; ones where columns do."""
    assert isinstance(problem, Gemm)
    scaling = problem.recipe.activation.scaling
    if scaling is None or isinstance(problem.recipe.outliers, OutlierColumns):
        return 1, 1
    return scaling.rows or 1, scaling.cols or 1


def _workload(problem: Gemm, pattern: str, subject: Subject) -> OutlierGemmWorkload:
    """The product opened on the subject's device, its operands as the pattern says."""
    workload = OutlierGemmWorkload(problem, device=subject.device, seed=subject.seed)
    x, w = workload.drawn
    if pattern == NONE:
        # No column crosses the threshold; all blocks are alike, so that none of them falls back.
        columns = isinstance(problem.recipe.outliers, OutlierColumns)
        x = x.clamp(-3.0, 3.0) if columns else torch.where(x < 0, -1.0, 1.0)
    elif pattern == "nasty values":
        x = x.clone()
        x[0] = 0
        x[1, 3], x[2, -1] = torch.nan, torch.inf
    workload.drawn = (x, w)
    return workload


def _pack(subject: Subject, workload: OutlierGemmWorkload) -> Any:
    """What the package makes of a workload's matrices."""
    x, w = workload.drawn
    recipe = workload.problem.recipe
    if isinstance(recipe.outliers, OutlierColumns):
        pack = subject.package.pack_outliers
        return pack(x, w, recipe=recipe.name, capacity=workload.capacity)
    return subject.package.pack_outliers(x, recipe=recipe.name)
