"""The page about formats: speed-up against error, measured where measured."""

import html
import math
from collections.abc import Sequence

from workbench.reporting.comparison import BASELINE
from workbench.reporting.download import csv_text
from workbench.reporting.figure import recipe_colour
from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.chart import Chart, Marks, Point, scatter
from workbench.reporting.site.findings import ErrorFound
from workbench.reporting.site.format_rows import FormatRow, Speedup, format_rows
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.table import Column, number, table

__all__ = ["formats_sections"]


def formats_sections(all_of: Gathered) -> list[Section]:
    """A section a GPU, and one for the answers of ``workbench error``."""
    found = [_gpu(all_of, gpu, place) for place, gpu in enumerate(all_of.gpus)]
    sections = [section for section in found if section is not None]
    if not sections:
        sections = [
            Section(
                key="none",
                title="No format can be compared yet",
                before=paragraph(
                    f"No run holds a product of {BASELINE} and one of another recipe, both with a "
                    f"correct result: add {BASELINE} to the recipes of a sweep."
                ),
            )
        ]
    return [*sections, *_errors(all_of)]


def _gpu(all_of: Gathered, gpu: str, place: int) -> Section | None:
    rows = format_rows(all_of.products, gpu)
    if not rows:
        return None
    charts = [
        chart
        for data, words in (("normal", "normal data"), ("outlier", "data with outlier channels"))
        if (chart := _chart(rows, gpu, data, words, f"formats-{place}-{data}"))
    ]
    drawn = "".join(chart.html() for chart in charts)
    return Section(
        key=f"gpu-{place}",
        title=gpu,
        before=paragraph(
            f"Geometric means over shapes of the speed-up over the fastest {BASELINE} kernel of "
            "the same run. Measured and predicted stand apart: a prediction is of the very "
            "configuration that was measured, or comes from a simulated run."
        ),
        after=f'<div class="charts">{drawn}</div>{_table(rows)}',
    )


def _table(rows: Sequence[FormatRow]) -> str:
    def columns(word: str) -> list[Column]:
        return [
            Column(f"{word} ×, kernel", "number"),
            Column(f"{word} ×, with quantize", "number"),
            Column(f"shapes {word}", "number"),
        ]

    return table(
        [
            Column("recipe"),
            Column("path"),
            *columns("measured"),
            *columns("predicted"),
            Column("SQNR normal, dB", "number"),
            Column("SQNR outlier, dB", "number"),
        ],
        [
            [
                row.recipe,
                row.path,
                *_cells(row.measured),
                *_cells(row.predicted),
                number(row.sqnr_normal_db, 3),
                number(row.sqnr_outlier_db, 3),
            ]
            for row in rows
        ],
        cards=True,
    )


def _cells(speedup: Speedup | None) -> list[object]:
    if speedup is None:
        return [None, None, None]
    return [number(speedup.kernel, 3), number(speedup.with_quantize, 3), speedup.shapes]


def _chart(rows: Sequence[FormatRow], gpu: str, data: str, words: str, key: str) -> Chart | None:
    """Each recipe once: where it was measured there, where it was only predicted hollow."""
    measured: list[Marks] = []
    predicted: list[Marks] = []
    table_rows: list[list[object]] = []
    for row in rows:
        sqnr = row.sqnr_normal_db if data == "normal" else row.sqnr_outlier_db
        speedup = row.measured or row.predicted
        if sqnr is None or speedup is None:
            continue
        hollow = row.measured is None
        kind = "predicted" if hollow else "measured"
        tip = f"{row.recipe}: {speedup.kernel:.2f} × {BASELINE} {kind}, SQNR {sqnr:.1f} dB"
        mark = Marks(
            name=row.recipe,
            colour=recipe_colour(row.recipe),
            points=[Point(x=sqnr, y=speedup.kernel, tip=tip, name=row.recipe)],
            hollow=hollow,
        )
        (predicted if hollow else measured).append(mark)
        table_rows.append(
            [
                row.recipe,
                sqnr,
                None if hollow else speedup.kernel,
                speedup.kernel if hollow else None,
                speedup.shapes,
            ]
        )
    if not table_rows:
        return None
    word = "measured" if not predicted else "predicted" if not measured else "measured (predicted)"
    legend = [("measured", "var(--soft)", False)] if measured else []
    if predicted:
        legend.append(("predicted only", "var(--soft)", True))
    return Chart(
        key=key,
        title=f"Speed-up against error on {words}",
        description=(
            f"{len(table_rows)} recipes on {gpu}: speed-up of the kernel over {BASELINE} upwards, "
            "signal to quantisation noise of the product to the right. Up is faster, right is more "
            "exact."
        ),
        svg=scatter(
            [*measured, *predicted],
            x_title="SQNR of the product, dB",
            y_title=f"{word} speed-up, kernel",
            level=1.0,
        ),
        data=csv_text(
            [
                "recipe",
                f"SQNR on {words}, dB",
                "measured speed-up, kernel",
                "predicted speed-up, kernel",
                "shapes",
            ],
            table_rows,
        ),
        legend=legend,
        notes=[f"Up is faster, right is more exact; the dashed line is {BASELINE}."],
    )


def _errors(all_of: Gathered) -> list[Section]:
    if not all_of.errors:
        return []
    parts = "".join(
        f"<h3><code>{html.escape(found.name)}</code></h3>{_sqnr(found)}" for found in all_of.errors
    )
    words = (
        "Signal to quantisation noise of products, or of a checkpoint's weights, best first; 6 dB "
        "are one bit."
    )
    return [
        Section(
            key="errors",
            title="Errors computed by workbench error",
            before=paragraph(words),
            after=parts,
        )
    ]


def _sqnr(found: ErrorFound) -> str:
    """A row for every recipe or format, a column for every kind of data."""
    data = list(dict.fromkeys(kind for _, kind, _ in found.rows))
    cells = {(name, kind): sqnr for name, kind, sqnr in found.rows}
    names = list(dict.fromkeys(name for name, _, _ in found.rows))

    def rank(name: str) -> float:
        sqnr = cells.get((name, data[0]), -math.inf)
        return math.inf if sqnr is None else sqnr

    def cell(name: str, kind: str) -> str | None:
        if (name, kind) not in cells:
            return None
        sqnr = cells[name, kind]
        return "exact" if sqnr is None else f"{sqnr:.1f}"

    return table(
        [
            Column("format" if found.of == "weights" else "recipe"),
            *(Column(f"SQNR {kind}, dB" if kind else "SQNR, dB", "number") for kind in data),
        ],
        [
            [name, *(cell(name, kind) for kind in data)]
            for name in sorted(names, key=rank, reverse=True)
        ],
    )
