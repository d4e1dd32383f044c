"""Quantisation of a matrix."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.formats import ElementFormat, TensorFormat, element
from tiles.problems.base import Problem, check_extents, check_plain, check_tensor, parse_shape

__all__ = ["Quantize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize(Problem):
    """Quantise a row-major ``rows`` x ``cols`` matrix of ``source`` elements to ``target``."""

    kind: ClassVar[str] = "quantize"
    template: ClassVar[str] = "quantize:RxC:target:source"

    rows: int
    cols: int
    target: TensorFormat
    source: str = "bf16"  #: element format of the input: bf16, fp16 or fp32

    def __post_init__(self) -> None:
        check_extents({"rows": self.rows, "cols": self.cols})
        check_plain("source", self.source)
        if self.target.scaling is None:
            raise ValueError(f"target {self.target} has no scaling: write e.g. int8.b32x32")
        check_tensor("input", self.rows, self.cols, self.source_element.bits)

    @property
    def source_element(self) -> ElementFormat:
        """The input's element format."""
        return element(self.source)

    @property
    def flops(self) -> int:
        """Operations counted for this problem: none, it is bound by memory."""
        return 0

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: input read once, codes and scales written once."""
        return self.rows * self.cols * self.source_element.bits // 8 + self.target.storage_bytes(
            self.rows, self.cols
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    @property
    def formats(self) -> tuple[str, str]:
        """Target and source element."""
        return (str(self.target), self.source)

    def resized(self, *shape: int) -> Self:
        """Other rows and columns."""
        rows, cols = shape
        return replace(self, rows=rows, cols=cols)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``RxC``, target format with its scaling, source element."""
        target, source = fields
        rows, cols = parse_shape(shape, 2)
        return cls(rows=rows, cols=cols, target=TensorFormat.parse(target), source=source)
