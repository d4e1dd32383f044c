"""The record of measured accuracies: written anew after every row, gone on with by the next run."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from bench.accuracy.coverage import Coverage
from workbench.outfile import check_outfile, write_outfile
from workbench.ptq.criterion import holds, relative_loss

__all__ = ["BASELINE", "SCHEMA", "AccuracyRecord", "Row", "Status"]

SCHEMA = "tile-workbench/accuracy/1"
BASELINE = "fp32"


class Status(Enum):
    """How a row ended."""

    SCORED = "scored"
    REFUSED = "refused"  #: the quantiser refuses the model, or the recipe (ValueError)
    FAILED = "failed"  #: it, or the quantised model, broke


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A pair under a recipe."""

    pair: str
    family: str
    recipe: str
    scheme: str  #: "" for fp32
    tuned: bool  #: operators may have fallen back until the criterion held
    digest: str  #: of the pair
    quantizer: str  #: digest; "" for fp32
    status: Status
    reason: str = ""  #: why there is no score
    score: float | None = None
    fp32: float | None = None  #: score of the unquantised model in the same run
    seconds: float = 0.0  #: quantising and scoring; says nothing about a kernel
    session: int = 0
    #: What multiplied linear layers, or why no kernel did, by their formats and kind of device.
    ran: dict[str, str] = field(default_factory=dict)
    #: Outputs beside those of the same codes on the CPU, and what quantising costs there: norms of
    #: differences over the exact outputs' norm; where it was asked for (``--twin``).
    apart: float | None = None
    noise: float | None = None

    @property
    def key(self) -> tuple[str | bool, ...]:
        """What a row measures: a record holds each once."""
        return (self.pair, self.recipe, self.scheme, self.tuned)

    @property
    def stamp(self) -> tuple[str, str]:
        """What must be as it was for the score to count."""
        return (self.digest, self.quantizer)

    @property
    def change(self) -> float | None:
        """Of the score, relative to fp32's: -0.01 is a loss of 1 %."""
        if self.score is None or self.fp32 is None or self.fp32 == 0:
            return None
        return 0.0 - relative_loss(self.fp32, self.score)

    def within(self, criterion: float) -> bool:
        """Whether at most so much of fp32's score is lost; without a score it is not."""
        return self.change is not None and holds(-self.change, criterion)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"status": self.status.value, "change": self.change}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Row":
        """Read what :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: a field that is missing, unknown or no status.
        """
        given = {name: one for name, one in data.items() if name != "change"}
        return cls(**given | {"status": Status(given["status"])})


class AccuracyRecord:
    """Rows of one or several runs; each names its run, which names versions and command."""

    def __init__(self, path: Path | None, session: dict[str, Any], *, criterion: float) -> None:
        """Begin a record, or go on with the one that stands in the file.

        Args:
            path: the file; ``None``: nothing is kept.
            session: versions and command of this run.
            criterion: largest relative loss that counts as none.
        Raises:
            ValueError: the file holds something else, or is damaged.
        """
        self._path, self._criterion = path, criterion
        self.sessions: list[dict[str, Any]] = []
        self.rows: list[Row] = []
        self.cards: dict[str, dict[str, Any]] = {}
        self._begun: list[list[str | bool]] = []
        #: The same rows in the record of another device (``bench.accuracy.beside``).
        self.beside: dict[str, Any] | None = None
        if path is not None:
            check_outfile(path, SCHEMA)
            if path.exists() and path.stat().st_size:
                self._read(path)
        self.sessions.append(session)

    def _read(self, path: Path) -> None:
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
            if old["schema"] != SCHEMA:
                raise ValueError(f"schema {old['schema']}, not {SCHEMA}")
            self.rows = [Row.from_dict(row) for row in old["rows"]]
            self.sessions, self.cards, self._begun = old["sessions"], old["pairs"], old["begun"]
            self.beside = old.get("beside")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: not gone on with ({error}): choose another output"
            ) from error

    def find(self, row: Row) -> Row | None:
        """The row of the same key and stamp that has a score or a refusal.

        What failed is tried again, and what is stale is measured anew.
        """
        for one in self.rows:
            if one.key == row.key and one.stamp == row.stamp and one.status is not Status.FAILED:
                return one
        return None

    def cut_off(self, row: Row) -> bool:
        """Whether a run ended while it measured this row."""
        return list(row.key) in self._begun

    def begin(self, row: Row) -> None:
        """Write down that a row is being measured: should the run be cut off, it comes last."""
        if not self.cut_off(row):
            self._begun.append(list(row.key))
        self.write()

    def end(self, row: Row) -> Row:
        """Keep a row in place of what was kept under its key."""
        row = replace(row, session=len(self.sessions) - 1)
        self._begun = [key for key in self._begun if key != list(row.key)]
        self.rows = [one for one in self.rows if one.key != row.key] + [row]
        self.write()
        return row

    def open_pair(self, pair: str, digest: str, card: dict[str, Any]) -> None:
        """Take a pair's card; rows of other data or another model under its name are forgotten."""
        stale = [row for row in self.rows if row.pair == pair and row.digest != digest]
        self.rows = [row for row in self.rows if row not in stale]
        known = {} if stale else self.cards.get(pair, {})
        kept = {name: known[name] for name in ("outliers",) if name in known}
        self.cards[pair] = card | kept

    def coverages(self) -> list[Coverage]:
        """Of every recipe, scheme and way of tuning, over all families and over each."""
        groups: dict[tuple[str, str, bool], list[Row]] = {}
        for row in self.rows:
            if row.recipe != BASELINE:
                groups.setdefault((row.recipe, row.scheme, row.tuned), []).append(row)
        found = []
        for (recipe, scheme, tuned), rows in groups.items():
            families: Iterable[str] = ("", *dict.fromkeys(row.family for row in rows))
            for family in families:
                taken = [row for row in rows if family in ("", row.family)]
                changes = {row.pair: row.change for row in taken}
                found.append(
                    Coverage.of(
                        recipe=recipe,
                        scheme=scheme,
                        tuned=tuned,
                        family=family,
                        changes=changes,
                        criterion=self._criterion,
                    )
                )
        return found

    def write(self) -> None:
        """Write the file, if one is kept."""
        if self._path is None:
            return
        content = {
            "schema": SCHEMA,
            "criterion": self._criterion,
            "sessions": self.sessions,
            "coverage": [asdict(one) | {"share": one.share} for one in self.coverages()],
            "pairs": self.cards,
            "rows": [row.to_dict() for row in self.rows],
            "begun": self._begun,
        }
        if self.beside is not None:
            content["beside"] = self.beside
        write_outfile(self._path, json.dumps(_finite(content), indent=1) + "\n")


def _finite(value: Any) -> Any:
    """JSON has no nan: a score that is none is null."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
