"""Tensor formats: an element format plus the rule by which elements share scales."""

import re
from dataclasses import dataclass

from tiles.formats.elements import ElementFormat, element

__all__ = ["Scaling", "TensorFormat"]

_BLOCK = re.compile(r"b([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Which elements of a matrix share one fp32 scale; value = code x scale.

    ``rows`` x ``cols`` elements lie under one scale; ``None`` means the whole extent, so
    ``Scaling(rows=1, cols=None)`` is one scale a row.  Columns run along K, the contraction.
    """

    rows: int | None
    cols: int | None

    def __post_init__(self) -> None:
        for name, extent in (("rows", self.rows), ("cols", self.cols)):
            if extent is not None and extent < 1:
                raise ValueError(f"scaling {name} must be at least 1, got {extent}")

    def grid(self, rows: int, cols: int) -> tuple[int, int]:
        """Shape of the scale matrix of a ``rows`` x ``cols`` matrix; ragged last blocks count."""
        return (
            1 if self.rows is None else -(-rows // self.rows),
            1 if self.cols is None else -(-cols // self.cols),
        )

    @property
    def blockwise(self) -> bool:
        """True when scales change along K, so that partial sums are promoted inside the K loop."""
        return self.cols is not None

    @classmethod
    def parse(cls, text: str) -> "Scaling":
        """Read ``tensor``, ``row`` or ``b<rows>x<cols>``.

        Raises:
            ValueError: none of these.
        """
        if text == "tensor":
            return cls(rows=None, cols=None)
        if text == "row":
            return cls(rows=1, cols=None)
        if match := _BLOCK.fullmatch(text):
            return cls(rows=int(match[1]), cols=int(match[2]))
        raise ValueError(
            f"unknown scaling {text!r}: write tensor, row or b<rows>x<cols>, e.g. b1x128"
        )

    def __str__(self) -> str:
        if self.cols is None:
            return "tensor" if self.rows is None else "row"
        return f"b{self.rows}x{self.cols}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFormat:
    """How a tensor is stored: element format and scaling (``None``: plain, unscaled)."""

    element: ElementFormat
    scaling: Scaling | None = None

    @classmethod
    def parse(cls, text: str) -> "TensorFormat":
        """Read ``element`` or ``element.scaling``, e.g. ``bf16``, ``e4m3fn.b1x128``.

        Raises:
            ValueError: unknown element or scaling.
        """
        name, dot, scaling = text.partition(".")
        return cls(element=element(name), scaling=Scaling.parse(scaling) if dot else None)

    def scale_count(self, rows: int, cols: int) -> int:
        """Number of scales that a ``rows`` x ``cols`` matrix carries."""
        if self.scaling is None:
            return 0
        grid = self.scaling.grid(rows, cols)
        return grid[0] * grid[1]

    def storage_bytes(self, rows: int, cols: int) -> int:
        """Bytes of codes and fp32 scales of a ``rows`` x ``cols`` matrix."""
        return rows * cols * self.element.bits // 8 + 4 * self.scale_count(rows, cols)

    def __str__(self) -> str:
        return self.element.name if self.scaling is None else f"{self.element.name}.{self.scaling}"
