"""Checks that the emitted functions are good PyTorch operators."""

import warnings
from dataclasses import replace
from types import ModuleType

import torch

from workbench.verification.gemm_entry import GemmEntry
from workbench.verification.operands import Pattern
from workbench.verification.recorder import Recorder, Report

__all__ = ["check_compiled", "check_registration"]


def _operator(package: ModuleType, name: str) -> torch._ops.OpOverload:
    namespace = getattr(torch.ops, package.__name__)
    overload: torch._ops.OpOverload = getattr(namespace, name).default
    return overload


def check_registration(entry: GemmEntry, report: Report) -> None:
    """The operator's fake implementation and schema agree with what it does."""
    problem = replace(entry.problem, m=24, n=40, k=160)
    with Recorder(report, f"operator {problem.recipe} {problem.out}: opcheck") as check:
        a, b = entry.operands(problem, Pattern.RANDOM)
        dtype = entry.package._torch_device.DTYPES[problem.out]
        arguments = (a.codes, b.codes, a.scales, b.scales, problem.recipe.name, dtype)
        tests = ["test_faketensor"]
        # The schema test compares inputs before and after: torch cannot for 8-bit floats.
        if a.codes.dtype in (torch.bfloat16, torch.float16, torch.int8):
            tests.append("test_schema")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.library.opcheck(
                _operator(entry.package, "gemm"), arguments, test_utils=tuple(tests)
            )
        check.note(", ".join(tests))


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
        torch.compiler.reset()  # one function for every entry: together they pass its limit
        compiled = torch.compile(product, fullgraph=True)
        check.expect(
            torch.equal(compiled(a.codes), product(a.codes)), "compiled and eager results differ"
        )
        check.note("bit for bit the eager result")
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
