"""The first page: what the folder holds, what changed, where to go on."""

import html
from collections.abc import Sequence

from workbench.reporting.comparison import BASELINE
from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.changes_page import summary
from workbench.reporting.site.format_rows import Speedup, format_rows
from workbench.reporting.site.found_sections import (
    calibration_sections,
    packages_sections,
    unread_sections,
)
from workbench.reporting.site.frame import badge, link
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.site.studies import SiteStudy
from workbench.reporting.table import Column, Markup, number, table

__all__ = ["index_head", "index_sections"]

#: Recipes of a GPU on this page; the page of formats has all.
TOP = 5


def index_head(all_of: Gathered) -> str:
    """What the folder holds in numbers, each a link to where it is told."""
    measured = sum(not study.simulated for study in all_of.studies)
    stale = sum(bool(study.stale) for study in all_of.studies)
    tiles = [
        (len(all_of.runs), "run", "runs", "#runs"),
        (measured, "study measured", "studies measured", "kernels.html"),
        (len(all_of.studies) - measured, "study simulated", "studies simulated", "kernels.html"),
        (len(all_of.gpus), "GPU", "GPUs", "#gpus"),
    ]
    if stale:
        tiles.append((stale, "study stale", "studies stale", "kernels.html#stale"))
    if all_of.unread:
        tiles.append((len(all_of.unread), "not read", "not read", "#unread"))
    listed = "".join(
        f'<li><a href="{to}"><b>{count}</b>{one if count == 1 else many}</a></li>'
        for count, one, many, to in tiles
    )
    return f'<ul class="tiles">{listed}</ul>'


def index_sections(all_of: Gathered) -> list[Section]:
    """What changed, runs, GPUs, formats, packages, calibrations, and what could not be read."""
    more = f"<p>{link('changes.html', 'What is new, faster, slower or gone').html}</p>"
    sections = [
        Section(
            key="changed",
            title="What changed",
            before=paragraph(summary(all_of.changes)),
            after="" if all_of.changes.since is None else more,
        ),
        *_runs(all_of),
        *_gpus(all_of),
        *_formats(all_of),
        *packages_sections(all_of),
        *calibration_sections(all_of),
        *unread_sections(all_of),
    ]
    return sections


def _modes(studies: Sequence[SiteStudy]) -> Markup:
    words = [
        word
        for word, simulated in (("measured", False), ("simulated", True))
        if any(study.simulated is simulated for study in studies)
    ]
    return Markup(" ".join(badge(word).html for word in words) or "nothing yet")


def _runs(all_of: Gathered) -> list[Section]:
    rows: list[list[object]] = []
    for name, page in all_of.runs:
        studies = [study for study in all_of.studies if study.run == name]
        unfinished = sum(not study.finished for study in studies)
        stale = sum(bool(study.stale) for study in studies)
        state = f"{unfinished} of {len(studies)} studies not finished" if unfinished else "finished"
        rows.append(
            [
                link(page, name),
                _modes(studies),
                ", ".join(dict.fromkeys(study.gpu for study in studies)),
                len(studies),
                sum(study.time_us is not None for study in studies),
                sum(study.trials for study in studies),
                Markup(html.escape(state) + (f" {badge(f'{stale} stale').html}" if stale else "")),
            ]
        )
    if not rows:
        return []
    columns = [
        Column("run"),
        Column("times"),
        Column("GPU"),
        Column("studies", "number"),
        Column("with a winner", "number"),
        Column("trials", "number"),
        Column("state"),
    ]
    return [Section(key="runs", title="Runs", after=table(columns, rows, cards=True))]


def _gpus(all_of: Gathered) -> list[Section]:
    rows: list[list[object]] = []
    for gpu in all_of.gpus:
        studies = [study for study in all_of.studies if study.gpu == gpu]
        devices = dict.fromkeys(study.device for study in studies if study.device)
        software = dict.fromkeys(study.software for study in studies if study.software)
        rows.append(
            [
                gpu,
                ", ".join(devices) or None,
                len({study.run for study in studies}),
                sum(not study.simulated for study in studies),
                sum(study.simulated for study in studies),
                "; ".join(software) or None,
            ]
        )
    if not rows:
        return []
    columns = [
        Column("GPU"),
        Column("device"),
        Column("runs", "number"),
        Column("studies measured", "number"),
        Column("studies simulated", "number"),
        Column("measured with", "wrap"),
    ]
    return [Section(key="gpus", title="GPUs", after=table(columns, rows, cards=True))]


def _formats(all_of: Gathered) -> list[Section]:
    after = ""
    for gpu in all_of.gpus:
        rows = format_rows(all_of.products, gpu)
        if not rows:
            continue
        after += f"<h3>{html.escape(gpu)}</h3>" + table(
            [
                Column("recipe"),
                Column("measured ×, kernel", "number"),
                Column("measured ×, with quantize", "number"),
                Column("predicted ×, kernel", "number"),
                Column("predicted ×, with quantize", "number"),
                Column("SQNR normal, dB", "number"),
            ],
            [
                [
                    row.recipe,
                    *_pair(row.measured),
                    *_pair(row.predicted),
                    number(row.sqnr_normal_db, 3),
                ]
                for row in rows[:TOP]
            ],
            cards=True,
        )
    if not after:
        return []
    return [
        Section(
            key="formats",
            title="Fastest formats",
            before=f"<p>Speed-up over {BASELINE}, geometric mean over shapes, measured ones first. "
            f"{link('formats.html', 'All formats, with their error').html}.</p>",
            after=after,
        )
    ]


def _pair(speedup: Speedup | None) -> list[object]:
    if speedup is None:
        return [None, None]
    return [number(speedup.kernel, 3), number(speedup.with_quantize, 3)]
