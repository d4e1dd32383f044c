"""Scores of one device beside those of another, of the same pairs under the same recipes.

python -m bench.accuracy.beside RECORD OTHER    # into RECORD; or bench.accuracy --beside OTHER
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.accuracy.record import SCHEMA, Row
from workbench.outfile import write_outfile

__all__ = ["Other", "beside", "beside_table", "main", "read_other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """The record of another device."""

    file: str
    devices: tuple[str, ...]
    rows: dict[tuple[str | bool, ...], Row]


def read_other(path: Path) -> Other:
    """Read a record.

    Raises:
        ValueError: it is none.
    """
    try:
        other = json.loads(path.read_text(encoding="utf-8"))
        if other["schema"] != SCHEMA:
            raise ValueError(f"schema {other['schema']}, not {SCHEMA}")
        return Other(
            file=path.name,
            devices=tuple(sorted({session["device"] for session in other["sessions"]})),
            rows={row.key: row for row in map(Row.from_dict, other["rows"])},
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no record to stand beside ({error})") from error


def beside(rows: Iterable[Row], other: Other) -> dict[str, Any]:
    """Rows that two records share: the same pair's data and model, recipe and scheme.

    Returns:
        JSON-ready; ``apart`` is the relative difference of the scores.
    Raises:
        ValueError: they share none.
    """
    found = []
    for row in rows:
        theirs = other.rows.get(row.key)
        if theirs is None or theirs.digest != row.digest:
            continue
        if row.score is None or theirs.score is None:
            continue
        found.append(
            {
                "pair": row.pair,
                "recipe": row.recipe,
                "score": row.score,
                "other": theirs.score,
                "apart": row.score / theirs.score - 1 if theirs.score else None,
                "same_quantizer": row.quantizer == theirs.quantizer,
            }
        )
    if not found:
        raise ValueError(f"{other.file}: shares no row: measure the same carried pairs there")
    return {"file": other.file, "devices": list(other.devices), "rows": found}


def beside_table(found: dict[str, Any], device: str) -> str:
    """Markdown: both scores of every row."""
    lines = [
        f"| pair | recipe | {device} | {', '.join(found['devices'])} | apart % |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        apart = "" if row["apart"] is None else f"{100 * row['apart']:+.3f}"
        both = f"{row['score']:.5f} | {row['other']:.5f}"
        lines.append(f"| {row['pair']} | {row['recipe']} | {both} | {apart} |")
    return "\n".join(lines)


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    parser = argparse.ArgumentParser(
        prog="bench.accuracy.beside", description=__doc__.split("\n")[0]
    )
    parser.add_argument("record", type=Path, help="of bench.accuracy; written anew")
    parser.add_argument("other", type=Path, help="of another device")
    arguments = parser.parse_args(sys.argv[1:] if given is None else given)
    try:
        own = read_other(arguments.record)
        found = beside(own.rows.values(), read_other(arguments.other))
        content = json.loads(arguments.record.read_text(encoding="utf-8")) | {"beside": found}
        write_outfile(arguments.record, json.dumps(content, indent=1) + "\n")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(beside_table(found, ", ".join(own.devices)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
