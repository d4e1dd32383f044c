"""Transposition of a matrix of 8-bit codes."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.problems.base import Problem, check_extents, check_tensor, parse_shape

__all__ = ["Transpose"]

#: Elements whose codes are transposed.
CODE_ELEMENTS = ("int8", "e4m3fn", "e5m2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transpose(Problem):
    """The codes of a row-major ``rows`` x ``cols`` matrix as a row-major ``cols`` x ``rows`` one.

    Scales of square blocks need no kernel: their grid is transposed as a view.
    """

    kind: ClassVar[str] = "transpose"
    template: ClassVar[str] = "transpose:RxC:element"

    rows: int
    cols: int
    element: str = "int8"  #: int8, e4m3fn or e5m2

    def __post_init__(self) -> None:
        check_extents({"rows": self.rows, "cols": self.cols})
        if self.element not in CODE_ELEMENTS:
            raise ValueError(f"element {self.element!r}: choose one of {', '.join(CODE_ELEMENTS)}")
        check_tensor("input", self.rows, self.cols, 8)

    @property
    def flops(self) -> int:
        """Operations counted for this problem: none, it is bound by memory."""
        return 0

    @property
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: codes read once and written once."""
        return 2 * self.rows * self.cols

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    @property
    def formats(self) -> tuple[str]:
        """The element."""
        return (self.element,)

    def resized(self, *shape: int) -> Self:
        """Other rows and columns."""
        rows, cols = shape
        return replace(self, rows=rows, cols=cols)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``RxC``, element."""
        (element,) = fields
        rows, cols = parse_shape(shape, 2)
        return cls(rows=rows, cols=cols, element=element)
