"""A page of the site: where it stands among the others, and its words; no script at all."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime

from tiles.version import VERSION
from workbench.reporting.section import Section
from workbench.reporting.site.stored import SCHEMA
from workbench.reporting.site.style import SITE_STYLE
from workbench.reporting.style import STYLE
from workbench.reporting.table import Markup

__all__ = ["PAGES", "badge", "date_text", "link", "page", "trail"]

#: File and title of every page but those of the runs.
PAGES = {
    "index.html": "Overview",
    "formats.html": "Formats",
    "pareto.html": "Time, energy, error",
    "kernels.html": "Kernels",
    "predicted.html": "Predicted against measured",
    "changes.html": "What changed",
}

#: Nothing runs and nothing is fetched, whatever a name holds.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
    "form-action 'none'"
)


def date_text(written: str) -> str:
    """``2026-11-22T10:00:00Z`` as it is read; anything else as it stands."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def link(to: str, text: str) -> Markup:
    """A cell or a part of a sentence that leads to another page."""
    return Markup(f'<a href="{html.escape(to)}">{html.escape(text)}</a>')


def badge(text: str) -> Markup:
    """A word in its colour: measured, predicted, stale, ..."""
    kinds = {"measured": "measured", "passed": "measured", "faster": "measured"}
    return Markup(f'<b class="badge {kinds.get(text, "simulated")}">{html.escape(text)}</b>')


def trail(project: str, up: str = "") -> str:
    """The links to all pages, from a page that lies ``up`` of them."""
    links = "".join(
        f'<a href="{up}{file}">{html.escape(title)}</a>' for file, title in PAGES.items()
    )
    return f'<nav class="pages" aria-label="Pages"><b>{html.escape(project)}</b>{links}</nav>\n'


def page(project: str, file: str, head: str, sections: Sequence[Section], written: str) -> str:
    """A page as HTML.

    Args:
        project: the folder's name.
        file: of :data:`PAGES`.
        head: HTML below the title.
        sections: words and tables; their plots are in their HTML.
        written: date and time in UTC, ISO 8601.
    """
    title = project if file == "index.html" else PAGES[file]
    named = html.escape(f"{PAGES[file]} · {project}")
    own = trail(project).replace(f'<a href="{file}"', f'<a aria-current="page" href="{file}"')
    contents = "".join(f'<a href="#{part.key}">{html.escape(part.title)}</a>' for part in sections)
    if len(sections) > 2:
        contents = f'<nav class="contents" aria-label="Sections">{contents}</nav>'
    else:
        contents = ""
    body = "".join(
        f'<section id="{part.key}"><h2>{html.escape(part.title)}</h2>{part.before}{part.after}'
        "</section>\n"
        for part in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta name="generator" content="{SCHEMA}">\n'
        f"<title>{named}</title>\n<style>{STYLE}{SITE_STYLE}</style>\n</head>\n<body>\n{own}"
        f"<header><h1>{html.escape(title)}</h1>{head}{contents}</header>\n<main>\n{body}</main>\n"
        f'<footer class="note">Written {html.escape(date_text(written))} by workbench '
        f"{html.escape(VERSION)}. All of it lies in this folder: nothing is fetched.</footer>\n"
        "</body>\n</html>\n"
    )
