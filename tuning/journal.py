"""The run folder's journal: optuna's journal file with one writer and few disk syncs.

The lines are those of ``optuna.storages.journal.JournalFileBackend``, which can read the file.
That backend takes a lock and syncs the disk for each of the dozen operations of a trial, and
re-reads the file after each.  Here one process owns the file while it runs, so it reads the
file once, and lines wait in memory until :meth:`RunJournal.flush`.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optuna.storages.journal import BaseJournalBackend

__all__ = ["JOURNAL", "ReadOnlyJournal", "RunJournal", "read_journal", "repair"]

JOURNAL = "journal.log"

#: optuna's operation codes, ``optuna.storages.journal._storage.JournalOperation``.
_OPERATIONS = range(11)
_CREATE_STUDY, _CREATE_TRIAL = 0, 4


def _is_operation(code: object) -> bool:
    return type(code) is int and code in _OPERATIONS


def _scan(path: Path) -> tuple[list[dict[str, Any]], int, str]:
    """Entries up to the first bad line, the bytes they take, and what is wrong with that line.

    Raises:
        ValueError: the file cannot be read.
    """
    entries: list[dict[str, Any]] = []
    good_bytes = 0
    studies: set[str] = set()
    trials = 0
    if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
        raise ValueError(f"{path}: not a regular file: choose another folder or delete it")
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return entries, good_bytes, "is cut off"
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    return entries, good_bytes, "is corrupt"
                if not isinstance(entry, dict) or not _is_operation(entry.get("op_code")):
                    return entries, good_bytes, "is no journal entry"
                # Optuna skips what refers to nothing: a lost line would take results with it.
                if "study_id" in entry and entry["study_id"] not in range(len(studies)):
                    return entries, good_bytes, "refers to a study that no line before it creates"
                if "trial_id" in entry and entry["trial_id"] not in range(trials):
                    return entries, good_bytes, "refers to a trial that no line before it creates"
                if entry["op_code"] == _CREATE_STUDY:
                    studies.add(str(entry.get("study_name")))
                trials += entry["op_code"] == _CREATE_TRIAL
                entries.append(entry)
                good_bytes += len(line)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    return entries, good_bytes, ""


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every entry of a journal.

    Raises:
        ValueError: unreadable, or a line is cut off or corrupt; the message names the line.
    """
    entries, _, fault = _scan(path)
    if fault:
        raise ValueError(
            f"{path}, line {len(entries) + 1} {fault}: run `workbench repair {path.parent}`, "
            f"which sets the rest aside in {path.name}.torn"
        )
    return entries


def repair(folder: Path) -> int:
    """Move everything from the journal's first bad line on to ``journal.log.torn``.

    Entries refer to earlier ones by position, so what follows a bad line cannot be kept.
    Nothing is deleted: the torn file is appended to.

    Returns:
        The number of bytes set aside; 0 when the journal is whole.

    Raises:
        ValueError: there is no journal, or the folder cannot be written.
    """
    path = folder / JOURNAL
    _, good_bytes, fault = _scan(path)
    if not fault:
        return 0
    torn = path.with_name(JOURNAL + ".torn")
    try:
        with path.open("r+b") as journal, torn.open("ab") as aside:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal.seek(good_bytes)
            tail = journal.read()
            aside.write(tail if tail.endswith(b"\n") else tail + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
            journal.truncate(good_bytes)
    except BlockingIOError as error:
        raise ValueError(f"{folder} is being written by another sweep: wait for its end") from error
    except OSError as error:
        raise ValueError(f"{folder}: cannot be repaired: {error.strerror}") from error
    return len(tail)


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


class RunJournal(BaseJournalBackend):
    """The journal of the sweep that owns the folder; a context manager.

    Raises:
        ValueError: the file is damaged, cannot be written, or another sweep owns it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            read_journal(path)  # a damaged journal is reported before anything is written
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise ValueError(self._unwritable(error)) from error
        try:
            # The kernel drops this lock when the process dies, however it dies.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._fresh = read_journal(path)
        except OSError as error:
            os.close(self._fd)
            raise ValueError(
                f"{path.parent} is being written by another sweep: wait or choose another output"
            ) from error
        self._first_fresh = 0  #: number of the first entry that optuna has not read
        self._bytes = os.fstat(self._fd).st_size
        self._waiting: list[str] = []
        self._flushed_at = time.monotonic()

    def _unwritable(self, error: OSError) -> str:
        return (
            f"{self._path}: cannot be written: {error.strerror}: "
            f"free space or choose another output, then run again"
        )

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from that number on; numbers only grow, so earlier ones are forgotten."""
        assert log_number_from >= self._first_fresh
        del self._fresh[: log_number_from - self._first_fresh]
        self._first_fresh = log_number_from
        return list(self._fresh)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries; they are on disk after the next :meth:`flush`."""
        lines = [json.dumps(log, separators=(",", ":")) for log in logs]
        self._waiting += lines
        self._fresh += [json.loads(line) for line in lines]

    def flush(self, older_than_s: float = 0.0) -> None:
        """Write what waits and sync the disk, unless the last time is more recent than that.

        Raises:
            ValueError: the disk is full or the file cannot be written; it is left whole.
        """
        if not self._waiting or time.monotonic() - self._flushed_at < older_than_s:
            return
        data = ("\n".join(self._waiting) + "\n").encode()
        try:
            if os.fstat(self._fd).st_size != self._bytes:
                os.ftruncate(self._fd, self._bytes)  # an interrupted flush left half a line
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
            os.fsync(self._fd)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
            self._waiting = []
            raise ValueError(self._unwritable(error)) from error
        self._bytes += len(data)
        self._waiting = []
        self._flushed_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.flush()
        finally:
            os.close(self._fd)
