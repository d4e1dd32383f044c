"""The verdict on one product: a poisoned output against the fp64 reference under its bound."""

from collections.abc import Callable

import torch

from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.accuracy import compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.problems import Gemm
from tiles.recipes import Recipe
from workbench.verification.gemm_entry import GemmEntry
from workbench.verification.not_checked import MISREAD_SUBNORMALS
from workbench.verification.operands import Matrix, Pattern, has_infinity
from workbench.verification.recorder import Recorder
from workbench.verification.run_allowance import allow_for

__all__ = ["judge", "misread", "nasty"]

Launch = Callable[[Matrix, Matrix, torch.Tensor], None]

#: Rows behind the output that a launch must leave as they were.
GUARD_ROWS = 4
_NASTY = (Pattern.ZERO_BLOCK, Pattern.OUTLIER, Pattern.SUBNORMAL, Pattern.NAN)


def nasty(recipe: Recipe) -> tuple[Pattern, ...]:
    """The patterns that break careless kernels; infinities where an operand has them."""
    infinite = any(has_infinity(fmt) for fmt in (recipe.activation, recipe.weight))
    return (*_NASTY, Pattern.INF) if infinite else _NASTY


def _poisoned(problem: Gemm, device: str) -> torch.Tensor:
    """An output full of NaN, with guard rows behind it."""
    dtype = CODE_DTYPES[problem.out]
    shape = (problem.m + GUARD_ROWS, problem.n)
    return torch.full(shape, torch.nan, dtype=dtype, device=device)


def judge(
    check: Recorder, entry: GemmEntry, problem: Gemm, pattern: Pattern, launch: Launch
) -> None:
    """Run one product into a poisoned output and compare it with the fp64 reference.

    Args:
        check: takes the verdict.
        entry: whose operands are drawn.
        problem: the shape.
        pattern: of the operands.
        launch: one of the entry's; writes the product of A and B into the output.
    """
    a, b = entry.operands(problem, pattern)
    buffer = _poisoned(problem, entry.device)
    out = buffer[: problem.m]
    launch(a, b, out)
    check.expect(bool(buffer[problem.m :].isnan().all()), "rows behind the output were written to")
    nan = a.nan_rows[:, None] | b.nan_rows[None, :]
    check.expect(
        bool(out[nan].isnan().all()), "a NaN scale must make every product of its block NaN"
    )
    rows, cols = ~a.nan_rows, ~b.nan_rows
    if not (bool(rows.any()) and bool(cols.any())):
        check.note("every element is NaN, as it must be")
        return
    arithmetic = gemm_arithmetic(
        problem, decode=entry.layout["decode"], interpreted=entry.device == "cpu"
    )
    reference = allow_for(
        gemm_reference(a.values[rows], b.values[cols], arithmetic),
        entry.config,
        problem.recipe,
        (a.codes, b.codes),
        (a.scales, b.scales),
        (rows, cols),
    )
    accuracy = compare(out[rows][:, cols], reference)
    check.expect(accuracy.ok, accuracy.reason)
    check.note(
        f"{problem.m}x{problem.n}x{problem.k}: error at most "
        f"{accuracy.max_error_over_bound:.3g} of the bound, relative rms error "
        f"{accuracy.relative_rms:.3g}"
    )


def misread(recipe: Recipe, pattern: Pattern) -> str:
    """What Triton's interpreter gets wrong about operands of this pattern; empty: nothing."""
    if pattern is Pattern.SUBNORMAL and recipe.weight.element.name in MISREAD_SUBNORMALS:
        return "misreads these subnormals"
    # With scales it is one of them that is NaN.
    if pattern is Pattern.NAN and recipe.direct_cast and recipe.activation.element.name == "e4m3fn":
        return "reads the NaN of e4m3fn as 480"
    return ""
