"""The heat map of a checkpoint: SQNR of every layer under every format."""

import math
import re
from collections.abc import Sequence
from typing import Any

from tiles.formats import TensorFormat
from workbench.printable import printable
from workbench.reporting.figure import Figure, View, axis, label
from workbench.weight_report import LayerErrors, WeightReport

__all__ = ["db_text", "layer_map"]

#: Rows at most; with more layers, those of one kind share a row.
MAX_ROWS = 400
ROW_PX, CELL_PX = 16, 16
#: Colours tell what is kept exactly from the page's best figure by this much, a bit.
EXACT_DB = 6.0

#: A row: its name and, by format, noise-to-signal ratio or ``None``.
_Row = tuple[str, list[float | None]]


def db_text(value: float | None) -> str | None:
    """Decibels, or ``exact`` where nothing was lost."""
    if value is None:
        return None
    return f"{value:.2f}" if math.isfinite(value) else "exact"


def layer_map(report: WeightReport) -> tuple[Figure | None, bool]:
    """The figure, and whether its rows are kinds of layers instead of single ones.

    Formats stand in the ranking's order, best first.  There is no figure of a checkpoint of which
    nothing was ranked.
    """
    formats = [row.format for row in report.ranking()]
    rows, kinds = _rows(report, formats)
    if not rows:
        return None, False
    decibels = [[None if v is None else _to_db(v) for v in values] for _, values in rows]
    best = [max(v for v in line if v is not None) for line in decibels]
    finite = [v for line in decibels for v in line if v is not None and math.isfinite(v)]
    exact = max(finite, default=0.0) + EXACT_DB
    colours = [[None if v is None else min(v, exact) for v in line] for line in decibels]
    behind = [
        [None if v is None else v - min(top, exact) for v in line]
        for line, top in zip(colours, best, strict=True)
    ]
    hover = [
        [[label(printable(name)), db_text(v), db_text(top)] for v in line]
        for (name, _), line, top in zip(rows, decibels, best, strict=True)
    ]
    names = _short([name for name, _ in rows])
    notes = []
    if any(v is None for line in decibels for v in line):
        notes.append("Empty cells have no figure: that format was not tried on that layer.")
    return Figure(
        key="layer-map",
        title="SQNR of every layer under every format",
        views=[
            _view("SQNR", formats, names, colours, hover),
            _view("behind the layer's best format", formats, names, behind, hover),
        ],
        min_width_px=260 + CELL_PX * len(formats),
        height_px=180 + ROW_PX * max(10, len(rows)),
        notes=notes,
    ), kinds


def _to_db(ratio: float) -> float:
    return -10 * math.log10(ratio) if ratio > 0 else math.inf


def _ratios(layer: LayerErrors, formats: Sequence[TensorFormat]) -> list[float | None]:
    found = {e.format: 10 ** (-e.error.sqnr_db / 10) for e in layer.errors if e.error is not None}
    return [found.get(fmt) for fmt in formats]


def _rows(report: WeightReport, formats: Sequence[TensorFormat]) -> tuple[list[_Row], bool]:
    layers = report.ranked
    if len(layers) <= MAX_ROWS:
        return [(layer.tensor.name, _ratios(layer, formats)) for layer in layers], False
    found: dict[str, list[list[float | None]]] = {}
    for layer in layers:
        kind = re.sub("[0-9]+", "*", layer.tensor.name)
        found.setdefault(kind, []).append(_ratios(layer, formats))
    rows: list[_Row] = []
    for kind, lines in list(found.items())[:MAX_ROWS]:
        columns = [[v for v in column if v is not None] for column in zip(*lines, strict=True)]
        means = [sum(values) / len(values) if values else None for values in columns]
        rows.append((f"{kind} ({len(lines)})", means))
    return rows, True


def _short(names: Sequence[str]) -> list[str]:
    """Names without what most share, cut to what a phone has room for."""
    cut = [name.removeprefix("model.").removesuffix(".weight") for name in names]
    return [text if len(text) <= 28 else f"…{text[-27:]}" for text in map(printable, cut)]


def _view(
    name: str,
    formats: Sequence[TensorFormat],
    names: Sequence[str],
    values: Sequence[Sequence[float | None]],
    hover: Sequence[Sequence[Sequence[str | None]]],
) -> View:
    data: dict[str, Any] = {
        "type": "heatmap",
        "z": values,
        "x": [label(fmt) for fmt in formats],
        "y": list(range(len(names))),
        "customdata": hover,
        "colorscale": "Viridis",
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "title": {"text": "dB"},
            "thickness": 10,
            "lenmode": "pixels",
            "len": 180,
            "y": 1,
            "yanchor": "top",
        },
        "hovertemplate": (
            "%{customdata[0]}<br>%{x}<br>SQNR, dB: %{customdata[1]}<br>"
            "the layer's best: %{customdata[2]}<extra></extra>"
        ),
    }
    layout = {
        "xaxis": axis("", side="top", tickangle=-90, type="category", showgrid=False),
        "yaxis": axis(
            "",
            autorange="reversed",
            tickvals=list(range(len(names))),
            ticktext=[label(text) for text in names],
            tickfont={"size": 10},
            showgrid=False,
            zeroline=False,
        ),
    }
    return View(name=name, data=[data], layout=layout)
