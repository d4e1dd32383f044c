"""Dequantisation of a matrix."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.formats import TensorFormat, element
from tiles.problems.base import Problem, check_extents, check_plain, check_tensor, parse_shape

__all__ = ["Dequantize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequantize(Problem):
    """``code x scale`` of a ``rows`` x ``cols`` matrix in the format ``source``.

    The product is rounded to fp32, and from there to ``out``.
    """

    kind: ClassVar[str] = "dequantize"
    template: ClassVar[str] = "dequantize:RxC:source:out"

    rows: int
    cols: int
    source: TensorFormat
    out: str = "bf16"  #: element format of the output: bf16, fp16 or fp32

    def __post_init__(self) -> None:
        check_extents({"rows": self.rows, "cols": self.cols})
        check_plain("output", self.out)
        if self.source.scaling is None:
            raise ValueError(f"source {self.source} has no scaling: write e.g. int8.b32x32")
        check_tensor("output", self.rows, self.cols, element(self.out).bits)

    @property
    def flops(self) -> int:
        """Operations counted for this problem: none, it is bound by memory."""
        return 0

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: codes and scales read once, output written once."""
        size = self.rows * self.cols * element(self.out).bits // 8
        return size + self.source.storage_bytes(self.rows, self.cols)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    @property
    def formats(self) -> tuple[str, str]:
        """Source format and output element."""
        return (str(self.source), self.out)

    def resized(self, *shape: int) -> Self:
        """Other rows and columns."""
        rows, cols = shape
        return replace(self, rows=rows, cols=cols)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``RxC``, source format with its scaling, output element."""
        source, out = fields
        rows, cols = parse_shape(shape, 2)
        return cls(rows=rows, cols=cols, source=TensorFormat.parse(source), out=out)
