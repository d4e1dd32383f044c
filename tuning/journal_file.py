"""A journal's lines: which are whole, what they create, who runs which trial; and mending a cut."""

import fcntl
import gzip
import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from tuning.begun_mark import check_begun, unmark_begun
from tuning.leases import anyone_alive

__all__ = [
    "JOURNAL",
    "PACKED",
    "EntryCheck",
    "ReadOnlyJournal",
    "bad_line",
    "check_writable_place",
    "read_journal",
    "repair",
    "set_aside",
]

JOURNAL = "journal.log"
#: A finished run's journal as data sets keep it.
PACKED = f"{JOURNAL}.gz"
#: Of a packed journal, unpacked: more is not one of ours.
_MAX_UNPACKED = 2**30

#: optuna's operation codes, ``optuna.storages.journal._storage.JournalOperation``.
_OPERATIONS = range(11)
_CREATE_STUDY, _CREATE_TRIAL, _SET_STATE = 0, 4, 6
#: optuna's trial states, ``optuna.trial.TrialState``.
_RUNNING, _WAITING = 0, 4

_CORRUPT = object()  #: stands for a line that is no JSON


def _is_operation(code: object) -> bool:
    return type(code) is int and code in _OPERATIONS


class EntryCheck:
    """Reads a journal's lines in their order, and knows what each may refer to."""

    def __init__(self) -> None:
        self._studies: set[str] = set()
        self._trials = 0
        self._waiting: set[int] = set()
        #: Trials that run, by optuna's id: the ``worker_id`` of the entry that started each.
        self.running: dict[int, str] = {}

    def read(self, data: bytes) -> tuple[list[dict[str, Any]], int, str]:
        """Entries up to the first bad line, the bytes they take, and what is wrong with that line.

        Args:
            data: what follows the lines that were read before.
        """
        lines = data.split(b"\n")
        tail = lines.pop()
        entries: list[dict[str, Any]] = []
        good_bytes = 0
        for line, entry in zip(lines, _parse(lines), strict=True):
            fault = self._fault(entry)
            if fault:
                return entries, good_bytes, fault
            self.note(entry)
            entries.append(entry)
            good_bytes += len(line) + 1
        return entries, good_bytes, "is cut off" if tail else ""

    def _fault(self, entry: Any) -> str:
        if entry is _CORRUPT:
            return "is corrupt"
        if not isinstance(entry, dict) or not _is_operation(entry.get("op_code")):
            return "is no journal entry"
        # Optuna skips what refers to nothing: a lost line would take results with it.
        if "study_id" in entry and entry["study_id"] not in range(len(self._studies)):
            return "refers to a study that no line before it creates"
        if "trial_id" in entry and entry["trial_id"] not in range(self._trials):
            return "refers to a trial that no line before it creates"
        return ""

    def note(self, entry: dict[str, Any]) -> None:
        """Take an entry as written."""
        code, worker = entry["op_code"], str(entry.get("worker_id"))
        if code == _CREATE_STUDY:
            self._studies.add(str(entry.get("study_name")))
        elif code == _CREATE_TRIAL:
            state = entry.get("state", _RUNNING)
            if state == _RUNNING:
                self.running[self._trials] = worker
            elif state == _WAITING:
                self._waiting.add(self._trials)
            self._trials += 1
        elif code == _SET_STATE:
            trial, state = entry.get("trial_id", -1), entry.get("state")
            if state != _RUNNING:
                self.running.pop(trial, None)
                self._waiting.discard(trial)
            elif trial in self._waiting:  # of two that take a waiting trial the first has it
                self._waiting.discard(trial)
                self.running[trial] = worker


def _parse(lines: list[bytes]) -> list[Any]:
    """The value of every line, ``_CORRUPT`` where there is none."""
    if all(line[:1] == b"{" and line[-1:] == b"}" for line in lines):
        # All at once takes a third of the time; objects that fill whole lines cannot run together.
        try:
            values = json.loads(b"[" + b",".join(lines) + b"]")
        except (ValueError, RecursionError):
            values = []
        if len(values) == len(lines):
            return list(values)
    return [_parse_line(line) for line in lines]


def _parse_line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return _CORRUPT


def _scan(path: Path) -> tuple[list[dict[str, Any]], int, str]:
    """What :meth:`EntryCheck.read` says of a file.

    Raises:
        ValueError: the file cannot be read, or has lost all that was recorded in it.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path}: not a regular file: choose another folder or delete it")
    check_begun(path)
    try:
        return EntryCheck().read(_content(path))
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read: {error.strerror or error}: check its permissions"
        ) from error


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            data = file.read(_MAX_UNPACKED + 1)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cut off or corrupt: bring back a copy") from error
    if not data:  # only finished runs are packed
        raise ValueError(f"{path}: is empty: bring back a copy")
    if len(data) > _MAX_UNPACKED:
        raise ValueError(f"{path}: holds more than {_MAX_UNPACKED} bytes: it is no sweep's journal")
    return data


def check_writable_place(path: Path) -> None:
    """Refuse a journal that leads out of its folder: it is written and cut in place.

    Raises:
        ValueError: it, or the file for what is set aside, is a link.
    """
    for one in (path, path.with_name(path.name + ".torn")):
        if one.is_symlink():
            raise ValueError(
                f"{one}: is a link, and what it leads to would be written: copy the file here"
            )


def bad_line(path: Path, number: int, fault: str) -> ValueError:
    """The error that names a journal's first bad line and the way on."""
    return ValueError(
        f"{path}, line {number} {fault}: run `workbench repair {path.parent}`, "
        f"which sets the rest aside in {path.name}.torn"
    )


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every entry of a journal; a line that somebody writes at this moment is left out.

    Raises:
        ValueError: unreadable, or a line is cut off or corrupt; the message names the line.
    """
    entries, _, fault = _scan(path)
    if fault == "is cut off" and anyone_alive(path.parent):
        return entries  # its writer is at it, or another one will set it aside
    if fault:
        raise bad_line(path, len(entries) + 1, fault)
    return entries


def set_aside(path: Path, fd: int, good_bytes: int) -> int:
    """Move what follows ``good_bytes`` to ``journal.log.torn``; the caller holds the lock.

    Nothing is deleted: the torn file is appended to.

    Returns:
        The number of bytes moved.

    Raises:
        OSError: the folder cannot be written; the journal is left as it was.
    """
    tail = os.pread(fd, os.fstat(fd).st_size - good_bytes, good_bytes)
    with path.with_name(path.name + ".torn").open("ab") as aside:
        aside.write(tail if tail.endswith(b"\n") else tail + b"\n")
        aside.flush()
        os.fsync(aside.fileno())
    os.ftruncate(fd, good_bytes)
    return len(tail)


def repair(folder: Path) -> int:
    """Move everything from the journal's first bad line on to ``journal.log.torn``.

    Entries refer to earlier ones by position, so what follows a bad line cannot be kept.

    Returns:
        The number of bytes set aside; 0 when the journal is whole.

    Raises:
        ValueError: there is no journal or nothing in it where there was, the folder cannot be
            written, or a sweep writes it.
    """
    path = folder / JOURNAL
    check_begun(path)
    if not path.exists():
        raise ValueError(_nothing_to_repair(folder))
    _, good_bytes, fault = _scan(path)
    if not fault:
        return 0
    check_writable_place(path)
    if anyone_alive(folder):
        raise ValueError(f"{folder} is being written by another sweep: wait for its end")
    try:
        with path.open("r+b") as journal:
            fcntl.flock(journal, fcntl.LOCK_EX)
            if not good_bytes:
                unmark_begun(path)
            return set_aside(path, journal.fileno(), good_bytes)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be repaired: {error.strerror}") from error


def _nothing_to_repair(folder: Path) -> str:
    if (folder / PACKED).exists():
        return (
            f"{folder} holds {PACKED}, the packed journal of a finished sweep, which nothing "
            "writes: where it is damaged, bring back a copy"
        )
    if not folder.is_dir():
        return f"{folder}: no such folder: name the run folder of a sweep"
    return f"{folder} holds no {JOURNAL}: name the run folder of a sweep"


class ReadOnlyJournal(BaseJournalBackend):
    """Entries of a finished or running sweep; refuses to add any."""

    def __init__(self, path: Path) -> None:
        self._entries = read_journal(path)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from that number on."""
        return self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Never: the file is open for reading."""
        raise AssertionError("a read-only journal was written to")
