"""Checks of the emitted products: fresh operands, tails, nasty values, poisoned outputs."""

from dataclasses import replace
from functools import partial

from tiles.problems import Gemm
from tiles.recipes import Recipe
from workbench.verification.defaults import default_choices, default_name
from workbench.verification.gemm_entry import HOPPER, TRITON, GemmEntry
from workbench.verification.gemm_judge import judge, misread, nasty
from workbench.verification.hopper_checks import (
    check_cupy,
    check_launcher,
    check_stand_in,
    check_unaligned,
)
from workbench.verification.operands import Pattern
from workbench.verification.recorder import Recorder, Report

__all__ = ["check_defaults", "check_gemm", "check_untuned"]

#: Largest K of the random product under Triton's interpreter.
SMALL = 128


def _beside(entry: GemmEntry) -> Gemm:
    """The tuned shape with one row more or less, still nearest to the same entry."""
    for m in (entry.problem.m - 1, entry.problem.m + 1):
        problem = replace(entry.problem, m=max(1, m))
        if m >= 1 and entry.choice(problem).m == entry.choice(entry.problem).m:
            return problem
    return entry.problem


def _tail_shape(entry: GemmEntry) -> Gemm:
    """Extents beyond multiples of the tuned tile; multiples of 16 where descriptors want them."""
    config = entry.config
    on_hopper = entry.kernel in HOPPER
    step = 16 if on_hopper or config["tma"] else 1
    bits = entry.problem.recipe.activation.element.bits
    block_k = 1024 // bits if on_hopper else int(config["block_k"])
    m = int(config["block_m"]) + 5
    n = int(config["block_n"]) + 3 * step
    k = max(block_k, _blocks_along_k(entry.problem.recipe)) + 3 * step
    if entry.device == "cpu":
        m, n = min(m, 37), min(n, 48 + 3 * step)
    return replace(entry.problem, m=m, n=n, k=k)


def check_gemm(entry: GemmEntry, report: Report, *, seen: str = "") -> None:
    """Every check of one tuned product.

    Args:
        entry: the product.
        report: takes the results.
        seen: an entry already checked whose answers here would come from the very same launches.
    """
    tuned = entry.problem
    label = f"{entry.kernel} {tuned}"
    on_gpu = entry.device == "cuda"
    with Recorder(report, f"{label}: configuration") as check:
        choice = entry.choice(tuned)
        runs = f"the package runs {choice.file.kernel} {choice.config}"
        same = (choice.file.kernel, choice.config) == (entry.kernel, entry.config)
        check.expect(same, runs)
        check.expect(choice.tuned, "the package takes the default")
        check.note("the package runs the configuration of the evidence")
    if seen:
        with Recorder(report, f"{label}: answers") as check:
            check.note(f"formats, configuration and small shapes are those of {seen}")
        return
    if entry.kernel in HOPPER and not on_gpu:
        check_launcher(entry, report)
        check_stand_in(entry, _several_blocks(entry), report)
        return
    full = tuned
    if not on_gpu:
        full = replace(tuned, m=min(tuned.m, 48), n=min(tuned.n, 64), k=min(tuned.k, SMALL))
    with Recorder(report, f"{label}: random") as check:
        misfit = _misfit(entry, full)
        if misfit:
            check.skip(misfit)
        else:
            run = entry.call if on_gpu else entry.launch
            judge(check, entry, full, Pattern.RANDOM, run)
    if on_gpu:
        with Recorder(report, f"{label}: one row beside") as check:
            judge(check, entry, _beside(entry), Pattern.RANDOM, entry.call)
    with Recorder(report, f"{label}: tails of the tuned tile") as check:
        judge(check, entry, _tail_shape(entry), Pattern.RANDOM, entry.launch)
    small = _several_blocks(entry)
    for pattern in nasty(tuned.recipe):
        with Recorder(report, f"{label}: {pattern.value}") as check:
            reason = "" if on_gpu else misread(tuned.recipe, pattern)
            if reason:
                check.skip(f"Triton's interpreter {reason}: needs a GPU")
            else:
                judge(check, entry, small, pattern, entry.launch)
    if entry.kernel in HOPPER:
        check_unaligned(entry, report)
        check_cupy(entry, report)


def _several_blocks(entry: GemmEntry) -> Gemm:
    """A small shape with two scale blocks along M and N and four along K, the last ragged."""
    recipe = entry.problem.recipe
    sides = []
    for fmt in (recipe.activation, recipe.weight):
        rows = None if fmt.scaling is None else fmt.scaling.rows
        sides.append((rows or 1) + 16 if (rows or 1) > 32 else 48)
    return replace(entry.problem, m=sides[0] - 3, n=sides[1], k=_blocks_along_k(recipe) + 16)


def _blocks_along_k(recipe: Recipe) -> int:
    """Extent of three scale blocks along K, at least: an index that stops at 1 is seen."""
    scalings = (recipe.activation.scaling, recipe.weight.scaling)
    extents = (0 if scaling is None else scaling.cols for scaling in scalings)
    return 3 * max(SMALL, *(cols or 0 for cols in extents))


def _misfit(entry: GemmEntry, problem: Gemm) -> str:
    """Why a small shape cannot run the tuned configuration, or ''."""
    bits = problem.recipe.activation.element.bits
    out_bits = 32 if problem.out == "fp32" else 16
    if entry.config.get("tma") and (problem.k * bits % 128 or problem.n * out_bits % 128):
        return "the tuned shape itself is not aligned for descriptors"
    return ""


def _odd(entry: GemmEntry) -> Gemm:
    """Extents that nothing was tuned for, and that no alignment helps."""
    if entry.device == "cpu":
        return replace(entry.problem, m=19, n=37, k=133)
    return replace(entry.problem, m=35, n=77, k=191)


def check_defaults(entry: GemmEntry, report: Report) -> None:
    """Every default configuration for the entry's formats gives the right answer once."""
    formats = (entry.problem.recipe.name, entry.problem.out)
    for family in (TRITON, *HOPPER):
        problem = _odd(entry) if family == TRITON else replace(entry.problem, m=35, n=80, k=256)
        for choice in default_choices(entry.lookup, family, formats):
            name = f"{family} {' '.join(formats)}: {default_name(choice)}"
            with Recorder(report, name) as check:
                obstacle = family in HOPPER and entry.hopper_obstacle
                if obstacle:
                    check.skip(obstacle)
                else:
                    judge(
                        check, entry, problem, Pattern.RANDOM, partial(entry.launch_choice, choice)
                    )


def check_untuned(entry: GemmEntry, report: Report) -> None:
    """Odd extents that were never tuned run the default, and say so once."""
    problem = _odd(entry)
    with Recorder(report, f"{TRITON} {problem}: untuned odd extents") as check:
        check.expect(not entry.choice(problem).tuned, "the package calls this shape tuned")
        judge(check, entry, problem, Pattern.RANDOM, entry.call)
