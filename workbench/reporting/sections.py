"""The sections of the page: words, tables and the plots that belong to them."""

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tiles.kernels import Status
from tuning import Environment, Run, StudyRecord
from workbench.reporting.comparison import BASELINE, Compared, shape_text
from workbench.reporting.figure import Figure
from workbench.reporting.figures import (
    convergence,
    error_against_speed,
    predicted_against_measured,
    rejections,
    speedups,
)
from workbench.reporting.table import Column, number, table
from workbench.shared import stale_lines

__all__ = ["Section", "header", "sections"]

#: Reasons of failed trials shown at most; the journal holds all.
MAX_REASONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page."""

    key: str  #: element id
    title: str
    before: str = ""  #: HTML ahead of the plots
    figures: Sequence[Figure] = field(default_factory=tuple)
    after: str = ""  #: HTML behind them


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>'


def header(run: Run) -> str:
    """The head of the page: measured or simulated, which GPU, which versions, which search."""
    modes = {study.simulated for study in run.studies} or {bool(run.plan.get("simulate"))}
    banner = "".join(_banner(simulated) for simulated in sorted(modes))
    gpus = dict.fromkeys([str(run.plan.get("gpu", "?")), *(s.gpu for s in run.studies)])
    facts: dict[str, object] = {"GPU": ", ".join(gpus)}
    for environment in _environments(run):
        clock = environment.sm_clock_mhz
        for name, value in (
            ("Device", environment.gpu),
            ("Driver", environment.driver),
            ("SM clock under load", "" if clock is None else f"{clock} MHz"),
            *environment.versions.items(),
        ):
            # A run that was taken up again elsewhere names every value it saw.
            seen = str(facts[name]).split(", ") if name in facts else []
            facts[name] = ", ".join(dict.fromkeys([*seen, value])) if value else facts.get(name)
    limit = run.plan.get("time_limit_s")
    facts |= {
        "Studies": len(run.studies),
        "Trials": sum(len(study.trials) for study in run.studies),
        "Strategy": run.plan.get("strategy"),
        "Measurements a study, at most": run.plan.get("max_measurements"),
        "Time limit": None if limit is None else f"{limit:g} s",
        "Seed": run.plan.get("seed"),
        "L2 before a launch": run.plan.get("cache"),
        "Run folder": run.folder.name,
    }
    listed = "".join(
        f"<div><dt>{html.escape(str(name))}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )
    stale = "".join(
        f'<p class="banner simulated"><b>STALE</b> {html.escape(line)}</p>'
        for line in stale_lines(run)
    )
    return f"{banner}{stale}<dl>{listed}</dl>"


def _banner(simulated: bool) -> str:
    if simulated:
        return (
            '<p class="banner simulated"><b>SIMULATED</b> Every time on this page comes from the '
            "cost model; nothing was measured.</p>"
        )
    return (
        '<p class="banner measured"><b>MEASURED</b> Times were taken on the GPU named below; '
        "predictions stand in columns of their own.</p>"
    )


def _environments(run: Run) -> list[Environment]:
    found: list[Environment] = []
    for study in run.studies:
        if study.environment is not None and study.environment not in found:
            found.append(study.environment)
    return found


def sections(run: Run, rows: Sequence[Compared]) -> list[Section]:
    """Every section of the page, in order."""
    return [
        _speed(run, rows),
        _error(rows),
        _predicted(run),
        _convergence(run),
        _rejections(run),
        _winners(run),
    ]


def _time_title(simulated: bool) -> str:
    return "simulated time, us" if simulated else "measured time, us"


def _speed(run: Run, rows: Sequence[Compared]) -> Section:
    figures = speedups(rows)
    words = "Fastest correct kernel of each format against the fastest one in bf16."
    if rows and not any(row.baseline_us is not None for row in rows):
        words = f"This run holds no {BASELINE} product: add {BASELINE} to its recipes."
    elif not figures:
        words = "No format can be compared with bf16 yet: no study of one has a correct result."
    before = _paragraph(words)
    keys = {figure.key for figure in figures}
    if figures and "speedup-with-quantize" not in keys:
        before += _paragraph(
            "The run holds no quantisation of the activations, so speed-ups are of the kernel "
            "alone; set quantize: true in the sweep file to have both."
        )
    tables = ""
    for simulated in sorted({row.simulated for row in rows}):
        word = "simulated" if simulated else "measured"
        tables += table(
            [
                Column("M×N×K"),
                Column("recipe"),
                Column("path"),
                Column(_time_title(simulated), "number"),
                Column(f"{word} speed-up, kernel", "number"),
                Column(f"{word} quantize, us", "number"),
                Column(f"{word} speed-up, with quantize", "number"),
                Column("SQNR normal, dB", "number"),
                Column("SQNR outlier, dB", "number"),
            ],
            [_comparison(row) for row in rows if row.simulated is simulated],
        )
    after = f"<details><summary>The numbers</summary>{tables}</details>" if tables else ""
    return Section(
        key="speed-up", title="Speed-up over bf16", before=before, figures=figures, after=after
    )


def _comparison(row: Compared) -> list[object]:
    return [
        shape_text(row.problem),
        row.recipe.name,
        row.path,
        number(row.time_us),
        number(row.speedup_kernel, 3),
        number(row.quantize_us) if row.recipe.quantized else None,
        number(row.speedup_with_quantize, 3),
        number(row.sqnr_db("normal"), 3),
        number(row.sqnr_db("outlier"), 3),
    ]


def _error(rows: Sequence[Compared]) -> Section:
    figure = error_against_speed(rows)
    words = "" if figure else _paragraph("There is no speed-up to set the error against.")
    return Section(
        key="error", title="Error against speed", before=words, figures=[figure] if figure else []
    )


def _predicted(run: Run) -> Section:
    figure = predicted_against_measured(run)
    words = ""
    if figure is None:
        simulated = any(study.simulated for study in run.studies)
        words = _paragraph(
            "This run was simulated: there is no measurement to hold the prediction against."
            if simulated
            else "Nothing has been measured yet."
        )
    return Section(
        key="predicted",
        title="Predicted against measured",
        before=words,
        figures=[figure] if figure else [],
    )


def _convergence(run: Run) -> Section:
    figure = convergence(run)
    words = "" if figure else _paragraph("No study has a correct result yet.")
    stops = Counter(study.stopped or "not finished" for study in run.studies)
    rows = [[reason, count] for reason, count in stops.most_common()]
    after = table([Column("why the search ended", "wrap"), Column("studies", "number")], rows)
    return Section(
        key="search",
        title="Convergence of the search",
        before=words,
        figures=[figure] if figure else [],
        after=after if rows else "",
    )


def _rejections(run: Run) -> Section:
    figures = rejections(run)
    words = "" if figures else _paragraph("Nothing was refused and nothing was tried.")
    reasons: Counter[tuple[str, str, str]] = Counter(
        (study.kernel, trial.measurement.status.value, trial.measurement.reason)
        for study in run.studies
        for trial in study.trials
        if trial.measurement.status is not Status.CORRECT
    )
    after = ""
    if reasons:
        after = table(
            [
                Column("kernel"),
                Column("status"),
                Column("reason", "wrap"),
                Column("trials", "number"),
            ],
            [[*key, count] for key, count in reasons.most_common(MAX_REASONS)],
        )
        if len(reasons) > MAX_REASONS:
            after += _paragraph(
                f"{len(reasons) - MAX_REASONS} rarer reasons are not shown.", "note"
            )
    return Section(key="rejections", title="Rejections", before=words, figures=figures, after=after)


def _winners(run: Run) -> Section:
    parts = ""
    for simulated in sorted({study.simulated for study in run.studies}):
        studies = [study for study in run.studies if study.simulated is simulated]
        parts += _winner_table(studies, simulated)
    without = [study for study in run.studies if study.best is None]
    if without:
        names = ", ".join(f"{study.problem} with {study.kernel}" for study in without)
        parts += _paragraph(f"Without a correct result: {names}.")
    return Section(key="winners", title="Winners", after=parts or _paragraph("No study ran."))


def _winner_table(studies: Sequence[StudyRecord], simulated: bool) -> str:
    word = "predicted" if simulated else "measured"
    own = (
        []
        if simulated
        else [Column(_time_title(False), "number"), Column("measured IQR, us", "number")]
    )
    columns = [
        Column("problem"),
        Column("kernel"),
        Column("path"),
        *own,
        Column("predicted time, us", "number"),
        Column("predicted interval, us", "number"),
        Column(f"{word} TFLOP/s", "number"),
        Column(f"{word} GB/s", "number"),
        Column("error / bound", "number"),
        Column("configuration", "code"),
    ]
    rows: list[list[Any]] = []
    for study in studies:
        best = study.best
        if best is None or best.measurement.time_us is None:
            continue
        # In a simulated run the "time" is the prediction, so it stands in that column alone.
        time_us = best.predicted_us if simulated else best.measurement.time_us
        flops = study.problem.flops
        accuracy = best.measurement.accuracy
        measured = (
            [] if simulated else [number(best.measurement.time_us), number(best.measurement.iqr_us)]
        )
        rows.append(
            [
                study.problem,
                study.kernel,
                study.path,
                *measured,
                number(best.predicted_us),
                f"{number(best.predicted_low_us)} – {number(best.predicted_high_us)}",
                number(flops / time_us / 1e6) if flops else None,
                number(study.problem.min_bytes / time_us / 1e3),
                None if accuracy is None else number(accuracy.max_error_over_bound, 2),
                best.config,
            ]
        )
    return table(columns, rows)
