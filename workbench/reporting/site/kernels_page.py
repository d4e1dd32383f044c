"""The page about kernels: winners with configurations and versions, stale ones shown as such."""

from collections import Counter
from collections.abc import Sequence

from workbench.reporting.download import csv_text
from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.chart import PALETTE, Chart, bars
from workbench.reporting.site.frame import badge, link
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.site.studies import SiteStudy
from workbench.reporting.table import Column, Markup, number, table

__all__ = ["fastest_first", "kernels_sections"]


def fastest_first(studies: Sequence[SiteStudy]) -> list[tuple[SiteStudy, float]]:
    """Studies with a winner, problem by problem, each with its time over the problem's best.

    Args:
        studies: of one GPU, all measured or all simulated.
    """
    best: dict[str, float] = {}
    for study in studies:
        if study.time_us is not None:
            best[study.problem] = min(study.time_us, best.get(study.problem, study.time_us))
    places = {problem: place for place, problem in enumerate(best)}
    found = [
        (study, study.time_us / best[study.problem])
        for study in studies
        if study.time_us is not None
    ]
    return sorted(found, key=lambda pair: (places[pair[0].problem], pair[1]))


def kernels_sections(all_of: Gathered) -> list[Section]:
    """A section a GPU and kind of time, then what is stale and what has no winner."""
    sections: list[Section] = []
    for place, gpu in enumerate(all_of.gpus):
        for simulated in (False, True):
            studies = [s for s in all_of.studies if s.gpu == gpu and s.simulated is simulated]
            ranked = fastest_first(studies)
            if ranked:
                word = "predicted" if simulated else "measured"
                sections.append(_section(ranked, gpu, simulated, f"{word}-{place}"))
    if not sections:
        sections.append(
            Section(
                key="none",
                title="No kernel yet",
                before=paragraph("No study has a correct result: let a sweep go on."),
            )
        )
    return [*_stale(all_of), *sections, *_without(all_of)]


def _section(
    ranked: Sequence[tuple[SiteStudy, float]], gpu: str, simulated: bool, key: str
) -> Section:
    word = "predicted" if simulated else "measured"
    first = [study for study, ratio in ranked if ratio == 1.0]
    others = [pair for pair in ranked if pair[1] > 1.0]
    words = (
        "Simulated sweeps: every time is the cost model's, and the choice with it."
        if simulated
        else "The fastest correct configuration of each problem, whatever its kernel family."
    )
    after = _wins(first, gpu, word, f"wins-{key}").html() + _table(
        [(study, 1.0) for study in first], simulated
    )
    if others:
        count = "1 study" if len(others) == 1 else f"{len(others)} studies"
        after += (
            f"<details><summary>{count} behind the fastest of the problem</summary>"
            f"{_table(others, simulated)}</details>"
        )
    return Section(key=key, title=f"{gpu}, {word}", before=paragraph(words), after=after)


def _table(rows: Sequence[tuple[SiteStudy, float]], simulated: bool) -> str:
    word = "predicted" if simulated else "measured"
    behind = any(ratio > 1 for _, ratio in rows)
    columns = [
        Column("problem"),
        Column("kernel"),
        Column("state"),
        *([] if simulated else [Column("measured, us", "number"), Column("IQR, us", "number")]),
        Column("predicted, us", "number"),
        Column("predicted interval, us", "number"),
        *([Column(f"{word} / fastest", "number")] if behind else []),
        Column(f"{word} throughput", "number"),
        Column("path"),
        Column("configuration", "code"),
        *([] if simulated else [Column("device"), Column("measured with")]),
        Column("run"),
    ]
    return table(
        columns,
        [
            [
                study.problem,
                study.kernel,
                _state(study),
                *([] if simulated else [number(study.measured_us), number(study.iqr_us, 3)]),
                number(study.predicted_us),
                f"{number(study.predicted_low_us)}–{number(study.predicted_high_us)}",
                *([f"{ratio:.2f}"] if behind else []),
                study.rate,
                study.path,
                study.config,
                *([] if simulated else [study.device, study.software]),
                link(study.page, study.run),
            ]
            for study, ratio in rows
        ],
        cards=True,
    )


def _state(study: SiteStudy) -> Markup:
    if study.stale:
        return badge("stale")  # why stands above
    return Markup("current" if study.finished else badge("not finished").html)


def _wins(first: Sequence[SiteStudy], gpu: str, word: str, key: str) -> Chart:
    counts = Counter(study.kernel for study in first).most_common()
    return Chart(
        key=key,
        title="Problems won, by kernel family",
        description=(
            f"Of {len(first)} problems on {gpu}, {word}: "
            + ", ".join(f"{count} by {kernel}" for kernel, count in counts)
            + "."
        ),
        svg=bars(
            [
                (kernel, float(count), PALETTE[place % len(PALETTE)])
                for place, (kernel, count) in enumerate(counts)
            ],
            unit="won",
        ),
        data=csv_text(["kernel", f"problems won, {word}"], counts),
    )


def _stale(all_of: Gathered) -> list[Section]:
    stale = [study for study in all_of.studies if study.stale]
    if not stale:
        return []
    words = "1 study rests" if len(stale) == 1 else f"{len(stale)} studies rest"
    return [
        Section(
            key="stale",
            title="Stale",
            before='<p class="banner simulated"><b>STALE</b> '
            f"{words} on what has changed since. Measure the winners again with "
            "<code>workbench sweep FILE --revalidate</code>.</p>",
            after=table(
                [Column("run"), Column("problem"), Column("kernel"), Column("why", "wrap")],
                [
                    [link(study.page, study.run), study.problem, study.kernel, study.stale]
                    for study in stale
                ],
            ),
        )
    ]


def _without(all_of: Gathered) -> list[Section]:
    without = [study for study in all_of.studies if study.time_us is None]
    if not without:
        return []
    return [
        Section(
            key="without",
            title="Without a correct result",
            after=table(
                [
                    Column("run"),
                    Column("gpu"),
                    Column("problem"),
                    Column("kernel"),
                    Column("trials", "number"),
                ],
                [[link(s.page, s.run), s.gpu, s.problem, s.kernel, s.trials] for s in without],
            ),
        )
    ]
