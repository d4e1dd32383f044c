"""The data of a plot as a file that the page itself holds: CSV behind a ``data:`` link."""

import base64
import csv
import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from workbench.reporting.figure import Figure, View

__all__ = ["csv_text", "data_link", "figure_csv"]

#: A spreadsheet would compute a text that begins with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows below their headings; numbers in full, ``None`` as an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def data_link(name: str, text: str, of: str) -> str:
    """A link that saves a CSV.

    Args:
        name: of the file, letters, digits and dashes.
        text: its content.
        of: what is plotted, for who hears the page read.
    """
    content = base64.b64encode(text.encode()).decode()
    return (
        f'<p class="note"><a download="{name}.csv" aria-label="{html.escape(of)}: data as CSV" '
        f'href="data:text/csv;charset=utf-8;base64,{content}">Data as CSV</a></p>'
    )


def figure_csv(figure: Figure) -> str:
    """All that a plot shows, in every view: a line for every point, bar or cell."""
    heads = ["view", "series", "x is", "x", "y is", "y", "value", "text"]
    return csv_text(heads, (row for view in figure.views for row in _rows(view)))


def _rows(view: View) -> Iterator[list[object]]:
    titles = [_title(view.layout.get(name)) for name in ("xaxis", "yaxis")]
    for trace in view.data:
        named = [view.name, _plain(trace.get("name"))]
        if trace["type"] == "heatmap":
            names = dict(
                zip(view.layout["yaxis"]["tickvals"], view.layout["yaxis"]["ticktext"], strict=True)
            )
            for y, line in zip(trace["y"], trace["z"], strict=True):
                for x, value in zip(trace["x"], line, strict=True):
                    yield [*named, titles[0], _plain(x), titles[1], _plain(names[y]), value, ""]
            continue
        texts = trace.get("text") or [""] * len(trace["x"])
        for x, y, text in zip(trace["x"], trace["y"], texts, strict=True):
            yield [*named, titles[0], _plain(x), titles[1], _plain(y), None, _plain(text)]


def _title(axis: Mapping[str, Any] | None) -> str:
    return "" if axis is None else str(axis["title"]["text"])


def _plain(value: object) -> object:
    """Labels reach plotly escaped; a file has them as they were."""
    if isinstance(value, str):
        return html.unescape(value.replace("<br>", " "))
    return "" if value is None else value
