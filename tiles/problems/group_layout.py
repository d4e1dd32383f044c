"""Where the rows of each expert lie in a grouped product."""

import re
from dataclasses import dataclass
from enum import Enum

__all__ = ["GroupLayout", "RowOrder"]


class RowOrder(Enum):
    """How activation rows are arranged by expert."""

    CONTIGUOUS = "contiguous"  #: sorted by expert, one after the other: ``offsets[E + 1]``
    PADDED = "padded"  #: the same, every expert's first row at a multiple: offsets and counts
    MASKED = "masked"  #: ``[E, capacity, K]`` with ``counts[E]`` rows of each in use
    GATHERED = "gathered"  #: tokens as they came; ``ids`` lists (token, choice) by expert


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLayout:
    """An order of rows and its one number, written ``contiguous``, ``padded.128``, ``masked.4096``
    or ``gathered.8``.
    """

    order: RowOrder
    #: padded: rows that offsets are multiples of; masked: capacity of an expert, rows; gathered:
    #: experts that every token goes to; contiguous: 1.
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or (self.order is RowOrder.CONTIGUOUS and self.size != 1):
            raise ValueError(f"layout {self.order.value} of {self.size}: write e.g. {EXAMPLES}")

    @classmethod
    def parse(cls, text: str) -> "GroupLayout":
        """Read what ``str(layout)`` wrote.

        Raises:
            ValueError: not a layout's text.
        """
        match = re.fullmatch(r"(contiguous)|(padded|masked|gathered)\.([0-9]{1,9})", text)
        if match is None:
            raise ValueError(f"layout {text[:40]!r}: write e.g. {EXAMPLES}")
        if match[1]:
            return cls(order=RowOrder.CONTIGUOUS)
        return cls(order=RowOrder(match[2]), size=int(match[3]))

    def __str__(self) -> str:
        plain = self.order is RowOrder.CONTIGUOUS
        return f"{self.order.value}" if plain else f"{self.order.value}.{self.size}"


EXAMPLES = "contiguous, padded.128, masked.4096 or gathered.8"
