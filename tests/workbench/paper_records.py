"""Records that the papers' page rests on, and the page's rows."""

import json
from typing import Any

from bench.papers import PAGE

ROOT = PAGE.parents[1]


def record(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return content


def at(path: str, pointer: str) -> Any:
    """What a JSON pointer names."""
    found: Any = record(path)
    for key in pointer.split("/")[1:]:
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def rows() -> list[list[str]]:
    """Cells of the tables' rows: claim, place, measured, predicted."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| the paper's claim")
    ]
    assert all(len(cells) == 4 for cells in found)
    return found
