"""HTML tables of the page; every text is escaped here."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Column", "Markup", "number", "table"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column's heading and how its cells are set."""

    title: str
    kind: str = ""  #: "number" (right-aligned), "code", "wrap" (long text), or plain


@dataclass(frozen=True, slots=True)
class Markup:
    """A cell that is HTML already; whoever makes one has escaped what it is made of."""

    html: str


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[object]], *, cards: bool = False
) -> str:
    """An HTML table that scrolls sideways inside the page; ``None`` becomes a dash.

    Args:
        cards: on a phone every row is a card instead, its headings beside the cells.
    """
    head = "".join(f'<th scope="col" class="{c.kind}">{html.escape(c.title)}</th>' for c in columns)
    body = "".join(
        f"<tr>{''.join(_cell(c, v) for c, v in zip(columns, row, strict=True))}</tr>"
        for row in rows
    )
    words = ", ".join(c.title for c in columns if c.title)
    return (
        f'<div class="{"scroll cards" if cards else "scroll"}" tabindex="0" role="region" '
        f'aria-label="{html.escape(f"Table: {words}")}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(column: Column, value: object) -> str:
    if isinstance(value, Markup):
        text = value.html
    else:
        text = "–" if value is None else html.escape(str(value))
    if column.kind == "code":
        text = f"<code>{text}</code>"
    return f'<td class="{column.kind}" data-of="{html.escape(column.title)}">{text}</td>'


def number(value: float | None, digits: int = 4) -> str | None:
    """A number with ``digits`` significant digits, without an exponent below a million."""
    if value is None:
        return None
    if value == 0 or not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits}g}"
    places = max(0, digits - len(str(int(abs(value)))))
    return f"{value:.{places}f}"
