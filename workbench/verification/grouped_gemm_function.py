"""The checks of ``grouped_gemm``."""

from dataclasses import replace
from typing import Any, ClassVar

import torch

from tiles.kernels.group_routing import draw_routing
from tiles.kernels.grouped_workload import GroupedWorkload
from tiles.problems import GroupedGemm, GroupLayout, Problem, RowOrder
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_operator import HopperOperatorChecks
from workbench.verification.operator_case import Case
from workbench.verification.recorder import Recorder

__all__ = ["GroupedGemmFunctionChecks"]

#: Experts and rows in place of the tuned ones where Triton's interpreter runs them.
EXPERTS, ROWS = 4, 24
#: Capacity of a small masked expert, and rows that small padded offsets are multiples of.
CAPACITY = {RowOrder.MASKED: 16, RowOrder.PADDED: 16}


class GroupedGemmFunctionChecks(HopperOperatorChecks):
    """Products of experts, each against its fp64 product; rows of none must stay as they are."""

    function: ClassVar[str] = "grouped_gemm"
    module: ClassVar[str] = "_grouped_gemm"
    hopper: ClassVar[tuple[str, ...]] = ("hopper_grouped_gemm",)
    fallback: ClassVar[str] = "triton_grouped_gemm"
    patterns: ClassVar[tuple[str, ...]] = ("random", "other routing", "NaN scale")

    def _resized(self, problem: Problem, n: int, k: int) -> Problem:
        """Few experts and rows; the number of choices of a gathered token as it is."""
        assert isinstance(problem, GroupedGemm)
        order, size = problem.layout.order, problem.layout.size
        size = min(size, CAPACITY.get(order, size))
        experts = min(problem.experts, EXPERTS)
        if order is RowOrder.GATHERED:
            size = min(size, experts)
        rows = min(problem.m, ROWS) // size * size if order is RowOrder.GATHERED else ROWS
        return replace(
            problem,
            experts=experts,
            m=max(rows, size if order is RowOrder.GATHERED else 1),
            n=n,
            k=k,
            layout=GroupLayout(order=order, size=size),
        )

    def small(self, tuned: Tuned) -> Problem:
        return self._resized(tuned.problem, 48, 272)

    def tails(self, tuned: Tuned, device: str) -> Problem:
        step = 16 if tuned.kernel in self.hopper or tuned.config.get("tma") else 1
        n = 48 if device == "cpu" else int(tuned.config.get("block_n", 128))
        k = max(256, int(tuned.config.get("block_k", 256)))
        return self._resized(tuned.problem, n + 3 * step, k + 3 * step)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        return self._resized(tuned.problem, 37, 133)

    def default_problem(self, tuned: Tuned, family: str, device: str) -> Problem:
        return self.tails(tuned, device) if family in self.hopper else self.odd(tuned, device)

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, GroupedGemm)
        package, seed = subject.package, subject.seed
        drawn = draw_routing(problem, seed + 1) if pattern == "other routing" else None
        workload = GroupedWorkload(problem, device=subject.device, seed=seed, routing=drawn)
        made = workload.operands
        if pattern == "NaN scale" and made.b_scale is not None:
            made.b_scale[0, -1, -1] = torch.nan
        operands = (made.a, made.b, made.a_scale, made.b_scale)
        routing = (made.offsets, made.counts, made.ids)
        top_k = problem.top_k

        def call() -> torch.Tensor:
            out = torch.full_like(made.c, torch.nan)
            package.grouped_gemm(
                *operands,
                recipe=problem.recipe.name,
                offsets=made.offsets,
                counts=made.counts,
                ids=made.ids,
                top_k=top_k,
                expected_rows=problem.m,
                out_dtype=out.dtype,
                out=out,
            )
            return out

        def launch(choice: Any) -> torch.Tensor:
            out = torch.full_like(made.c, torch.nan)
            package._grouped_gemm.run(choice, operands, routing, out, top_k)
            return out

        def judge(check: Recorder, out: Any, choice: Any) -> None:
            accuracy = workload.verdict(out)
            check.expect(accuracy.ok, accuracy.reason)
            check.note(
                f"{problem}: error at most {accuracy.max_error_over_bound:.3g} of the bound, "
                f"relative rms error {accuracy.relative_rms:.3g}"
            )

        rest = (*routing, problem.recipe.name, top_k, problem.m, made.c.dtype)
        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="grouped_gemm",
            arguments=(*operands, *rest),
        )
