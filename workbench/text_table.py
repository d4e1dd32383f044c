"""Tables of short texts, printed without rich: loading it and its layout take 0.15 s.

What is printed is what rich prints, character for character; a test holds the two together.  Where
more than the last column would have to be folded, rich does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Column", "TextTable"]

#: Fewest characters of the last column that make a readable fold.
_LEAST = 20
_BOLD, _ITALIC, _OFF = "\x1b[1m", "\x1b[3m", "\x1b[0m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: a heading of one or more lines, and a cell a row, of one line each."""

    header: str
    cells: Sequence[str]
    right: bool = False  #: justified to the right, as numbers are
    no_wrap: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTable:
    """A framed table of plain ASCII texts.  Words of its last column may go to another line."""

    title: str
    columns: Sequence[Column]

    def text(self, width: int, *, styled: bool = False) -> str | None:
        """The table in lines of at most ``width`` characters; ``None`` where that takes rich.

        Args:
            styled: a bold heading and an italic title, by the codes of a terminal.
        """
        headings = [column.header.split("\n") for column in self.columns]
        widths = [
            max(map(len, [*heading, *column.cells]))
            for heading, column in zip(headings, self.columns, strict=True)
        ]
        total = sum(widths) + 3 * len(widths) + 1
        if total > width:
            widths[-1] -= total - width
            total = width
        longest = max(map(len, " ".join(self.columns[-1].cells).split()), default=0)
        if len(self.title) > total or widths[-1] < max(longest, len(max(headings[-1], key=len))):
            return None
        if total == width and widths[-1] < _LEAST:
            return None
        height = max(map(len, headings))
        heads = [[""] * (height - len(lines)) + lines for lines in headings]
        lines = [_styled(self.title.ljust(total), _ITALIC, styled), _rule("┏━┳┓", widths)]
        for index in range(height):
            lines.append(self._row([head[index] for head in heads], widths, "┃", styled))
        lines.append(_rule("┡━╇┩", widths))
        for *cells, last in zip(*(column.cells for column in self.columns), strict=True):
            for part in _folded(last, widths[-1]):
                lines.append(self._row([*cells, part], widths, "│", False))
                cells = [""] * len(cells)
        lines.append(_rule("└─┴┘", widths))
        return "\n".join(lines) + "\n"

    def _row(self, cells: list[str], widths: list[int], edge: str, bold: bool) -> str:
        padded = (
            _styled(f" {cell.rjust(width) if column.right else cell.ljust(width)} ", _BOLD, bold)
            for cell, width, column in zip(cells, widths, self.columns, strict=True)
        )
        return edge + edge.join(padded) + edge

    def rich(self) -> "Table":
        """The same for rich, which folds and styles as the terminal allows."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(title=escape(self.title), title_justify="left")  # of a Text rich styles none
        for column in self.columns:
            table.add_column(
                Text(column.header),
                justify="right" if column.right else "left",
                no_wrap=column.no_wrap,
                overflow="fold" if column is self.columns[-1] else "ellipsis",
            )
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            table.add_row(*map(Text, cells))
        return table


def _styled(text: str, code: str, styled: bool) -> str:
    return f"{code}{text}{_OFF}" if styled else text


def _rule(box: str, widths: list[int]) -> str:
    """A line of a frame: its left end, what runs, crossings and right end."""
    left, run, crossing, right = tuple(box)
    return left + crossing.join(run * (width + 2) for width in widths) + right


def _folded(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` characters, broken at spaces; no word is longer."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
