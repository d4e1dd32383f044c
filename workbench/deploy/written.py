"""What was written for a serving engine from a sweep, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.deploy.kept_keys import KeptKeys
from workbench.deploy.measured import LeftOut
from workbench.deploy.tuned import Entry

__all__ = ["WRITTEN_SCHEMA", "WrittenConfigs", "WrittenRow"]

WRITTEN_SCHEMA = "tile-workbench/tuned-files-written/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenRow:
    """One row of a file that was written."""

    path: Path
    m: int
    problem: str
    entry: Entry
    time_us: float
    loss: float  #: how much slower than the fastest configuration of its study, eligible or not
    eligible: int  #: entries that the study has a time for
    simulated: bool
    of_m: int  #: where it was measured: another M than the key's, where keys were chosen

    def __str__(self) -> str:
        how = "simulated" if self.simulated else "measured"
        at = "" if self.of_m == self.m else f" at M {self.of_m}"
        than = "the fastest of all"
        if self.loss > 0:
            than = f"{100 * self.loss:.1f} % slower than the fastest, which no entry can say"
        return (
            f"{self.path.name}: M {self.m}: {self.time_us:.2f} us {how}{at}, chosen from "
            f"{self.eligible} entries, {than}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenConfigs:
    """What :func:`write_configs` wrote."""

    target: str
    files: tuple[Path, ...]
    rows: tuple[WrittenRow, ...]
    left_out: tuple[LeftOut, ...]  #: studies that no file speaks of, each with the reason
    #: M of rows that an earlier run wrote, and that stay, by file.
    kept: Mapping[Path, tuple[int, ...]] = field(default_factory=dict)
    #: How the keys of each file were chosen; empty where every tuned M is one.
    keys: Mapping[Path, KeptKeys] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The files, their keys, what each row was chosen from, and what was left out."""
        return [
            *map(str, self.files),
            *(f"{path.name}: {kept}" for path, kept in self.keys.items()),
            *map(str, self.rows),
            *(
                f"{path.name}: M {', '.join(map(str, ms))} stay as an earlier run wrote them"
                for path, ms in self.kept.items()
            ),
            *(f"left out: {one}" for one in self.left_out),
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping; measured and simulated times have names of their own."""
        return {
            "schema": WRITTEN_SCHEMA,
            "target": self.target,
            "files": [str(path) for path in self.files],
            "rows": [
                {
                    "path": str(row.path),
                    "m": row.m,
                    "of_m": row.of_m,
                    "problem": row.problem,
                    "entry": row.entry.to_dict(),
                    "simulated_us" if row.simulated else "measured_us": row.time_us,
                    "slower_than_fastest": row.loss,
                    "chosen_from": row.eligible,
                }
                for row in self.rows
            ],
            "kept": {str(path): list(ms) for path, ms in self.kept.items()},
            "keys": {str(path): kept.to_dict() for path, kept in self.keys.items()},
            "left_out": [{"study": one.study, "reason": one.reason} for one in self.left_out],
        }
