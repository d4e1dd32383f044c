"""Quantisation of a matrix, alone or with its transposed copy."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from tiles.formats import ElementFormat, TensorFormat, element
from tiles.problems.base import Problem, check_extents, check_plain, check_tensor, parse_shape

__all__ = ["Quantize"]

#: Fields that a problem's text names where they are set.
OPTIONS = ("transposed", "swizzled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize(Problem):
    """Quantise a row-major ``rows`` x ``cols`` matrix of ``source`` elements to ``target``.

    ``transposed`` asks for codes of the transposed matrix beside those of the matrix, with block
    scales of its own; where blocks are square, or one scale serves the tensor, it has the same
    codes and scales the other way round.  ``swizzled`` asks for one-byte scales in the 128x4 tiles
    of block-scaled tensor cores instead of row by row.
    """

    kind: ClassVar[str] = "quantize"
    template: ClassVar[str] = "quantize:RxC:target:source[:transposed][:swizzled]"

    rows: int
    cols: int
    target: TensorFormat
    source: str = "bf16"  #: element format of the input: bf16, fp16 or fp32
    transposed: bool = False
    swizzled: bool = False

    def __post_init__(self) -> None:
        check_extents({"rows": self.rows, "cols": self.cols})
        check_plain("source", self.source)
        if self.target.scaling is None:
            raise ValueError(f"target {self.target} has no scaling: write e.g. int8.b32x32")
        stored = self.target.scaling.stored
        if self.swizzled and (stored.bits != 8 or None in self._block):
            raise ValueError(f"target {self.target} has no swizzled scales: MX and NVFP4 have")
        check_tensor("input", self.rows, self.cols, self.source_element.bits)

    @property
    def _block(self) -> tuple[int | None, int | None]:
        assert self.target.scaling is not None
        return self.target.scaling.rows, self.target.scaling.cols

    @property
    def shared_scales(self) -> bool:
        """True where the transposed matrix has the same codes and scales."""
        rows, cols = self._block
        return rows == cols

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
        size = self.rows * self.cols * self.source_element.bits // 8
        size += self.target.storage_bytes(self.rows, self.cols)
        if self.transposed:
            size += self.target.storage_bytes(self.cols, self.rows)
        return size

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols)."""
        return (self.rows, self.cols)

    @property
    def formats(self) -> tuple[str, ...]:
        """Target and source element, and what is asked for beside codes and plain scales."""
        options = [name for name in OPTIONS if getattr(self, name)]
        return (str(self.target), self.source, *options)

    def resized(self, *shape: int) -> Self:
        """Other rows and columns."""
        rows, cols = shape
        return replace(self, rows=rows, cols=cols)

    @classmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """``RxC``, target format with its scaling, source element, options in their order."""
        target, source, *options = fields
        if options != [name for name in OPTIONS if name in options]:
            raise ValueError(f"options {':'.join(options)!r}: choose of {', '.join(OPTIONS)}, once")
        rows, cols = parse_shape(shape, 2)
        return cls(
            rows=rows,
            cols=cols,
            target=TensorFormat.parse(target),
            source=source,
            transposed="transposed" in options,
            swizzled="swizzled" in options,
        )
