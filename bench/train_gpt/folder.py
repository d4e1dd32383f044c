"""The folder of a comparison: its settings and text, and of every run a checkpoint and a result."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.train_gpt.outcome import Outcome, Run, read_outcome
from bench.train_gpt.settings import Settings
from bench.train_gpt.text import Text
from workbench.outfile import unwritable, write_outfile

__all__ = ["SCHEMA", "RunFolder"]

Bytes = npt.NDArray[np.uint8]

SCHEMA = "tile-workbench/train-gpt-plan/1"
SESSIONS = "tile-workbench/train-gpt-sessions/1"


class RunFolder:
    """Paths and the rule that a folder never mixes two settings or two texts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def result(self, run: Run) -> Path:
        """Where a run's outcome stands."""
        return self.path / "results" / f"{run}.json"

    def checkpoint(self, run: Run) -> Path:
        """Where an unfinished run stands."""
        return self.path / "checkpoints" / f"{run}.pt"

    def log(self, run: Run) -> Path:
        """What a run's process printed."""
        return self.path / "logs" / f"{run}.log"

    def mark(self, run: Run) -> Path:
        """Is there once a run of this command has taken a step."""
        return self.path / "begun" / str(run)

    def stepped(self, recipe: str) -> bool:
        """Whether some run of a recipe has taken a step under this command."""
        marks = (self.path / "begun").iterdir()
        return any(mark.name.rpartition("-")[0] == recipe for mark in marks)

    def outcome(self, run: Run) -> Outcome | None:
        """What came of a run so far.

        Raises:
            ValueError: its file holds something else.
        """
        return read_outcome(self.result(run))

    def outcomes(self) -> list[Outcome]:
        """What came of every run of the folder so far, whatever command asked for it.

        Raises:
            ValueError: a file holds something else.
        """
        paths = sorted((self.path / "results").glob("*.json"))
        return [found for path in paths if (found := read_outcome(path)) is not None]

    def open(self, settings: Settings, text: Text) -> None:
        """Make the folder, or go on with it.

        Raises:
            ValueError: it is of other settings or another text, or cannot be written.
        """
        plan = self.path / "training.json"
        if plan.exists():
            if self.settings() != settings:
                raise ValueError(
                    f"{self.path}: begun with other settings or another text: choose another "
                    "--state, or remove it"
                )
        else:
            with unwritable(self.path):
                for name in ("results", "checkpoints", "logs", "begun"):
                    (self.path / name).mkdir(parents=True, exist_ok=True)
                _write(self.path / "train.bin", text.train)
                _write(self.path / "held-out.bin", text.held_out)
            content: dict[str, Any] = {"schema": SCHEMA, "settings": settings.to_dict()}
            write_outfile(plan, json.dumps(content, indent=1) + "\n")
        for mark in (self.path / "begun").iterdir():
            mark.unlink()

    def sessions(self, new: dict[str, Any]) -> list[dict[str, Any]]:
        """Commands that worked on the folder, with one more.

        Raises:
            ValueError: the file of them is damaged, or cannot be written.
        """
        path = self.path / "sessions.json"
        found: list[dict[str, Any]] = []
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))["sessions"]
            except (OSError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: {error}: choose another --state") from error
        found = [*found, new]
        content = {"schema": SESSIONS, "sessions": found}
        write_outfile(path, json.dumps(content, indent=1) + "\n")
        return found

    def settings(self) -> Settings:
        """What the folder was begun with.

        Raises:
            ValueError: it holds something else.
        """
        path = self.path / "training.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("schema") != SCHEMA:
                raise ValueError(f"not a {SCHEMA}")
            return Settings.from_dict(content["settings"])
        except (OSError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{path}: {error}: choose another --state") from error

    def text(self) -> tuple[Bytes, Bytes]:
        """What is trained on and what is held out.

        Raises:
            ValueError: a file is missing or not what it was.
        """
        try:
            parts = [(self.path / name).read_bytes() for name in ("train.bin", "held-out.bin")]
        except OSError as error:
            raise ValueError(f"{self.path}: {error}: choose another --state") from error
        train, held_out = parts
        found = hashlib.sha256(len(train).to_bytes(8, "little") + train + held_out).hexdigest()
        if found != self.settings().text.get("digest"):
            raise ValueError(f"{self.path}: its text has changed: choose another --state")
        return np.frombuffer(train, np.uint8), np.frombuffer(held_out, np.uint8)


def _write(path: Path, content: Bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content.tobytes())
    os.replace(temporary, path)
