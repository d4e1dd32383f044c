"""Operators between the products of a layer whose tensors stay quantised in memory."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.formats import TensorFormat
from tiles.problems.base import Problem, check_extents, check_tensor, parse_shape

__all__ = ["DATAFLOW_OPS", "Dataflow"]

#: Operator -> matrices read (codes and scales), fp32 row vectors and column vectors moved.
DATAFLOW_OPS: dict[str, tuple[int, int, int]] = {
    "gelu": (1, 0, 0),
    "gelu-bwd": (2, 0, 0),
    "silu": (1, 0, 0),
    "silu-bwd": (2, 0, 0),
    "relu": (1, 0, 0),
    "relu-bwd": (2, 0, 0),
    "dropout": (1, 0, 0),
    "residual": (2, 2, 0),
    "layernorm": (1, 2, 2),
    "layernorm-apply": (1, 2, 2),
    "layernorm-bwd": (2, 2, 3),
    "rmsnorm": (1, 2, 1),
    "rmsnorm-apply": (1, 2, 1),
    "rmsnorm-bwd": (2, 2, 2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow(Problem):
    """A non-linear operator on row-major ``rows`` x ``cols`` matrices, quantised in and out.

    ``residual`` adds two matrices and yields mean and variance of every row of the sum.
    ``layernorm`` and ``rmsnorm`` work them out, ``-apply`` takes them from there, ``-bwd`` takes
    them from the forward pass.  Source: the non-linear operators of Jetfire, arXiv 2403.12422.
    """

    kind: ClassVar[str] = "dataflow"
    template: ClassVar[str] = "dataflow:RxC:op:format"

    rows: int
    cols: int
    op: str  #: one of ``DATAFLOW_OPS``
    target: TensorFormat  #: of every matrix; ``+sr`` rounds the output stochastically

    def __post_init__(self) -> None:
        check_extents({"rows": self.rows, "cols": self.cols})
        if self.op not in DATAFLOW_OPS:
            raise ValueError(f"operator {self.op!r}: choose one of {', '.join(DATAFLOW_OPS)}")
        if self.target.scaling is None:
            raise ValueError(f"format {self.target} has no scaling: write e.g. int8.b32x32+sr")
        check_tensor("matrix", self.rows, self.cols, self.target.element.bits)

    @property
    def matrices(self) -> int:
        """Matrices read; one more is written."""
        return DATAFLOW_OPS[self.op][0]

    @property
    def flops(self) -> int:
        """Operations counted for this problem: none, it is bound by memory or by issue slots."""
        return 0

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: codes, scales and vectors once each."""
        matrices, row_vectors, col_vectors = DATAFLOW_OPS[self.op]
        vectors = 4 * (row_vectors * self.rows + col_vectors * self.cols)
        return (matrices + 1) * self.target.storage_bytes(self.rows, self.cols) + vectors

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    @property
    def formats(self) -> tuple[str, str]:
        """Operator and tensor format."""
        return (self.op, str(self.target))

    def resized(self, *shape: int) -> Self:
        """Other rows and columns."""
        rows, cols = shape
        return replace(self, rows=rows, cols=cols)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``RxC``, operator, tensor format with its scaling and rounding."""
        op, target = fields
        rows, cols = parse_shape(shape, 2)
        return cls(rows=rows, cols=cols, op=op, target=TensorFormat.parse(target))
