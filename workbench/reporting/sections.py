"""The sections of a run's page: words, tables and the plots that belong to them."""

from collections import Counter
from collections.abc import Sequence

from tiles.kernels import Status
from tuning import Run
from tuning.objective import Objective
from workbench.reporting.comparison import BASELINE, Compared, shape_text
from workbench.reporting.convergence_figure import convergence
from workbench.reporting.error_figure import error_against_speed
from workbench.reporting.predicted_figure import predicted_against_measured
from workbench.reporting.rejection_figures import rejections
from workbench.reporting.section import Section
from workbench.reporting.section import paragraph as _paragraph
from workbench.reporting.speedup_figures import speedups
from workbench.reporting.table import Column, number, table
from workbench.reporting.tradeoff import fronts, tradeoffs, without_energy
from workbench.reporting.tradeoff_figure import tradeoff_figure
from workbench.reporting.tradeoff_table import tradeoff_tables
from workbench.reporting.winner_table import winner_table

__all__ = ["sections"]

#: Reasons of failed trials shown at most; the journal holds all.
MAX_REASONS = 40


def sections(run: Run, rows: Sequence[Compared]) -> list[Section]:
    """Every section of the page, in order."""
    return [
        _speed(run, rows),
        _error(rows),
        _tradeoff(run),
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
    if any(study.objective is Objective.ENERGY for study in run.studies):
        words = "Times of the kernels with the least energy, each format against bf16."
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
            cards=True,
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


def _tradeoff(run: Run) -> Section:
    rows = tradeoffs(run)
    found = fronts(rows)
    figure = tradeoff_figure(found)
    if figure is None:
        words = _paragraph("No product has a correct result whose energy is known.")
        return Section(key="pareto", title="Time, energy and error", before=words)
    words = (
        "Time and energy of every correct configuration that no other of its recipe beats, beside "
        "the recipe's error."
    )
    if any(not one.by_read_energy for one in found):
        words = (
            "The winner of every recipe. Energies are predicted: this run searched for time; "
            "objective: energy in the sweep file reads them, too."
        )
    if left := without_energy(rows, found):
        words += f" {left}"
    beaten = tradeoff_tables(found, kept=False, cards=True)
    after = _paragraph("Beaten by no other in time, energy and error:")
    after += tradeoff_tables(found, kept=True, cards=True)
    if beaten:
        after += f"<details><summary>Those that are beaten</summary>{beaten}</details>"
    return Section(
        key="pareto",
        title="Time, energy and error",
        before=_paragraph(words),
        figures=[figure],
        after=after,
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
        parts += winner_table(studies, simulated)
    without = [study for study in run.studies if study.best is None]
    if without:
        names = ", ".join(f"{study.problem} with {study.kernel}" for study in without)
        parts += _paragraph(f"Without a correct result: {names}.")
    return Section(key="winners", title="Winners", after=parts or _paragraph("No study ran."))
