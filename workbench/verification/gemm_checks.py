"""Checks of the emitted products: fresh operands, tails, nasty values, poisoned outputs."""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from tiles.kernels.accuracy import compare, gemm_arithmetic, gemm_reference
from tiles.kernels.quantize_torch import CODE_DTYPES
from tiles.problems import Gemm, parse_problem
from tiles.recipes import Recipe
from workbench.verification.operands import Matrix, Pattern, draw, draw_pair
from workbench.verification.recorder import Recorder, Report

__all__ = ["GemmEntry", "check_gemm", "gemm_entries"]

#: Rows behind the output that a launch must leave as they were.
GUARD_ROWS = 4
#: Largest extents under Triton's interpreter.
SMALL = 128
#: Elements whose subnormals Triton's interpreter widens to other values (3.7).
MISREAD_SUBNORMALS = ("bf16", "e5m2")
NASTY = (Pattern.ZERO_BLOCK, Pattern.OUTLIER, Pattern.SUBNORMAL, Pattern.NAN)


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmEntry:
    """A tuned product of the package."""

    problem: Gemm
    config: Mapping[str, int | bool]
    package: ModuleType
    device: str
    seed: int

    @property
    def lookup(self) -> Any:
        """The package's lookup module."""
        return self.package._lookup

    @property
    def layout(self) -> Any:
        """The package's layout of the operands."""
        return self.lookup.layouts("triton_gemm")[self.problem.recipe.name, self.problem.out]

    def choice(self, problem: Gemm) -> Any:
        """What the package would run for a shape."""
        name, _ = self.package._torch_device.device_facts(torch.device(self.device))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.lookup.choose(
                "triton_gemm",
                (problem.recipe.name, problem.out),
                (problem.n, problem.k),
                problem.m,
                name,
            )

    def operands(self, problem: Gemm, pattern: Pattern) -> tuple[Matrix, Matrix]:
        """A and B of a shape."""
        recipe = problem.recipe
        a, b = draw_pair(problem.shape, recipe, pattern, self.seed, self.device)
        if pattern is Pattern.SUBNORMAL and recipe.weight.element.name == "bf16":
            # The product of two bf16 subnormals underflows fp32; one of them is enough.
            generator = torch.Generator(self.device).manual_seed(self.seed + 1)
            b = draw(problem.n, problem.k, recipe.weight, Pattern.RANDOM, generator, self.device)
            large = b.codes * 2.0**100
            b = replace(b, codes=large, values=large.double())
        return a, b

    def call(self, a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        """The public function."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untuned shape warns
            self.package.gemm(
                a.codes,
                b.codes,
                a.scales,
                b.scales,
                recipe=self.problem.recipe.name,
                out_dtype=out.dtype,
                out=out,
            )

    def launch(self, a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        """The template with the tuned configuration, whatever the shape."""
        _, num_sms = self.package._torch_device.device_facts(out.device)
        self.lookup.template(self.choice(self.problem)).launch(
            a.codes,
            b.codes,
            out,
            a.scales,
            b.scales,
            a_block=self.layout["a_block"],
            b_block=self.layout["b_block"],
            config=self.config,
            decode=self.layout["decode"],
            num_sms=num_sms,
        )


def gemm_entries(
    package: ModuleType, evidence: Mapping[str, Any], device: str, seed: int
) -> Iterator[GemmEntry]:
    """The tuned products that the evidence lists."""
    for entry in evidence["entries"]:
        if entry["kernel"] == "triton_gemm":
            problem = parse_problem(entry["problem"])
            assert isinstance(problem, Gemm)
            yield GemmEntry(
                problem=problem,
                config=entry["config"],
                package=package,
                device=device,
                seed=seed,
            )


def _poisoned(problem: Gemm, device: str) -> torch.Tensor:
    """An output full of NaN, with guard rows behind it."""
    dtype = CODE_DTYPES[problem.out]
    shape = (problem.m + GUARD_ROWS, problem.n)
    return torch.full(shape, torch.nan, dtype=dtype, device=device)


def _judge(
    check: Recorder, entry: GemmEntry, problem: Gemm, pattern: Pattern, *, tuned: bool
) -> None:
    """Run one product into a poisoned output and compare it with the fp64 reference."""
    a, b = entry.operands(problem, pattern)
    buffer = _poisoned(problem, entry.device)
    out = buffer[: problem.m]
    if tuned:
        entry.launch(a, b, out)
    else:
        entry.call(a, b, out)
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
    reference = gemm_reference(a.values[rows], b.values[cols], arithmetic)
    accuracy = compare(out[rows][:, cols], reference)
    check.expect(accuracy.ok, accuracy.reason)
    check.note(
        f"{problem.m}x{problem.n}x{problem.k}: error at most "
        f"{accuracy.max_error_over_bound:.3g} of the bound, relative rms error "
        f"{accuracy.relative_rms:.3g}"
    )


def _beside(entry: GemmEntry) -> Gemm:
    """The tuned shape with one row more or less, still nearest to the same entry."""
    for m in (entry.problem.m - 1, entry.problem.m + 1):
        problem = replace(entry.problem, m=max(1, m))
        if m >= 1 and entry.choice(problem).m == entry.problem.m:
            return problem
    return entry.problem


def _tail_shape(entry: GemmEntry) -> Gemm:
    """Extents beyond multiples of the tuned tile; multiples of 16 where descriptors want them."""
    config = entry.config
    step = 16 if config["tma"] else 1
    m = int(config["block_m"]) + 5
    n = int(config["block_n"]) + 3 * step
    k = int(config["block_k"]) + 3 * step
    if entry.device == "cpu":
        m, n, k = min(m, 37), min(n, 48 + 3 * step), min(k, 128 + 3 * step)
    return replace(entry.problem, m=m, n=n, k=k)


def check_gemm(entry: GemmEntry, report: Report, *, seen: str = "") -> None:
    """Every check of one tuned product.

    Args:
        entry: the product.
        report: takes the results.
        seen: an entry already checked whose answers here would come from the very same launches.
    """
    tuned = entry.problem
    label = f"triton_gemm {tuned}"
    on_gpu = entry.device == "cuda"
    with Recorder(report, f"{label}: configuration") as check:
        choice = entry.choice(tuned)
        check.expect(choice.config == entry.config, f"the package runs {choice.config}")
        check.expect(choice.tuned, "the package takes the default")
        check.note("the package runs the configuration of the evidence")
    if seen:
        with Recorder(report, f"{label}: answers") as check:
            check.note(f"formats, configuration and small shapes are those of {seen}")
        return
    full = tuned
    if not on_gpu:
        full = replace(tuned, m=min(tuned.m, 48), n=min(tuned.n, 64), k=min(tuned.k, SMALL))
    with Recorder(report, f"{label}: random") as check:
        misfit = _misfit(entry, full)
        if misfit:
            check.skip(misfit)
        else:
            _judge(check, entry, full, Pattern.RANDOM, tuned=not on_gpu)
    if on_gpu:
        with Recorder(report, f"{label}: one row beside") as check:
            _judge(check, entry, _beside(entry), Pattern.RANDOM, tuned=False)
    with Recorder(report, f"{label}: tails of the tuned tile") as check:
        _judge(check, entry, _tail_shape(entry), Pattern.RANDOM, tuned=True)
    nasty = _several_blocks(entry)
    for pattern in NASTY:
        with Recorder(report, f"{label}: {pattern.value}") as check:
            reason = "" if on_gpu else _misread(tuned.recipe, pattern)
            if reason:
                check.skip(f"Triton's interpreter {reason}: needs a GPU")
            else:
                _judge(check, entry, nasty, pattern, tuned=True)


def _misread(recipe: Recipe, pattern: Pattern) -> str:
    """What Triton's interpreter gets wrong about operands of this pattern; empty: nothing."""
    if pattern is Pattern.SUBNORMAL and recipe.weight.element.name in MISREAD_SUBNORMALS:
        return "misreads these subnormals"
    # With scales it is one of them that is NaN.
    if pattern is Pattern.NAN and recipe.direct_cast and recipe.activation.element.name == "e4m3fn":
        return "reads the NaN of e4m3fn as 480"
    return ""


def _several_blocks(entry: GemmEntry) -> Gemm:
    """A small shape with more than one scale block along every side, the last of them ragged."""
    recipe = entry.problem.recipe
    sides = []
    for fmt in (recipe.activation, recipe.weight):
        rows = None if fmt.scaling is None else fmt.scaling.rows
        sides.append((rows or 1) + 16 if (rows or 1) > 32 else 48)
    return replace(
        entry.problem, m=sides[0] - 3, n=sides[1], k=160 if entry.device == "cpu" else 288
    )


def _misfit(entry: GemmEntry, problem: Gemm) -> str:
    """Why a small shape cannot run the tuned configuration, or ''."""
    bits = problem.recipe.activation.element.bits
    out_bits = 32 if problem.out == "fp32" else 16
    if entry.config["tma"] and (problem.k * bits % 128 or problem.n * out_bits % 128):
        return "the tuned shape itself is not aligned for descriptors"
    return ""


def check_untuned(entry: GemmEntry, report: Report) -> None:
    """Odd extents that were never tuned run the default, and say so once."""
    problem = replace(entry.problem, m=35, n=77, k=191)
    if entry.device == "cpu":
        problem = replace(problem, m=19, n=37, k=133)
    with Recorder(report, f"triton_gemm {problem}: untuned odd extents") as check:
        check.expect(not entry.choice(problem).tuned, "the package calls this shape tuned")
        _judge(check, entry, problem, Pattern.RANDOM, tuned=False)
