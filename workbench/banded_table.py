"""Tables that are wider than the terminal: in parts below one another, each with the names of rows.

Left to itself rich shortens columns until nothing of them is left, numbers first.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.table import Column, Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["banded"]

#: A column of long texts is folded to no fewer characters.
_READABLE = 24


def banded(table: Table, console: "Console") -> list[Table]:
    """The table as it is where the console has room, else parts that fit.

    No number is shortened or left out.  Every part begins with the columns that name a row: those
    at the left that are never folded, as far as they leave half of the width, or the first one.
    """
    sizes = [_size(column, console) for column in table.columns]
    natural = [size.maximum for size in sizes]
    need = [
        natural[i] if column.no_wrap else max(sizes[i].minimum, min(natural[i], _READABLE))
        for i, column in enumerate(table.columns)
    ]
    everything = range(len(table.columns))
    if not natural or _total(table, everything, [*natural[:-1], need[-1]]) <= console.width:
        return [table]  # at most the last column is folded, which rich does well
    names = _names(table, need, console.width // 2)
    room = console.width - _total(table, [], []) - 1
    parts: list[list[int]] = []
    for i in everything[len(names) :]:
        need[i] = min(need[i], room - _total(table, names, [need[j] for j in names]) - 3)
        longer = [*(parts[-1] if parts else names), i]
        if not parts or _total(table, longer, [need[j] for j in longer]) > console.width:
            longer = [*names, i]
            parts.append(longer)
        else:
            parts[-1] = longer
    found = [
        _part(table, chosen, _widths(table, chosen, need, natural, console.width))
        for chosen in parts or [names]
    ]
    found[0].title, found[-1].caption = table.title, table.caption
    return found


def _size(column: Column, console: "Console") -> Measurement:
    """Characters of its longest word and of its longest line."""
    options = console.options.update(max_width=10_000)
    sizes = [Measurement.get(console, options, x) for x in (column.header, *column.cells)]
    return Measurement(max(size.minimum for size in sizes), max(size.maximum for size in sizes))


def _names(table: Table, need: list[int], most: int) -> list[int]:
    """The columns that name a row; the first one alone is folded where it takes more."""
    if _total(table, [0], need[:1]) > most:
        need[0] = max(1, most - _total(table, [0], [0]))
        return [0]
    count = 1
    for column in table.columns[1:]:
        if not column.no_wrap or column.justify != "left":
            break
        if _total(table, range(count + 1), need[: count + 1]) > most:
            break
        count += 1
    return list(range(count))


def _total(table: Table, chosen: Sequence[int], widths: Sequence[int]) -> int:
    """Characters of a line, with frame and padding."""
    _, right, _, left = table.padding
    frame = 0 if table.box is None else len(chosen) + 1 if table.show_edge else len(chosen) - 1
    return sum(widths) + (left + right) * len(chosen) + frame


def _widths(
    table: Table, chosen: Sequence[int], need: list[int], natural: list[int], width: int
) -> list[int]:
    """What a part's columns need, and what is left for those that would be folded."""
    widths = [need[i] for i in chosen]
    for place, i in enumerate(chosen):
        left = width - _total(table, chosen, widths)
        widths[place] += max(0, min(left, natural[i] - widths[place]))
    return widths


def _part(table: Table, chosen: Sequence[int], widths: Sequence[int]) -> Table:
    part = Table(
        title_justify=table.title_justify,
        caption_justify=table.caption_justify,
        box=table.box,
        padding=table.padding,
        pad_edge=table.pad_edge,
    )
    columns = [table.columns[i] for i in chosen]
    for column, width in zip(columns, widths, strict=True):
        part.add_column(column.header, justify=column.justify, overflow="fold", width=width)
    rows = zip(*(column.cells for column in columns), strict=True)
    for row, cells in zip(table.rows, rows, strict=True):
        part.add_row(*cells, style=row.style, end_section=row.end_section)
    return part
