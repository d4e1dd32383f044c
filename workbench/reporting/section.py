"""A part of a page: words, plots and tables below one heading."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from workbench.reporting.figure import Figure

__all__ = ["Section", "facts_list", "paragraph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page."""

    key: str  #: element id
    title: str
    before: str = ""  #: HTML ahead of the plots
    figures: Sequence[Figure] = field(default_factory=tuple)
    after: str = ""  #: HTML behind them


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text; ``kind`` is its class."""
    return f'<p class="{kind}">{html.escape(text)}</p>'


def facts_list(facts: Mapping[str, object]) -> str:
    """Names and values beside one another; what is ``None`` is left out."""
    listed = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in facts.items()
        if value is not None
    )
    return f"<dl>{listed}</dl>"
