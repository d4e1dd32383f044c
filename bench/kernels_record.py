"""The record of the table: written anew after every line, gone on with by the next run."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.reach_table import Line, summaries
from workbench.outfile import check_outfile, write_outfile

__all__ = ["SCHEMA", "Record", "record_text"]

SCHEMA = "tile-workbench/kernels/2"
_NUMBERS = re.compile(r"\[\s+((?:-?[\d.e+-]+,?\s+)+)\]")


def _finite(value: Any) -> Any:
    """JSON has no nan: what was not timed is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def record_text(record: dict[str, Any]) -> str:
    """JSON with a line for each list of numbers."""
    text = json.dumps(_finite(record), indent=1)
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"


class Record:
    """Lines of one or several runs on GPUs of one name; each line names its run."""

    def __init__(self, path: Path | None, session: dict[str, Any], *, dry: bool) -> None:
        """Begin a record, or go on with the one that stands in the file.

        Args:
            path: the file; ``None``: nothing is kept.
            session: commit, command, environment and rates of this run.
            dry: a dry run's record, which is never gone on with.
        Raises:
            ValueError: the file holds something else, or lines of another GPU.
        """
        self._path, self._dry = path, dry
        self.sessions: list[dict[str, Any]] = []
        self.lines: list[Line] = []
        self._begun: list[list[str]] = []  #: begun and not ended: the run was cut off there
        if path is not None:
            check_outfile(path, SCHEMA)
            if not dry and path.exists() and path.stat().st_size:
                self._read(path, session["environment"]["gpu"])
        self.sessions.append(session)

    def _read(self, path: Path, gpu: str) -> None:
        old = json.loads(path.read_text(encoding="utf-8"))
        if old["schema"] != SCHEMA or old["dry"]:
            kind = "a dry run" if old.get("dry") else old["schema"]
            raise ValueError(f"{path}: a record of {kind}: choose another output")
        names = {one["environment"]["gpu"] for one in old["sessions"]} - {gpu}
        if names:
            raise ValueError(
                f"{path}: lines of {', '.join(sorted(names))}, the device is {gpu}: "
                "choose another output"
            )
        try:
            self.lines = [Line.from_dict(line) for line in old["lines"]]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: lines of another table ({error}): choose another output"
            ) from error
        self.sessions, self._begun = old["sessions"], old["begun"]

    def plan(self, lines: Iterable[Line]) -> list[Line]:
        """What is left to measure, in order; what failed or was cut off before comes last."""
        done = {line.key for line in self.lines if not line.wrong}
        failed = {line.key for line in self.lines if line.wrong}
        begun = {tuple(key) for key in self._begun}
        left = [line for line in lines if line.key not in done]
        return sorted(left, key=lambda line: line.key in failed or line.key in begun)

    def begin(self, line: Line, left: Sequence[Line]) -> None:
        """Write down that a line is being measured: should the run be cut off, it comes last."""
        self._begun = [key for key in self._begun if tuple(key) != line.key] + [list(line.key)]
        self._write(left)

    def end(self, line: Line, left: Sequence[Line]) -> Line:
        """Keep a line; it replaces what was kept of the same row and problem."""
        line = replace(line, session=len(self.sessions) - 1)
        self._begun = [key for key in self._begun if tuple(key) != line.key]
        same = line.row.name, line.problem
        self.lines = [one for one in self.lines if (one.row.name, one.problem) != same] + [line]
        self._write(left)
        return line

    def _write(self, left: Sequence[Line]) -> None:
        if self._path is None:
            return
        content = {
            "schema": SCHEMA,
            "dry": self._dry,
            "sessions": self.sessions,
            "table": [one.to_dict() for one in summaries(self.lines)],
            "lines": [one.to_dict() for one in self.lines],
            "begun": self._begun,
            "not_measured": [f"{line.row.name}: {line.problem}" for line in left],
        }
        write_outfile(self._path, record_text(content))
