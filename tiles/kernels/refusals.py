"""What is told of the reasons why no kernel family serves a problem."""

from collections.abc import Iterable

from tiles.problems import Problem

__all__ = ["telling"]


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
