"""Pages of a site as the tests look at them."""

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path

__all__ = ["Page", "pages", "rows_of"]


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = False
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._skip = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data + "\n"

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Headings and rows of every table, as plain text."""
        found = []
        for body in re.findall(r"<table>.*?</table>", self.source, re.S):
            heads = re.findall(r"<th [^>]*>(.*?)</th>", body)
            rows = [
                [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
                for row in re.findall(r"<tr>(.*?)</tr>", body)[1:]
            ]
            found.append((heads, rows))
        return found

    def downloads(self) -> dict[str, list[dict[str, str]]]:
        """The CSV files that the page holds, by name."""
        found = {}
        for tag, attributes in self.elements:
            if tag == "a" and "download" in attributes:
                content = str(attributes["href"]).partition("base64,")[2]
                text = base64.b64decode(content).decode()
                found[str(attributes["download"])] = list(csv.DictReader(io.StringIO(text)))
        return found


def pages(folder: Path) -> dict[str, Page]:
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}


def rows_of(page: Page, head: str) -> list[dict[str, str]]:
    """The rows of the first table with a heading, by heading."""
    heads, rows = next(one for one in page.tables() if head in one[0])
    return [dict(zip(heads, row, strict=True)) for row in rows]
