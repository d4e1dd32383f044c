"""The checks of ``gemm_quantized``.

Codes and scales are held to the fp64 product under the bound of the product in fp32: a scale may be
off by what the largest magnitude of its block may be off, and a value by what the product may be
off and half a step of its scale, or a whole one where rounding is stochastic.
"""

import contextlib
import warnings
from dataclasses import replace
from typing import Any, ClassVar

import torch

from tiles.formats import TensorFormat
from tiles.formats.rounding import Rounding
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.kernels.accuracy import Reference, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.quantize_tiles import HARDWARE_ELEMENTS
from tiles.problems import Gemm, Problem
from workbench.verification.function_checks import Subject, Tuned
from workbench.verification.hopper_operator import HopperOperatorChecks
from workbench.verification.operator_case import POISON, Case
from workbench.verification.quantize_launcher import SEED
from workbench.verification.quantize_packed_function import exact_tiles
from workbench.verification.recorder import Recorder
from workbench.verification.run_allowance import allow_for

__all__ = ["QuantizedGemmFunctionChecks", "judge_codes"]

#: Largest code, half a step relative to a value and to its scale; fp32 rounds the quotient besides.
STEPS = {
    "int8": (127.0, 0.0, 0.5 + 2.0**-15),
    "e4m3fn": (448.0, 2.0**-4 + 2.0**-22, 2.0**-10),
}


class QuantizedGemmFunctionChecks(HopperOperatorChecks):
    """Products into codes, against the fp64 product."""

    function: ClassVar[str] = "gemm_quantized"
    hopper: ClassVar[tuple[str, ...]] = ("hopper_block_gemm",)
    module: ClassVar[str] = "_gemm_quantized"
    patterns: ClassVar[tuple[str, ...]] = ("random", "all-zero block", "NaN scale")

    def stand_in(self, subject: Subject, tuned: Tuned, choice: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return subject.package._gemm_quantized.fallback(choice, choice.m, "verification")

    def small(self, tuned: Tuned) -> Problem:
        return tuned.problem.resized(70, 112, 144)

    def tails(self, tuned: Tuned, device: str) -> Problem:
        m, n = int(tuned.config.get("block_m", 128)), int(tuned.config.get("block_n", 128))
        return tuned.problem.resized(m + 5, n + 48, 208)

    def odd(self, tuned: Tuned, device: str) -> Problem:
        return tuned.problem.resized(*((37, 66, 100) if device == "cpu" else (67, 78, 190)))

    def default_problem(self, tuned: Tuned, family: str, device: str) -> Problem:
        return self.tails(tuned, device)

    def interpreter(self, subject: Subject) -> contextlib.AbstractContextManager[None]:
        return exact_tiles(subject)

    def case(self, subject: Subject, problem: Problem, pattern: str) -> Case:
        assert isinstance(problem, Gemm)
        package, output = subject.package, problem.output
        module = package._gemm_quantized
        a, b = _draw(problem, pattern, subject)
        operands = (a.codes, b.codes, a.scales, b.scales)
        seed = SEED if output.rounding is Rounding.STOCHASTIC else None
        recipe, target = problem.formats

        def call() -> tuple[torch.Tensor, torch.Tensor]:
            found: tuple[torch.Tensor, torch.Tensor] = package.gemm_quantized(
                *operands, recipe=recipe, format=target, seed=seed
            )
            return found

        def launch(choice: Any) -> tuple[torch.Tensor, torch.Tensor]:
            codes, scales = module._empty(*operands, recipe, target, seed)
            codes.view(torch.uint8).fill_(POISON)
            scales.fill_(-1.0)
            module.run(choice, operands, (codes, scales), target, seed)
            return codes, scales

        def judge(check: Recorder, found: Any, choice: Any) -> None:
            interpreted = subject.device == "cpu"
            reference = gemm_reference(
                a.dequantize(torch.float64),
                b.dequantize(torch.float64),
                gemm_arithmetic(
                    replace(problem, out="fp32"), decode=False, interpreted=interpreted
                ),
            )
            reference = allow_for(
                reference,
                choice.config,
                problem.recipe,
                (a.codes, b.codes),
                (a.scales, b.scales),
            )
            # Interpreted casts to 8-bit floats are those of no hardware.
            casts = interpreted and output.element.name in HARDWARE_ELEMENTS
            judge_codes(check, found, reference, output, scales_alone=casts)

        return Case(
            call=call,
            launch=launch,
            judge=judge,
            operator="gemm_quantized",
            arguments=(*operands, recipe, target, seed),
        )


def _draw(problem: Gemm, pattern: str, subject: Subject) -> tuple[QuantizedTensor, QuantizedTensor]:
    """Both operands, quantised, holding what the pattern says."""
    generator = torch.Generator(subject.device).manual_seed(subject.seed)
    recipe = problem.recipe
    sides: list[QuantizedTensor] = []
    for rows, fmt in ((problem.m, recipe.activation), (problem.n, recipe.weight)):
        x = torch.randn(rows, problem.k, generator=generator, device=subject.device)
        if pattern == "all-zero block" and not sides:
            x[:64] = 0  # whole blocks of the output
        quantized = quantize_tensor(x, fmt)
        if pattern == "NaN scale" and not sides:
            assert quantized.scales is not None
            quantized.scales[-1, -1] = torch.nan
        sides.append(quantized)
    return sides[0], sides[1]


def judge_codes(
    check: Recorder,
    found: tuple[torch.Tensor, torch.Tensor],
    reference: Reference,
    output: TensorFormat,
    *,
    scales_alone: bool = False,
) -> None:
    """Hold codes and scales to a product, see the module's docstring.

    Args:
        check: takes the verdict.
        found: codes (M, N) and scales on the output's grid.
        reference: exact product, and the bound of one in fp32.
        output: format of the codes, of square blocks.
        scales_alone: leave the codes out.
    """
    assert output.scaling is not None
    assert output.scaling.rows is not None
    codes, scales = found
    side, exact, bound = output.scaling.rows, reference.exact, reference.bound.double()
    largest, relative, absolute = STEPS[output.element.name]
    if output.rounding is Rounding.STOCHASTIC:
        relative, absolute = 2 * relative, 2 * absolute
    amax, slack = _block_max(exact.abs(), side), _block_max(bound, side)
    nan = amax.isnan()
    check.expect(bool(scales[nan].isnan().all()), "a block with NaN must have the scale NaN")
    check.expect(bool((scales[amax == 0] == 1).all()), "an all-zero block must have the scale 1")
    off = (scales.double() * largest - amax).abs() > slack + 2.0**-22 * amax
    off |= scales.isnan() & ~nan
    off &= ~nan & (amax != 0)
    if bool(off.any()):
        i, j = (int(v) for v in torch.nonzero(off)[0])
        got, right = float(scales[i, j]) * largest, float(amax[i, j])
        check.expect(
            False, f"scale ({i}, {j}) is one of {got:.9g}, the block's largest {right:.9g}"
        )
    if scales_alone:
        check.note("scales within the bound (codes cannot be, see not checked)")
        return
    rows, cols = exact.shape
    wide = scales.double().repeat_interleave(side, 0)[:rows].repeat_interleave(side, 1)[:, :cols]
    values = codes.to(torch.float32).double() * wide
    limit = bound + relative * (exact.abs() + bound) + absolute * wide
    ratio = torch.where(wide.isnan(), 0.0, (values - exact).abs() / limit)
    worst = float(ratio.max())
    if worst > 1:
        i, j = divmod(int(ratio.argmax()), cols)
        got, right = float(values[i, j]), float(exact[i, j])
        check.expect(False, f"value ({i}, {j}) is {got:.9g}, reference {right:.9g}")
    check.note(f"{rows}x{cols}: error at most {worst:.3g} of bound and step")


def _block_max(values: torch.Tensor, side: int) -> torch.Tensor:
    """Largest value of every block, NaN where it has one."""
    rows, cols = values.shape
    padded = torch.nn.functional.pad(values, (0, -cols % side, 0, -rows % side))
    blocks = padded.view(padded.shape[0] // side, side, padded.shape[1] // side, side)
    return blocks.amax(dim=(1, 3))
