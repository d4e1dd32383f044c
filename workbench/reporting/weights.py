"""The page about a checkpoint: which format keeps which layer how well."""

from collections import Counter
from pathlib import Path

from workbench.outfile import check_outfile, write_outfile
from workbench.printable import printable
from workbench.reporting.layer_map import db_text, layer_map
from workbench.reporting.page import Page, page_html
from workbench.reporting.section import Section, facts_list
from workbench.reporting.section import paragraph as _paragraph
from workbench.reporting.table import Column, table
from workbench.weight_report import LayerStatus, WeightReport

__all__ = ["SCHEMA", "write_weights_page"]

SCHEMA = "tile-workbench/weights-page/1"

#: Layers of a table at most; ``--json`` has all.
MAX_LISTED = 2000


def write_weights_page(report: WeightReport, out: Path) -> Path:
    """Write one self-contained page about a checkpoint's weights.

    Args:
        report: what :func:`workbench.weights.rank_weights` found.
        out: the HTML file; its folder is made, an older page about weights is replaced.
    Returns:
        ``out``.
    Raises:
        ValueError: ``out`` is a folder, holds something else or cannot be written.
    """
    check_outfile(out, SCHEMA)
    page = Page(
        schema=SCHEMA,
        title=f"Formats for the weights of {printable(report.path.name)}",
        header=_header(report),
        sections=[_ranking(report), _map(report), _layers(report), _others(report)],
    )
    write_outfile(out, page_html(page))
    return out


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
    return f"{banner}{facts_list(facts)}"


def _ranking(report: WeightReport) -> Section:
    rows = [
        [
            place,
            row.format,
            f"{row.bits_per_element:.3f}",
            db_text(row.sqnr_db),
            db_text(row.worst_db),
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


def _map(report: WeightReport) -> Section:
    figure, kinds = layer_map(report)
    words = "Lighter is better: a higher signal to quantisation noise."
    if kinds:
        words += " Layers whose names differ by numbers alone share a row: the mean of their noise."
    return Section(
        key="map",
        title="Layers by format",
        before=_paragraph(words if figure else "No layer was ranked."),
        figures=[figure] if figure else [],
    )


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
            *(db_text(None if one.error is None else one.error.sqnr_db) for one in layer.errors),
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
