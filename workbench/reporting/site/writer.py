"""The site of a project folder: gathered, then written beside its place and renamed."""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from tuning import Run, load_run
from workbench.outfile import check_name, unwritable
from workbench.printable import printable_name
from workbench.reporting.comparison import compare
from workbench.reporting.page import page_html, plotly_script, report_page
from workbench.reporting.section import paragraph
from workbench.reporting.site.changes import changes
from workbench.reporting.site.changes_page import changes_sections
from workbench.reporting.site.contents import Contents, Unread, look
from workbench.reporting.site.findings import (
    read_calibration,
    read_error,
    read_package,
    read_verify,
)
from workbench.reporting.site.formats_page import formats_sections
from workbench.reporting.site.frame import PAGES, page, trail
from workbench.reporting.site.gathered import Gathered, Product
from workbench.reporting.site.index_page import index_head, index_sections
from workbench.reporting.site.kernels_page import kernels_sections
from workbench.reporting.site.pareto_page import pareto_sections
from workbench.reporting.site.predicted_page import predicted_sections
from workbench.reporting.site.stored import SITE_FILE, read_previous, site_json
from workbench.reporting.site.studies import SiteStudy, Timing, studies_of, timings_of
from workbench.reporting.tradeoff import Tradeoff, tradeoffs

__all__ = ["write_site"]

PLOTLY = "assets/plotly.js"
_Found = TypeVar("_Found")


def write_site(
    folder: Path, out: Path, *, load: Callable[[Path], Run] = load_run, written: str | None = None
) -> Path:
    """Write the site of a project folder, or write it anew.

    It appears complete or not at all.  Of a site that is there every file is replaced; it is what
    the new one is compared with.

    Args:
        folder: with run folders, packages, and answers of ``calibrate``, ``error`` and ``verify``
            in it, at most four folders down.
        out: the site's folder.
        load: how a run folder is read.
        written: date and time in UTC, ISO 8601; now by default.
    Returns:
        Its first page.
    Raises:
        ValueError: the folder holds nothing to report, or ``out`` is something else than a site of
            ours or cannot be written.
    """
    check_name(out)
    with unwritable(out):
        previous = read_previous(out)
    contents = look(folder, out)
    if contents.empty:
        raise ValueError(
            f"{folder}: holds no run folder, package, calibration or error answer: sweep into it "
            "first, e.g. workbench sweep examples/quickstart.yaml --output "
            f"{folder / 'quickstart'}"
        )
    if written is None:
        written = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with unwritable(out), _workplace(out) as workplace:
        new = workplace / "site"
        new.mkdir()
        gathered = _gather(contents, new, load, written)
        unread = [one.name for one in gathered.unread]
        gathered = replace(gathered, changes=changes(previous, gathered.studies, unread))
        for file, text in _pages(gathered).items():
            _write(new / file, text)
        _close(new, gathered)
        _put(new, out, workplace / "replaced")
    return out / "index.html"


@contextlib.contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """A temporary folder beside ``out``, so that the finished site is renamed, not copied."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".workbench-", dir=out.parent) as temporary:
        yield Path(temporary)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _put(new: Path, out: Path, replaced: Path) -> None:
    """Rename the new site to its place; the old one comes back when that fails."""
    there = os.path.lexists(out)
    if there:
        read_previous(out)  # once more: what came meanwhile is not ours to remove
        out.rename(replaced)
    try:
        new.rename(out)
    except OSError:
        if there:
            replaced.rename(out)
        raise


def _gather(contents: Contents, new: Path, load: Callable[[Path], Run], written: str) -> Gathered:
    """Read everything, and write the page of each run while it is in memory."""
    unread = list(contents.unread)
    project = contents.folder.resolve().name or "/"
    runs: list[tuple[str, str]] = []
    studies: list[SiteStudy] = []
    products: list[Product] = []
    timings: list[Timing] = []
    traded: list[Tradeoff] = []
    for path in contents.runs:
        name = contents.name(path)
        try:
            run = load(path)
        except (ValueError, OSError) as error:
            unread.append(Unread(name=name, reason=_reason(error, contents.folder)))
            continue
        file = f"runs/{_file_name(name, {page for _, page in runs})}.html"
        if not runs:
            _write(new / PLOTLY, plotly_script())
        text = page_html(report_page(run, trail=trail(project, "../")), plotly_at=f"../{PLOTLY}")
        _write(new / file, text)
        runs.append((name, file))
        studies += studies_of(run, name, file)
        products += [Product(run=name, gpu=run.gpu.name, compared=row) for row in compare(run)]
        timings += timings_of(run, name)
        traded += [replace(row, run=name) for row in tradeoffs(run)]

    def read(paths: Sequence[Path], reader: Callable[[Path, str], _Found]) -> list[_Found]:
        found = []
        for path in paths:
            try:
                found.append(reader(path, contents.name(path)))
            except (ValueError, OSError) as error:
                unread.append(
                    Unread(name=contents.name(path), reason=_reason(error, contents.folder))
                )
        return found

    def answers(kind: str) -> list[Path]:
        return [answer.path for answer in contents.answers if answer.kind == kind]

    return Gathered(
        project=project,
        written=written,
        runs=runs,
        studies=studies,
        products=products,
        timings=timings,
        tradeoffs=traded,
        packages=read(contents.packages, read_package),
        calibrations=read(answers("calibration"), read_calibration),
        errors=read(answers("error"), read_error),
        verified=read(answers("verify"), read_verify),
        unread=unread,
        changes=changes(None, ()),
    )


def _reason(error: Exception, folder: Path) -> str:
    """What went wrong on one line, beginning with the path below the folder."""
    return printable_name(" ".join(str(error).split()).removeprefix(f"{folder}/"))


def _file_name(name: str, taken: set[str]) -> str:
    """A run's name as a file name, told apart from those of other runs."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-")[:80] or "run"
    found, number = plain, 1
    while f"runs/{found}.html".lower() in {one.lower() for one in taken}:
        number += 1
        found = f"{plain}-{number}"
    return found


def _pages(all_of: Gathered) -> dict[str, str]:
    """Every page but those of the runs, by its file."""
    words = {
        "index.html": index_head(all_of),
        "formats.html": paragraph("Which number format pays, and what it costs in accuracy."),
        "pareto.html": paragraph(
            "What a launch takes in time and energy, and what its format costs in accuracy."
        ),
        "kernels.html": paragraph("The winners of every study, and what they rest on."),
        "predicted.html": paragraph("How far the cost model is off, where something was measured."),
        "changes.html": "",
    }
    sections = {
        "index.html": index_sections,
        "formats.html": formats_sections,
        "pareto.html": pareto_sections,
        "kernels.html": kernels_sections,
        "predicted.html": predicted_sections,
        "changes.html": changes_sections,
    }
    return {
        file: page(all_of.project, file, words[file], sections[file](all_of), all_of.written)
        for file in PAGES
    }


def _close(new: Path, all_of: Gathered) -> None:
    """Name every file in the site's own JSON, and let others read what a temporary folder hides."""
    files = [path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()]
    _write(new / SITE_FILE, site_json(all_of.written, files, all_of.studies))
    new.chmod(0o755)
