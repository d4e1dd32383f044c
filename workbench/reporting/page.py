"""The HTML page: everything inlined, nothing fetched, no text unescaped."""

import base64
import hashlib
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning import Run
from workbench.outfile import check_outfile, write_outfile
from workbench.printable import printable_name
from workbench.reporting.comparison import compare
from workbench.reporting.download import data_link, figure_csv
from workbench.reporting.figure import Figure
from workbench.reporting.run_header import header
from workbench.reporting.section import Section
from workbench.reporting.sections import sections
from workbench.reporting.style import SCRIPT, STYLE

__all__ = ["SCHEMA", "Page", "page_html", "plotly_script", "report_page", "write_report"]

SCHEMA = "tile-workbench/report/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is on a page."""

    schema: str  #: of the data that the page holds
    title: str  #: plain text
    header: str  #: HTML below the title
    sections: Sequence[Section]
    trail: str = ""  #: HTML above the title: the way back to the site that it belongs to


def write_report(run: Run, out: Path) -> Path:
    """Write one self-contained page about a run.

    Args:
        run: what a sweep recorded, finished or not.
        out: the HTML file; its folder is made, an older page about a run is replaced in one step.
    Returns:
        ``out``.
    Raises:
        ValueError: ``out`` is a folder, holds something else or cannot be written.
    """
    check_outfile(out, SCHEMA)
    write_outfile(out, page_html(report_page(run)))
    return out


def report_page(run: Run, *, trail: str = "") -> Page:
    """What the page about a run holds.

    Args:
        trail: HTML above its title.
    """
    return Page(
        schema=SCHEMA,
        title=f"Sweep {printable_name(run.folder.name)} on {run.plan.get('gpu', '?')}",
        header=header(run),
        sections=sections(run, compare(run)),
        trail=trail,
    )


def plotly_script() -> str:
    """The 5 MB of JavaScript that draw; a browser reads CR LF as LF before it takes a digest."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs()).replace("\r\n", "\n")


def page_html(page: Page, *, plotly_at: str | None = None) -> str:
    """A page as one HTML text.

    Args:
        plotly_at: relative address of a file of :func:`plotly_script`, which several pages share;
            without one the script is in the page, and nothing is read from elsewhere.
    """
    parts = page.sections
    figures = [figure for part in parts for figure in part.figures]
    data = _script_json({"schema": page.schema, "figures": [f.to_dict() for f in figures]})
    scripts = (SCRIPT,) if plotly_at else (plotly_script(), SCRIPT)
    title = html.escape(page.title)
    links = "".join(f'<a href="#{part.key}">{html.escape(part.title)}</a>' for part in parts)
    body = "".join(_section(part) for part in parts)
    # The policy names our scripts by digest: no other script runs and nothing is fetched, whatever
    # the data holds.  A shared script is a file of the site: digests of files need a server.
    sources = ["'self'"] if plotly_at else []
    sources += map(_digest, scripts)
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src {' '.join(sources)}; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="{html.escape(page.schema)}">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f'{page.trail}<header><h1>{title}</h1>{page.header}<nav aria-label="Sections">{links}</nav>'
        f"</header>\n<main>\n{body}</main>\n"
        f'<script type="application/json" id="figures">{data}</script>\n'
        + (f'<script src="{html.escape(plotly_at)}"></script>\n' if plotly_at else "")
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def _digest(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _script_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _section(part: Section) -> str:
    plots = "".join(_plot(figure, alone=_only(part.figures)) for figure in part.figures)
    return (
        f'<section id="{part.key}"><h2>{html.escape(part.title)}</h2>'
        f"{part.before}{plots}{part.after}</section>\n"
    )


def _only(figures: Sequence[Figure]) -> bool:
    return len(figures) == 1


def _plot(figure: Figure, *, alone: bool) -> str:
    # A single plot needs no heading of its own below the section's.
    title = "" if alone else f"<h3>{html.escape(figure.title)}</h3>"
    menu = ""
    if len(figure.views) > 1:
        options = "".join(f"<option>{html.escape(view.name)}</option>" for view in figure.views)
        menu = (
            f'<select id="{figure.key}-view" autocomplete="off" '
            f'aria-label="{html.escape(figure.title)}: what is shown">{options}</select>'
        )
    notes = "".join(f'<p class="note">{html.escape(note)}</p>' for note in figure.notes)
    legend = "".join(
        f'<li><i style="background:{colour}"></i>{html.escape(name)}</li>'
        for name, colour in figure.legend
    )
    if legend:
        legend = f'<ul class="legend">{legend}</ul>'
    words = html.escape(figure.title)
    size = f"height:{figure.height_px}px"
    if figure.min_width_px:
        size += f";min-width:{figure.min_width_px}px"
    plot = (
        f'<div class="plot" id="{figure.key}" role="img" aria-label="{words}" style="{size}"></div>'
    )
    if figure.min_width_px:
        plot = f'<div class="wide" tabindex="0">{plot}</div>'
    data = data_link(figure.key, figure.csv or figure_csv(figure), figure.title)
    return f"{title}{menu}{legend}{plot}{notes}{data}"
