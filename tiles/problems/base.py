"""What every problem is: extents, least traffic, and a text that reads back."""

import re
from abc import ABC, abstractmethod
from typing import ClassVar, Self

from tiles.intake import shown

__all__ = [
    "MAX_EXTENT",
    "PLAIN_ELEMENTS",
    "Problem",
    "check_extents",
    "check_plain",
    "check_tensor",
    "parse_shape",
]

#: No dimension of a real layer comes near this; a larger one is a slip of the keyboard.
MAX_EXTENT = 2**24
#: Largest tensor of a problem in bytes: more than any one GPU holds is refused at the door.
MAX_TENSOR_BYTES = 2**38
#: Elements that tensors without scales have.
PLAIN_ELEMENTS = ("bf16", "fp16", "fp32")


class Problem(ABC):
    """A computation that kernels are searched for: an immutable value.

    ``str(problem)`` is ``kind:extents:formats:...``, which
    :func:`tiles.problems.parse_problem` reads back.
    """

    __slots__ = ()

    kind: ClassVar[str]
    #: Of the text, for messages: ``gemm:MxNxK:recipe:out``; options stand in brackets at the end.
    template: ClassVar[str]

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The extents, in the order of the text."""

    @property
    @abstractmethod
    def flops(self) -> int:
        """Floating-point or integer operations that count as work; 0 where memory is the bound."""

    @property
    @abstractmethod
    def min_bytes(self) -> int:
        """Fewest bytes through device memory: inputs read once, outputs written once."""

    @property
    @abstractmethod
    def formats(self) -> tuple[str, ...]:
        """The fields of the text after the extents."""

    @abstractmethod
    def resized(self, *shape: int) -> Self:
        """The same work on other extents, in the order of ``shape``."""

    @property
    def tokens(self) -> int:
        """The extent that batches and sequences change."""
        return self.shape[0]

    def with_tokens(self, tokens: int) -> Self:
        """The same work on another number of tokens."""
        return self.resized(tokens, *self.shape[1:])

    def __str__(self) -> str:
        return ":".join([self.kind, "x".join(map(str, self.shape)), *self.formats])

    @classmethod
    @abstractmethod
    def parse(cls, shape: str, *fields: str) -> Self:
        """Make the problem of the text's fields after the kind.

        Raises:
            ValueError: a field does not fit, or its value is out of range.
            TypeError: too many fields, or too few.
        """


def check_extents(extents: dict[str, int]) -> None:
    """Refuse extents that no tensor has.

    Raises:
        TypeError: the first that is no integer; a truth value is none.
        ValueError: the first that is not in 1..``MAX_EXTENT``.
    """
    for name, extent in extents.items():
        if isinstance(extent, bool) or not hasattr(extent, "__index__"):
            raise TypeError(f"{name} = {shown(extent)}: a dimension is an integer")
        if not 1 <= extent <= MAX_EXTENT:
            raise ValueError(f"{name} = {extent}: a dimension must lie in 1..{MAX_EXTENT}")


def check_tensor(name: str, rows: int, cols: int, bits: int) -> None:
    """Refuse a tensor that no GPU holds.

    Raises:
        ValueError: ``rows`` x ``cols`` elements of ``bits`` bits exceed ``MAX_TENSOR_BYTES``.
    """
    size = rows * cols * bits // 8
    if size > MAX_TENSOR_BYTES:
        raise ValueError(
            f"{name} of {rows} x {cols} takes {size} bytes: at most {MAX_TENSOR_BYTES}"
        )


def check_plain(what: str, name: str) -> None:
    """Refuse an element format that tensors without scales do not have.

    Raises:
        ValueError: not bf16, fp16 or fp32.
    """
    if name not in PLAIN_ELEMENTS:
        raise ValueError(f"{what} format {name!r}: choose one of {', '.join(PLAIN_ELEMENTS)}")


#: ASCII digits alone: ``\d`` takes those of every script.
_SHAPE = re.compile(r"[0-9]{1,12}(x[0-9]{1,12})*")


def parse_shape(text: str, extents: int) -> tuple[int, ...]:
    """Read ``4096x4096x4096`` into integers.

    Raises:
        ValueError: not ``extents`` positive integers joined by ``x``.
    """
    if not _SHAPE.fullmatch(text) or text.count("x") != extents - 1:
        example = "x".join(["4096"] * extents)
        raise ValueError(
            f"shape {text[:60]!r}: write {extents} integers joined by x, e.g. {example}"
        )
    return tuple(int(part) for part in text.split("x"))
