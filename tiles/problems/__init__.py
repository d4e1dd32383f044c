"""Problems: the computations that kernels are searched for, a kind a file."""

from tiles.problems.base import MAX_EXTENT, Problem, parse_shape
from tiles.problems.dataflow import DATAFLOW_OPS, Dataflow
from tiles.problems.gemm import Gemm
from tiles.problems.quantize import Quantize

__all__ = [
    "DATAFLOW_OPS",
    "KINDS",
    "MAX_EXTENT",
    "Dataflow",
    "Gemm",
    "Problem",
    "Quantize",
    "parse_problem",
    "parse_shape",
]

#: Every kind of problem by the first word of its text.
KINDS: dict[str, type[Problem]] = {one.kind: one for one in (Gemm, Quantize, Dataflow)}


def parse_problem(text: str) -> Problem:
    """Read what ``str(problem)`` wrote.

    Raises:
        ValueError: not a problem's text.
    """
    kind, *fields = text.split(":")
    one = KINDS.get(kind)
    if one is None or len(fields) != one.template.count(":"):
        raise ValueError(
            f"problem {text!r}: write {' or '.join(one.template for one in KINDS.values())}"
        )
    return one.parse(*fields)
