"""``gemm`` as a PyTorch operator: its registration, compiled and captured."""

from dataclasses import replace

import torch

from workbench.verification.gemm_entry import GemmEntry
from workbench.verification.operands import Pattern
from workbench.verification.recorder import Recorder, Report
from workbench.verification.torch_checks import judge_compiled, judge_registration

__all__ = ["check_compiled", "check_registration"]


def check_registration(entry: GemmEntry, report: Report) -> None:
    """The operator's fake implementation and schema agree with what it does."""
    problem = replace(entry.problem, m=24, n=40, k=160)
    with Recorder(report, f"operator {problem.recipe} {problem.out}: opcheck") as check:
        a, b = entry.operands(problem, Pattern.RANDOM)
        dtype = entry.package._torch_device.DTYPES[problem.out]
        arguments = (a.codes, b.codes, a.scales, b.scales, problem.recipe.name, dtype)
        judge_registration(check, entry.package, "gemm", arguments)


def check_compiled(entry: GemmEntry, report: Report) -> None:
    """The tuned product under ``torch.compile(fullgraph=True)`` and in a CUDA graph, on a GPU."""
    problem = entry.problem
    a, b = entry.operands(problem, Pattern.RANDOM)
    dtype = entry.package._torch_device.DTYPES[problem.out]

    def product(codes: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = entry.package.gemm(
            codes, b.codes, a.scales, b.scales, recipe=problem.recipe.name, out_dtype=dtype
        )
        return result

    label = f"{entry.kernel} {problem}"
    with Recorder(report, f"{label}: torch.compile fullgraph") as check:
        judge_compiled(check, lambda: product(a.codes))
    with Recorder(report, f"{label}: CUDA graph") as check:
        expected = product(a.codes)
        held = torch.zeros_like(a.codes.view(torch.uint8)).view(a.codes.dtype)
        graph = torch.cuda.CUDAGraph()
        product(held)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            captured = product(held)
        held.copy_(a.codes)
        graph.replay()
        torch.cuda.synchronize()
        check.expect(torch.equal(captured, expected), "the replay's result differs from eager's")
        check.note("a replay on new operands gives the eager result")
