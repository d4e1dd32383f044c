"""What a project folder holds: run folders, packages and JSON answers of other verbs."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuning.journal_file import JOURNAL, PACKED
from tuning.stored_plan import PLAN_FILE
from workbench.emission.evidence import EVIDENCE
from workbench.printable import printable_name
from workbench.reporting.site.stored import SITE_FILE

__all__ = ["Answer", "Contents", "Unread", "is_run_folder", "look"]

#: Folders below the project's own that are looked into, and files and folders at most.
MAX_DEPTH = 4
MAX_ENTRIES = 20_000
_HEAD_BYTES = 65_536
_PASSED_OVER = frozenset({"__pycache__", "node_modules", "venv", "site-packages"})
_ANSWER = re.compile(rb'"schema": ?"tile-workbench/(calibration|error|verify)/')


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """Something of the folder that is on no page, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A JSON file of another verb."""

    kind: str  #: "calibration", "error" or "verify"
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Paths by kind, in the order of their names."""

    folder: Path
    runs: tuple[Path, ...]
    packages: tuple[Path, ...]
    answers: tuple[Answer, ...]
    unread: tuple[Unread, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing that a site could be made of, not even a reason."""
        return not (self.runs or self.packages or self.answers or self.unread)

    def name(self, path: Path) -> str:
        """A path below the folder, as it is shown."""
        return printable_name(path.relative_to(self.folder).as_posix())


def is_run_folder(folder: Path) -> bool:
    """Whether a sweep's record, or a part of one, lies in a folder."""
    return any(os.path.lexists(folder / name) for name in (PLAN_FILE, JOURNAL, PACKED))


def look(folder: Path, out: Path) -> Contents:
    """Walk a project folder; nothing is followed out of it.

    Args:
        out: where the site goes; it is passed over, as are other sites, hidden folders and
            environments.
    """
    walk = _Walk(folder, out)
    walk.enter(folder, 0)
    return Contents(
        folder=folder,
        runs=tuple(walk.runs),
        packages=tuple(walk.packages),
        answers=tuple(walk.answers),
        unread=tuple(walk.unread),
    )


class _Walk:
    """One walk over a folder, which stops at runs, packages, links and its own limits."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.root = folder
        self.real = folder.resolve()
        self.out = out.resolve()
        self.runs: list[Path] = []
        self.packages: list[Path] = []
        self.answers: list[Answer] = []
        self.unread: list[Unread] = []
        self.seen = 0

    def leave_out(self, path: Path, reason: str) -> None:
        name = path.relative_to(self.root).as_posix()
        self.unread.append(Unread(name=printable_name(name), reason=reason))

    def enter(self, folder: Path, depth: int) -> None:
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.leave_out(folder, f"cannot be read: {error.strerror or error}")
            return
        for entry in found:
            self.seen += 1
            if self.seen > MAX_ENTRIES:
                if self.seen == MAX_ENTRIES + 1:
                    self.leave_out(
                        Path(entry.path),
                        f"it and what follows: more than {MAX_ENTRIES} files and folders; "
                        "report a smaller folder",
                    )
                return
            if entry.is_symlink():
                self._link(Path(entry.path))
            elif entry.is_dir():
                self._folder(Path(entry.path), depth + 1)
            elif entry.is_file() and entry.name.endswith(".json"):
                self._answer(Path(entry.path))

    def _link(self, path: Path) -> None:
        """A link inside the folder leads to what is found anyway; one out of it is not followed."""
        folder = os.path.isdir(path)
        if path.name.startswith(".") or not (folder or path.suffix == ".json"):
            return
        if folder and not (is_run_folder(path) or os.path.lexists(path / EVIDENCE)):
            return  # nothing that would be on a page
        if not path.resolve().is_relative_to(self.real):
            self.leave_out(path, "a link that leads out of the folder: it is not followed")

    def _folder(self, path: Path, depth: int) -> None:
        hidden = path.name.startswith(".") or path.name in _PASSED_OVER
        if hidden or path.resolve() == self.out or os.path.lexists(path / SITE_FILE):
            return
        if is_run_folder(path):
            self._run(path)
        elif os.path.lexists(path / EVIDENCE):
            if not (path / EVIDENCE).resolve().is_relative_to(self.real):
                self.leave_out(path, f"its {EVIDENCE} is a link that leads out of the folder")
            else:
                self.packages.append(path)
        elif os.path.lexists(path / "pyvenv.cfg"):
            return
        elif depth > MAX_DEPTH:
            if any(_folders(path)):
                self.leave_out(path, f"more than {MAX_DEPTH} folders down: report it by itself")
        else:
            self.enter(path, depth)

    def _run(self, path: Path) -> None:
        try:
            links = [one for one in path.iterdir() if one.is_symlink()]
        except OSError as error:
            self.leave_out(path, f"cannot be read: {error.strerror or error}")
            return
        out = [one.name for one in links if not one.resolve().is_relative_to(self.real)]
        if out:
            self.leave_out(
                path, f"its {printable_name(out[0])} is a link that leads out of the folder"
            )
        else:
            self.runs.append(path)

    def _answer(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                found = _ANSWER.search(stream.read(_HEAD_BYTES))
        except OSError as error:
            self.leave_out(path, f"cannot be read: {error.strerror or error}")
            return
        if found:
            self.answers.append(Answer(kind=found[1].decode(), path=path))


def _folders(path: Path) -> Iterator[Path]:
    try:
        yield from (one for one in path.iterdir() if one.is_dir())
    except OSError:
        yield path  # worth a line all the same
