"""What is told of the reasons why a kernel family does not serve a problem."""

from collections.abc import Iterable

from tiles.problems import Gemm, Problem

__all__ = ["coded_output", "telling"]


def telling(reasons: Iterable[str], problem: Problem) -> list[str]:
    """The reasons that help, each once: families of another kind never could serve the problem.

    Args:
        reasons: refusals as :meth:`Kernel.refusal` words them.
    Returns:
        Those of another kind too where there are no others.
    """
    said = list(dict.fromkeys(reasons))
    other_kind = f" problems, not {problem}"
    return [reason for reason in said if not reason.endswith(other_kind)] or said


def coded_output(family: str, problem: Gemm) -> str | None:
    """Why a family that writes plain elements does not serve the problem, if that is why."""
    if problem.output.scaling is None:
        return None
    return f"{family} writes bf16, fp16 or fp32, not {problem.out}"
