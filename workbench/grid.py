"""Grids of texts, the same on a terminal and in a page, and how their cells are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["NONE", "Grid", "beside", "joined", "markdown", "number", "percent", "rich_tables"]

#: A cell without a value.
NONE = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of texts; the first column is left-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return NONE if value is None else f"{100 * value:.{digits}f}"


def number(value: float | None) -> str:
    """A value with three decimals."""
    return NONE if value is None else f"{value:.3f}"


def beside(value: float | None, other: float | None, show: Any) -> str:
    """A value with another in brackets."""
    return NONE if value is None else f"{show(value)} ({show(other)})"


def joined(one: Mapping[str, Any], *names: str, digits: int = 1) -> str:
    """Shares of these names in percent, or one dash where the first is missing."""
    values = [one[name] for name in names]
    return NONE if values[0] is None else " / ".join(percent(v, digits) for v in values)


def markdown(grid: Grid) -> str:
    """A grid as a Markdown section."""

    def line(cells: Iterable[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    lines = [
        f"### {grid.title}",
        "",
        line(grid.columns),
        line(["---", *["---:"] * (len(grid.columns) - 1)]),
        *map(line, grid.rows),
    ]
    return "\n".join([*lines, *(["", grid.note] if grid.note else [])])


def rich_tables(grids: Sequence[Grid]) -> "Iterable[Table]":
    """Grids for a terminal."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    for grid in grids:
        table = Table(
            title=escape(grid.title),
            title_justify="left",
            caption=escape(grid.note) or None,
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for index, name in enumerate(grid.columns):
            table.add_column(
                name, justify="right" if index else "left", overflow="fold", no_wrap=not index
            )
        for row in grid.rows:
            table.add_row(*map(escape, row))
        yield table
