"""Problems: the computations that kernels are searched for, a kind a file."""

from tiles.problems.base import MAX_EXTENT, Problem, parse_shape
from tiles.problems.batched_gemm import BatchedGemm, SecondOperand
from tiles.problems.dataflow import DATAFLOW_OPS, Dataflow
from tiles.problems.dequantize import Dequantize
from tiles.problems.gemm import Gemm
from tiles.problems.group_layout import GroupLayout, RowOrder
from tiles.problems.grouped_gemm import GroupedGemm
from tiles.problems.quantize import Quantize
from tiles.problems.transpose import Transpose

__all__ = [
    "DATAFLOW_OPS",
    "KINDS",
    "MAX_EXTENT",
    "BatchedGemm",
    "Dataflow",
    "Dequantize",
    "Gemm",
    "GroupLayout",
    "GroupedGemm",
    "Problem",
    "Quantize",
    "RowOrder",
    "SecondOperand",
    "Transpose",
    "parse_problem",
    "parse_shape",
]

#: Every kind of problem by the first word of its text.
KINDS: dict[str, type[Problem]] = {
    one.kind: one
    for one in (Gemm, Quantize, BatchedGemm, GroupedGemm, Dequantize, Transpose, Dataflow)
}


def parse_problem(text: str) -> Problem:
    """Read what ``str(problem)`` wrote.

    Raises:
        ValueError: not a problem's text.
    """
    kind, *fields = text.split(":")
    one = KINDS.get(kind)
    if one is None or not _least_fields(one) <= len(fields) <= one.template.count(":"):
        raise ValueError(
            f"problem {text!r}: write {' or '.join(one.template for one in KINDS.values())}"
        )
    return one.parse(*fields)


def _least_fields(kind: type[Problem]) -> int:
    """Fields of a text without options, which stand in brackets behind them."""
    return kind.template.partition("[")[0].count(":")
