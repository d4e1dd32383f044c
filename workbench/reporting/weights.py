"""The page about a checkpoint: which format keeps which layer how well."""

import html
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiles.formats import TensorFormat
from workbench.outfile import check_outfile, write_outfile
from workbench.reporting.figure import Figure, View, axis, label
from workbench.reporting.page import Page, page_html
from workbench.reporting.sections import Section
from workbench.reporting.table import Column, table
from workbench.weights import LayerErrors, LayerStatus, WeightReport, printable

__all__ = ["write_weights_page"]

SCHEMA = "tile-workbench/weights-page/1"

#: Rows of the heat map at most; with more layers, those of one kind share a row.
MAX_ROWS = 400
#: Layers of a table at most; ``--json`` has all.
MAX_LISTED = 2000
ROW_PX, CELL_PX = 16, 16


def write_weights_page(report: WeightReport, out: Path) -> Path:
    """Write one self-contained page about a checkpoint's weights.

    Args:
        report: what :func:`workbench.weights.rank_weights` found.
        out: the HTML file; its folder is made, an older file is replaced in one step.
    Returns:
        ``out``.
    Raises:
        ValueError: ``out`` is a folder or cannot be written.
    """
    check_outfile(out)
    page = Page(
        schema=SCHEMA,
        title=f"Formats for the weights of {printable(report.path.name)}",
        header=_header(report),
        sections=[_ranking(report), _map(report), _layers(report), _others(report)],
    )
    write_outfile(out, page_html(page))
    return out


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>'


def _header(report: WeightReport) -> str:
    counts = Counter(layer.status for layer in report.layers)
    facts = {
        "Checkpoint": printable(report.path.name),
        "Tensors": len(report.layers),
        "Ranked": counts[LayerStatus.RANKED],
        "Skipped": counts[LayerStatus.SKIPPED],
        "Failed": counts[LayerStatus.FAILED],
        "Weights ranked": f"{sum(layer.elements for layer in report.ranked):,}",
        "Formats": len(report.formats),
        "Seed of stochastic rounding": report.seed,
    }
    failed = counts[LayerStatus.FAILED]
    banner = ""
    if failed:
        words = "1 tensor has" if failed == 1 else f"{failed} tensors have"
        banner = (
            f'<p class="banner simulated"><b>INCOMPLETE</b> {words} no errors; '
            'the reasons are <a href="#others">below</a>.</p>'
        )
    listed = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in facts.items()
    )
    return f"{banner}<dl>{listed}</dl>"


def _db(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:.2f}" if math.isfinite(value) else "exact"


def _ranking(report: WeightReport) -> Section:
    rows = [
        [
            place,
            row.format,
            f"{row.bits_per_element:.3f}",
            _db(row.sqnr_db),
            _db(row.worst_db),
            printable(row.worst_layer),
            f"{row.best} of {row.layers}",
        ]
        for place, row in enumerate(report.ranking(), 1)
    ]
    words = (
        "Signal to quantisation noise of the weights themselves, before any product; 6 dB are one "
        "bit. Over layers: of the mean noise-to-signal ratio, every layer alike."
    )
    columns = [
        Column("", "number"),
        Column("format", "code"),
        Column("bits / element", "number"),
        Column("SQNR, dB", "number"),
        Column("worst layer, dB", "number"),
        Column("worst layer", "code"),
        Column("best on layers", "number"),
    ]
    return Section(
        key="ranking",
        title="Ranking",
        before=_paragraph(words if rows else "No tensor could be ranked."),
        after=table(columns, rows) if rows else "",
    )


#: A row of the heat map: its name and, by format, noise-to-signal ratio or ``None``.
_Row = tuple[str, list[float | None]]


def _ratios(layer: LayerErrors, formats: Sequence[TensorFormat]) -> list[float | None]:
    found = {e.format: 10 ** (-e.error.sqnr_db / 10) for e in layer.errors if e.error is not None}
    return [found.get(fmt) for fmt in formats]


def _rows(report: WeightReport, formats: Sequence[TensorFormat]) -> tuple[list[_Row], bool]:
    """Rows of the heat map, and whether a row is a kind of layers instead of one."""
    layers = report.ranked
    if len(layers) <= MAX_ROWS:
        return [(layer.tensor.name, _ratios(layer, formats)) for layer in layers], False
    kinds: dict[str, list[list[float | None]]] = {}
    for layer in layers:
        kinds.setdefault(re.sub("[0-9]+", "*", layer.tensor.name), []).append(
            _ratios(layer, formats)
        )
    rows: list[_Row] = []
    for kind, found in list(kinds.items())[:MAX_ROWS]:
        columns = [[v for v in column if v is not None] for column in zip(*found, strict=True)]
        means = [sum(values) / len(values) if values else None for values in columns]
        rows.append((f"{kind} ({len(found)})", means))
    return rows, True


def _short(names: Sequence[str]) -> list[str]:
    """Names without what most share, cut to what a phone has room for."""
    cut = [name.removeprefix("model.").removesuffix(".weight") for name in names]
    return [text if len(text) <= 28 else f"…{text[-27:]}" for text in map(printable, cut)]


def _map(report: WeightReport) -> Section:
    formats = [row.format for row in report.ranking()]  # best first
    rows, kinds = _rows(report, formats)
    if not rows:
        return Section(
            key="map", title="Layers by format", before=_paragraph("No layer was ranked.")
        )
    decibels = [[None if v is None else _to_db(v) for v in values] for _, values in rows]
    best = [max((v for v in line if v is not None), default=None) for line in decibels]
    below = [
        [None if v is None or top is None else _minus(v, top) for v in line]
        for line, top in zip(decibels, best, strict=True)
    ]
    words = "Lighter is better: a higher signal to quantisation noise."
    if kinds:
        words += " Layers whose names differ by numbers alone share a row: the mean of their noise."
    figure = Figure(
        key="layer-map",
        title="SQNR of every layer under every format",
        views=[
            _view("SQNR", formats, rows, decibels, "SQNR %{customdata[1]} dB"),
            _view("behind the layer's best format", formats, rows, below, "%{z:.2f} dB"),
        ],
        min_width_px=260 + CELL_PX * len(formats),
        height_px=180 + ROW_PX * max(10, len(rows)),
        notes=["White or black cells have no figure: the format was not tried on that layer."]
        if any(v is None for line in decibels for v in line)
        else [],
    )
    return Section(key="map", title="Layers by format", before=_paragraph(words), figures=[figure])


def _to_db(ratio: float) -> float:
    return -10 * math.log10(ratio) if ratio > 0 else math.inf


def _minus(value: float, top: float) -> float:
    return 0.0 if value == top else value - top


def _view(
    name: str,
    formats: Sequence[TensorFormat],
    rows: Sequence[_Row],
    values: Sequence[Sequence[float | None]],
    hover: str,
) -> View:
    finite = [v for line in values for v in line if v is not None and math.isfinite(v)]
    # A layer that a format keeps exactly has the colour of the best figure.
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    z = [[None if v is None else min(max(v, low), high) for v in line] for line in values]
    data: dict[str, Any] = {
        "type": "heatmap",
        "z": z,
        "x": [label(fmt) for fmt in formats],
        "y": list(range(len(rows))),
        "customdata": [
            [[label(printable(row[0])), _db(v)] for v in line]
            for row, line in zip(rows, values, strict=True)
        ],
        "colorscale": "Viridis",
        "zmin": low,
        "zmax": high,
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
        "hovertemplate": "%{customdata[0]}<br>%{x}<br>" + hover + "<extra></extra>",
    }
    layout = {
        "xaxis": axis("", side="top", tickangle=-90, type="category", showgrid=False),
        "yaxis": axis(
            "",
            autorange="reversed",
            tickvals=list(range(len(rows))),
            ticktext=[label(text) for text in _short([row[0] for row in rows])],
            tickfont={"size": 10},
            showgrid=False,
            zeroline=False,
        ),
    }
    return View(name=name, data=[data], layout=layout)


def _layers(report: WeightReport) -> Section:
    ranked = report.ranked
    columns = [
        Column("layer", "code"),
        Column("type and shape"),
        *(Column(f"{fmt}, dB", "number") for fmt in report.formats),
    ]
    rows = [
        [
            printable(layer.tensor.name),
            layer.tensor.kind,
            *(_db(None if one.error is None else one.error.sqnr_db) for one in layer.errors),
        ]
        for layer in ranked[:MAX_LISTED]
    ]
    after = ""
    if rows:
        after = f"<details><summary>SQNR, layer by layer</summary>{table(columns, rows)}</details>"
        if len(ranked) > MAX_LISTED:
            after += _paragraph(f"{len(ranked) - MAX_LISTED} more are in the JSON answer.", "note")
    return Section(key="numbers", title="The numbers", after=after)


def _others(report: WeightReport) -> Section:
    others = [layer for layer in report.layers if layer.status is not LayerStatus.RANKED]
    others.sort(key=lambda layer: layer.status is LayerStatus.SKIPPED)
    reasons = [
        [printable(layer.tensor.name), "on some formats", str(one.format), one.reason]
        for layer in report.ranked
        for one in layer.errors
        if one.reason
    ]
    rows = [
        *(
            [
                printable(layer.tensor.name),
                layer.status.value,
                layer.tensor.kind,
                layer.reason,
            ]
            for layer in others
        ),
        *reasons,
    ]
    columns = [Column("tensor", "code"), Column("status"), Column("what"), Column("reason", "wrap")]
    after = table(columns, rows[:MAX_LISTED]) if rows else _paragraph("Every tensor was ranked.")
    if len(rows) > MAX_LISTED:
        after += _paragraph(f"{len(rows) - MAX_LISTED} more are in the JSON answer.", "note")
    return Section(key="others", title="Skipped and failed", after=after)
