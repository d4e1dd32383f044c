"""Which kernel and configuration serves a problem: tuned ones first, then the best predicted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from sim import Gpu, price, unpriced
from tiles.formats import TensorFormat
from tiles.kernels import Kernel, Rejected, TileConfig, kernel
from tiles.kernels.base import Limits
from tiles.problems import Gemm, Problem
from tiles.recipes import RECIPES, Recipe

__all__ = ["FAMILIES", "Choice", "Choices", "NoKernel", "known_by", "recipe_of"]

#: Families that the CUDA backend launches, by the kind of problem, the preferred first.
FAMILIES = {
    "gemm": ("hopper_gemm", "hopper_block_gemm", "triton_gemm"),
    "quantize": ("triton_quantize_tiles",),
    "dequantize": ("triton_dequantize",),
    "transpose": ("triton_transpose",),
    "dataflow": ("cuda_dataflow_blocks", "cuda_dataflow_rows"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A kernel family and its configuration."""

    family: str
    config: TileConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NoKernel:
    """No family of ``FAMILIES`` serves the problem, and why."""

    reason: str


@cache
def recipe_of(a: TensorFormat, b: TensorFormat) -> Recipe:
    """The recipe that operands' formats are known by, or one without a name of its own."""
    for known in RECIPES.values():
        if (known.activation, known.weight, known.outliers) == (a, b, None):
            return known
    source = "operands of a layer's product"
    return Recipe(name=f"{a} by {b}", activation=a, weight=b, source=source)


def known_by(problem: Problem) -> Problem:
    """A problem as the layers ask for it: recipes of the same product are one."""
    if not isinstance(problem, Gemm) or problem.recipe.outliers is not None:
        return problem
    recipe = problem.recipe
    return replace(problem, recipe=recipe_of(recipe.activation, recipe.weight))


class Choices:
    """Chooses once for every problem and remembers it."""

    def __init__(
        self,
        limits: Limits,
        tuned: Mapping[str, Choice] | None = None,
        *,
        gpu: Gpu | None = None,
    ) -> None:
        """Choose for a GPU.

        Args:
            limits: of the GPU.
            tuned: problem's text to what is fastest there, from a study (:func:`tuned_choices`).
            gpu: prices products, whose fastest predicted configuration of all families is taken;
                without it, and for all else, the first family's default.
        Raises:
            ValueError: a tuned choice is not one of ``FAMILIES``, or not legal on the GPU.
        """
        self.limits = limits
        self.gpu = gpu
        self._made: dict[str, Choice | NoKernel] = {}
        #: Problems that a study was made of.
        self.tuned = frozenset(tuned or ())
        for text, choice in (tuned or {}).items():
            self._made[text] = self._checked(text, choice)

    def _checked(self, text: str, choice: Choice) -> Choice:
        from tiles.problems import parse_problem

        problem = parse_problem(text)
        served = FAMILIES.get(problem.kind, ())
        if choice.family not in served:
            raise ValueError(
                f"tuned {text}: {choice.family} is not launched here, {', '.join(served)} are"
            )
        family = kernel(choice.family)
        reason = family.refusal(problem, self.limits)
        if reason is None:
            verdict = family.judge(problem, choice.config, self.limits)
            reason = verdict.reason if isinstance(verdict, Rejected) else None
        if reason is not None:
            raise ValueError(f"tuned {text}: {reason}")
        return choice

    def of(self, problem: Problem) -> Choice | NoKernel:
        """The kernel for a problem, or why there is none."""
        text = str(problem)
        if text not in self._made:
            self._made[text] = self._default(problem)
        return self._made[text]

    def _default(self, problem: Problem) -> Choice | NoKernel:
        families = [kernel(name) for name in FAMILIES[problem.kind]]
        reasons = [family.refusal(problem, self.limits) for family in families]
        serve = [one for one, reason in zip(families, reasons, strict=True) if reason is None]
        if not serve:
            return NoKernel(reason="; ".join(reason for reason in reasons if reason is not None))
        if self.gpu is not None and isinstance(problem, Gemm):
            priced = [found for one in serve if (found := _best(problem, one, self.gpu))]
            if priced:
                return min(priced, key=lambda found: found[0])[1]
        family = serve[0]
        return Choice(family=family.name, config=family.default(problem, self.limits))


def _best(problem: Gemm, family: Kernel, gpu: Gpu) -> tuple[float, Choice] | None:
    """The family's fastest predicted configuration and its time in us; nothing without a price."""
    if unpriced(problem, family):
        return None
    legal = family.legal_space(problem, gpu.limits).accepted
    if not len(legal):
        return None
    best = price(problem, family, legal, gpu).best()
    return best.time_us, Choice(family=family.name, config=best.config)
