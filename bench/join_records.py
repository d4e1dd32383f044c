"""Joins records of the table that several GPUs of one name made at once.

    python -m bench.join_records RECORD... --output kernels.json

Lines of one row and problem: the last file's that has a time.  Every line keeps the run that
measured it; nothing is measured anew, bounds are worked out anew from that run's rates and counts.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.bounds import Executed, bound_of
from bench.kernels_record import SCHEMA, record_text
from bench.pipe_rates import Rate
from bench.reach import ROWS
from bench.reach_table import Line, summaries, table_text
from workbench.outfile import check_outfile, write_outfile

__all__ = ["joined", "main"]


def joined(paths: Sequence[Path]) -> dict[str, Any]:
    """One record's content of several files'.

    Raises:
        ValueError: a file cannot be read, is no record of measurements, or is of another GPU than
            the first one.
    """
    sessions: list[dict[str, Any]] = []
    lines: dict[tuple[str, str], Line] = {}
    begun: list[list[str]] = []
    left: list[str] = []
    for path in paths:
        content = _content(path)
        gpus = {one["environment"]["gpu"] for one in (*sessions, *content["sessions"])}
        if len(gpus) > 1:
            raise ValueError(f"{path}: another GPU ({', '.join(sorted(gpus))}): join those of one")
        for kept in map(Line.from_dict, content["lines"]):
            line = _bounded(kept, content["sessions"][kept.session])
            line = replace(line, session=kept.session + len(sessions))
            key = line.row.name, str(line.problem)
            if key not in lines or line.ours is not None:
                lines[key] = line
        sessions += content["sessions"]
        begun += content["begun"]
        left += content["not_measured"]
    there = {f"{row}: {problem}" for row, problem in lines}
    keys = {line.key for line in lines.values()}
    ordered = sorted(lines.values(), key=lambda line: ROWS.index(line.row))
    return {
        "schema": SCHEMA,
        "dry": False,
        "sessions": sessions,
        "table": [one.to_dict() for one in summaries(ordered)],
        "lines": [line.to_dict() for line in ordered],
        "begun": [key for key in begun if tuple(key) not in keys],
        "not_measured": [one for one in dict.fromkeys(left) if one not in there],
    }


def _bounded(line: Line, session: dict[str, Any]) -> Line:
    """The line with its bounds as they are defined now."""
    if not line.bounds:
        return line
    rates = [Rate(**one) for one in session["rates"]]
    executed = {one["problem"]: Executed(**one) for one in session["executed"]}
    bounds = tuple(bound_of(one.name, line.problem, rates, executed) for one in line.bounds)
    return replace(line, bounds=bounds)


def _content(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] == SCHEMA and not content["dry"]:
            return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error}: give files that bench.kernels wrote") from error
    raise ValueError(f"{path}: no measured record of {SCHEMA}: give files that bench.kernels wrote")


def main(given: Sequence[str] | None = None) -> int:
    """Write the joined record and print its table."""
    parser = argparse.ArgumentParser(prog="bench.join_records", description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=Path, metavar="RECORD")
    parser.add_argument("--output", type=Path, required=True, help="a JSON file")
    arguments = parser.parse_args(given)
    try:
        check_outfile(arguments.output, SCHEMA)
        content = joined(arguments.records)
    except ValueError as error:
        parser.error(str(error))
    write_outfile(arguments.output, record_text(content))
    print(table_text(summaries([Line.from_dict(line) for line in content["lines"]])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
