"""Checks of the CUDA C++ product alone: its refusals, its stand-in, its CuPy function."""

from dataclasses import replace

import torch

from tiles.problems import Gemm
from workbench.verification.gemm_entry import GemmEntry
from workbench.verification.gemm_judge import judge, misread, nasty
from workbench.verification.hopper_launcher import judge_launcher
from workbench.verification.operands import Matrix, Pattern
from workbench.verification.recorder import Recorder, Report

__all__ = [
    "BLOCKS",
    "NO_INTERPRETER",
    "check_cupy",
    "check_launcher",
    "check_stand_in",
    "check_unaligned",
]

NO_INTERPRETER = "CuPy kernels have no interpreter: needs a GPU"
#: The kernel whose scales have one shape on both sides.
BLOCKS = "hopper_block_gemm"


def check_launcher(entry: GemmEntry, report: Report) -> None:
    """Without a GPU: the launcher takes the tuned configuration, and refuses what it cannot do."""
    choice = entry.choice(entry.problem)
    label = f"{entry.kernel} {entry.problem}"
    with Recorder(report, f"{label}: launcher") as check:
        judge_launcher(
            check,
            entry.lookup.template(choice),
            layout=choice.file.layout,
            out=entry.problem.out,
            config=entry.config,
            both=entry.kernel == BLOCKS,
        )
    with Recorder(report, f"{label}: answers") as check:
        check.skip(NO_INTERPRETER)


def check_stand_in(entry: GemmEntry, problem: Gemm, report: Report) -> None:
    """Without a GPU: what runs where the kernel cannot gives right answers under the interpreter.

    Args:
        entry: the product.
        problem: a small shape with several scale blocks.
        report: takes the results.
    """
    label = f"{entry.kernel} {entry.problem}: stand-in"
    with Recorder(report, f"{label}: configuration") as check:
        choice = entry.stand_in()
        check.expect(choice.file.kernel != entry.kernel, "a kernel stands in for itself")
        check.expect(not choice.tuned, "the stand-in is a tuned entry")
        check.expect(not choice.config["tma"], "the stand-in needs alignment")
        check.note(f"{choice.file.kernel}, default for M = {choice.m}")
    for pattern in (Pattern.RANDOM, *nasty(problem.recipe)):
        with Recorder(report, f"{label}: {pattern.value}") as check:
            if reason := misread(problem.recipe, pattern):
                check.skip(f"Triton's interpreter {reason}: needs a GPU")
            else:
                judge(check, entry, problem, pattern, entry.launch_stand_in)


def check_unaligned(entry: GemmEntry, report: Report) -> None:
    """On a GPU: rows off a 16-byte boundary, at the tuned extents, run the stand-in."""
    problem = replace(entry.problem, m=min(entry.problem.m, 129))

    def call(a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        entry.call(replace(a, codes=_shifted(a.codes)), b, out)

    label = f"{entry.kernel} {entry.problem}: rows off a 16-byte boundary"
    with Recorder(report, label) as check:
        judge(check, entry, problem, Pattern.RANDOM, call)


def _shifted(matrix: torch.Tensor) -> torch.Tensor:
    """The same values one element into a wider allocation."""
    rows, cols = matrix.shape
    bits = torch.int8 if matrix.element_size() == 1 else torch.int16
    wide = torch.zeros((rows, cols + 16), dtype=bits, device=matrix.device)
    held = wide[:, 1 : cols + 1]
    held.copy_(matrix.view(bits))
    return held.view(matrix.dtype)


def check_cupy(entry: GemmEntry, report: Report) -> None:
    """On a GPU: the CuPy function gives the torch function's result, bit for bit."""
    problem = entry.problem
    with Recorder(report, f"{entry.kernel} {problem}: CuPy arrays") as check:
        a, b = entry.operands(problem, Pattern.RANDOM)
        dtype = entry.package._torch_device.DTYPES[problem.out]
        expected = torch.empty(problem.m, problem.n, dtype=dtype, device=entry.device)
        entry.call(a, b, expected)
        out = torch.full_like(expected, torch.nan)
        view = entry.package._hopper_gemm.view
        torch.cuda.synchronize()
        entry.package.gemm_cuda.gemm(
            view(a.codes),
            view(b.codes),
            None if a.scales is None else view(a.scales),
            None if b.scales is None else view(b.scales),
            recipe=problem.recipe.name,
            out_format=problem.out,
            out=view(out),
        )
        torch.cuda.synchronize()
        check.expect(torch.equal(out, expected), "it differs from the torch function's result")
        check.note("bit for bit the torch function's result")
