"""The page about what is new, faster, slower or gone since the site was last written."""

from collections.abc import Sequence

from workbench.reporting.download import csv_text
from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.changes import Change, Changes, Kind
from workbench.reporting.site.chart import Chart, Marks, Point, scatter
from workbench.reporting.site.frame import date_text, link
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.table import Column, number, table

__all__ = ["changes_sections", "summary"]


def summary(changes: Changes) -> str:
    """One sentence."""
    if changes.since is None:
        return "This is the first site of the folder: the next one is compared with it."
    counts = [(kind, len(changes.of(kind))) for kind in Kind if kind is not Kind.SAME]
    said = ", ".join(f"{count} {kind.value}" for kind, count in counts if count)
    if not said:
        return f"Nothing has changed beyond noise since {date_text(changes.since)}."
    return f"Since {date_text(changes.since)}: {said}."


def changes_sections(all_of: Gathered) -> list[Section]:
    """Measured times that moved, predictions that moved, what is new, what is gone."""
    changes = all_of.changes
    sections = [
        Section(
            key="since",
            title="Since last time",
            before=paragraph(summary(changes))
            + paragraph(
                "Compared are the winners of each study. A measured time has moved when it differs "
                "by more than 2 % and by more than the interquartile ranges of both measurements "
                "together; sweeps on another day differ by that without a reason.",
                "note",
            ),
            after=_chart(changes),
        )
    ]
    for kind in (Kind.SLOWER, Kind.FASTER):
        for simulated in (False, True):
            rows = [row for row in changes.of(kind) if row.study.simulated is simulated]
            if rows:
                word = "predicted" if simulated else "measured"
                sections.append(
                    Section(
                        key=f"{kind.value}-{word}",
                        title=f"{kind.value.capitalize()}, {word}",
                        after=_moved(rows, word),
                    )
                )
    sections += _listed(changes.of(Kind.NEW), "new", "New")
    sections += _listed(changes.of(Kind.GONE), "gone", "Gone")
    return sections


def _moved(rows: Sequence[Change], word: str) -> str:
    return table(
        [
            Column("problem"),
            Column("kernel"),
            Column(f"{word} before, us", "number"),
            Column(f"{word} now, us", "number"),
            Column("change", "number"),
            Column("noise", "number"),
            Column("run"),
            Column("configuration", "code"),
        ],
        [
            [
                row.study.problem,
                row.study.kernel,
                number(None if row.before is None else row.before.time_us),
                number(row.study.time_us),
                _percent(row),
                f"± {100 * row.noise:.1f} %",
                link(row.study.page, row.study.run),
                _configuration(row),
            ]
            for row in rows
        ],
        cards=True,
    )


def _percent(row: Change) -> str | None:
    return None if row.difference is None else f"{100 * row.difference:+.1f} %".replace("-", "−")


def _configuration(row: Change) -> str:
    if row.before is None or row.before.config == row.study.config:
        return "the same"
    return f"{row.before.config} → {row.study.config}"


def _listed(rows: Sequence[Change], key: str, title: str) -> list[Section]:
    if not rows:
        return []
    gone = key == "gone"
    return [
        Section(
            key=key,
            title=title,
            after=table(
                [
                    Column("problem"),
                    Column("kernel"),
                    Column("gpu"),
                    Column("measured, us", "number"),
                    Column("predicted, us", "number"),
                    Column("run"),
                    *([Column("why")] if gone else []),
                ],
                [
                    [
                        row.study.problem,
                        row.study.kernel,
                        row.study.gpu,
                        number(row.study.measured_us),
                        number(row.study.predicted_us),
                        # The page of a run that is gone is gone too.
                        row.study.run if gone else link(row.study.page, row.study.run),
                        *([row.reason] if gone else []),
                    ]
                    for row in rows
                ],
                cards=True,
            ),
        )
    ]


def _chart(changes: Changes) -> str:
    """Every measured study that was there before: its time against its change."""
    rows = [
        (row, row.difference)
        for row in changes.rows
        if row.difference is not None and not row.study.simulated
    ]
    if not rows:
        return ""
    colours = {Kind.FASTER: "#2f9e69", Kind.SAME: "#8a8f98", Kind.SLOWER: "#d9480f"}
    series = []
    for kind, colour in colours.items():
        points = [
            Point(
                x=row.study.measured_us or 0.0,
                y=100 * difference,
                tip=f"{row.study.problem}, {row.study.kernel}: {100 * difference:+.1f} %",
            )
            for row, difference in rows
            if row.kind is kind
        ]
        if points:
            series.append(Marks(name=kind.value, colour=colour, points=points))
    chart = Chart(
        key="changes-measured",
        title="Change of the measured times",
        description=(
            f"{len(rows)} studies measured before and now: measured time to the right, its change "
            "in percent upwards; below the dashed line it has become faster."
        ),
        svg=scatter(series, x_title="measured now, us", y_title="change, %", x_log=True, level=0.0),
        data=csv_text(
            [
                "run",
                "problem",
                "kernel",
                "measured before, us",
                "measured now, us",
                "change, %",
                "noise, %",
                "kind",
            ],
            [
                [
                    row.study.run,
                    row.study.problem,
                    row.study.kernel,
                    None if row.before is None else row.before.measured_us,
                    row.study.measured_us,
                    100 * difference,
                    100 * row.noise,
                    row.kind.value,
                ]
                for row, difference in rows
            ],
        ),
        legend=[(one.name, one.colour, False) for one in series],
        notes=["Below the dashed line: faster than before."],
    )
    return chart.html()
