"""A report as a parser sees it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """What the tests look at: elements with their attributes, text, and scripts."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data + "\n"

    @property
    def figures(self) -> dict[str, Any]:
        """Plot id to its views."""
        parsed = json.loads(self.scripts[0])
        assert parsed["schema"] == "tile-workbench/report/1"
        return {figure["key"]: figure["views"] for figure in parsed["figures"]}

    def headings(self) -> list[str]:
        """Column headings of every table, in order."""
        return re.findall(r"<th [^>]*>([^<]*)</th>", self.source)
