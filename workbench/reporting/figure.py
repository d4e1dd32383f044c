"""What a plot of the page is: plotly traces and layout as plain data, in one or more views."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BAD", "GOOD", "GREY", "Figure", "View", "axis", "label", "recipe_colour"]

GREY = "#888888"  #: reference lines, visible on white and on black
GOOD, BAD = "#2f9e69", "#d9480f"

#: Hue by element (blue E4M3, green E5M2, orange and red INT8), so that formats that multiply
#: alike look alike; mid-tones, to be told apart on a white and on a black page.
_COLOURS = {
    "bf16": "#8a8f98",
    "fp16": "#b08fd8",
    "e4m3-tensor": "#7fbfe6",
    "e4m3-row": "#4292c6",
    "deepseek-fp8": "#3b66d6",
    "e5m2-tensor": "#8fd08a",
    "e5m2-row": "#3fa85b",
    "e5m2-b128": "#1c8a6b",
    "int8-tensor": "#fdae6b",
    "int8-row": "#f0831e",
    "int8-b128": "#d9480f",
    "jetfire": "#c2255c",
}
_OTHERS = ("#a1662f", "#7a7a2a", "#b0568f", "#4f9a94")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One state of a plot; a plot with several gets a menu of their names."""

    name: str
    data: Sequence[Mapping[str, Any]]  #: plotly traces
    layout: Mapping[str, Any]  #: plotly layout; colours of text and grid are the page's


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A plot of the page."""

    key: str  #: element id, letters and dashes
    title: str
    views: Sequence[View]
    height_px: int = 380
    min_width_px: int = 0  #: on a narrower screen the plot scrolls sideways
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)  #: (name, colour)
    notes: Sequence[str] = field(default_factory=tuple)  #: plain text shown below it
    csv: str = ""  #: its data as a file; empty: what the traces hold

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping for the page's script."""
        return {
            "key": self.key,
            "height": self.height_px,
            "views": [{"data": list(v.data), "layout": dict(v.layout)} for v in self.views],
        }


def label(text: object) -> str:
    """Text for a plot.  Plotly reads tags such as ``<a href>`` in labels, so they are escaped."""
    return html.escape(str(text), quote=False)


def recipe_colour(name: str) -> str:
    """A recipe's colour, the same in every plot."""
    # Recipes from extensions take the spare colours in a fixed way.
    return _COLOURS.get(name) or _OTHERS[sum(name.encode()) % len(_OTHERS)]


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """An axis with a title; ``settings`` are plotly's."""
    return {"title": {"text": title}, "automargin": True, **settings}
