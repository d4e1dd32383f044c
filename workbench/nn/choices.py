"""Which kernel and configuration serves a problem: tuned ones first, then a family's default."""

from collections.abc import Mapping
from dataclasses import dataclass

from tiles.kernels import Rejected, TileConfig, kernel
from tiles.kernels.base import Limits
from tiles.problems import Problem

__all__ = ["Choice", "Choices", "NoKernel"]

#: Families that the CUDA backend launches, by the kind of problem, the preferred first.
FAMILIES = {
    "gemm": ("hopper_block_gemm", "triton_gemm"),
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


class Choices:
    """Chooses once for every problem and remembers it."""

    def __init__(self, limits: Limits, tuned: Mapping[str, Choice] | None = None) -> None:
        """Choose for a GPU.

        Args:
            limits: of the GPU.
            tuned: problem's text to what is fastest there, from a study.
        Raises:
            ValueError: a tuned choice is not one of ``FAMILIES``, or not legal on the GPU.
        """
        self.limits = limits
        self._made: dict[str, Choice | NoKernel] = {}
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
        reasons = []
        for name in FAMILIES[problem.kind]:
            family = kernel(name)
            reason = family.refusal(problem, self.limits)
            if reason is None:
                return Choice(family=name, config=family.default(problem, self.limits))
            reasons.append(reason)
        return NoKernel(reason="; ".join(reasons))
