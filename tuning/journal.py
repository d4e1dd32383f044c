"""The run folder's journal: optuna's journal file, shared by processes of one host, few disk syncs.

The lines are those of ``optuna.storages.journal.JournalFileBackend``, which can read the file.
That backend makes a lock file and syncs the disk for each of the dozen operations of a trial.
Here the kernel's lock on the file itself orders the writers, a process reads only what others
added, and the disk is synced by :meth:`RunJournal.flush`, once a trial.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from optuna.storages.journal import BaseJournalBackend

from tuning.begun_mark import check_begun, is_begun, mark_begun
from tuning.journal_file import (
    EntryCheck,
    bad_line,
    check_writable_place,
    set_aside,
)
from tuning.leases import anyone_alive

__all__ = ["RunJournal"]


class RunJournal(BaseJournalBackend):
    """The journal of a sweep that is at work; a context manager, for one thread.

    A line that another process left cut off is set aside while somebody is at work in the folder;
    otherwise it is reported, because it may have been cut by something else than a kill.

    After a fault (a full disk, a damaged line) entries are kept in memory alone, so that optuna
    ends its trial in good order, and :meth:`flush` reports the fault.

    Raises:
        ValueError: the file is damaged, was emptied or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise ValueError(f"{path}: not a regular file: choose another folder or delete it")
        check_writable_place(path)
        check_begun(path)
        self._begun = is_begun(path)
        self._check = EntryCheck()
        self._fresh: list[dict[str, Any]] = []
        self._first_fresh = 0  #: number of the first entry that optuna has not read
        self._entries = 0
        self._bytes = 0  #: of the entries read or written
        self._held = 0  #: how many times :meth:`exclusive` is open
        self._fault: ValueError | None = None
        self._told = False
        self._dirty = False
        self._synced_at = time.monotonic()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise ValueError(self._unwritable(error)) from error
        try:
            with self.exclusive():
                pass
            if self._fault is not None:
                raise self._fault
        except BaseException:
            os.close(self._fd)
            raise

    def _unwritable(self, error: OSError) -> str:
        return (
            f"{self._path}: cannot be written: {error.strerror}: "
            f"free space or choose another output, then run again"
        )

    @property
    def running(self) -> dict[int, str]:
        """Trials that run, by optuna's id: the worker id that optuna wrote when each began."""
        return self._check.running

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Everything that others wrote is known, and nobody else writes; may be nested."""
        if not self._held:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._held += 1
        try:
            if self._held == 1:
                self._catch_up()
            yield
        finally:
            self._held -= 1
            if not self._held:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _catch_up(self) -> None:
        size = os.fstat(self._fd).st_size
        if size == self._bytes or self._fault is not None:
            return
        if size < self._bytes:
            self._fault = ValueError(
                f"{self._path} was cut while it was in use: run the same command again"
            )
            return
        data = os.pread(self._fd, size - self._bytes, self._bytes)
        entries, good_bytes, fault = self._check.read(data)
        self._fresh += entries
        self._entries += len(entries)
        self._bytes += good_bytes
        if fault == "is cut off" and anyone_alive(self._path.parent):
            try:
                set_aside(self._path, self._fd, self._bytes)
            except OSError as error:
                self._fault = ValueError(self._unwritable(error))
        elif fault:
            self._fault = bad_line(self._path, self._entries + 1, fault)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from that number on; numbers only grow, so earlier ones are forgotten."""
        assert log_number_from >= self._first_fresh
        if not self._held and os.fstat(self._fd).st_size != self._bytes:
            with self.exclusive():
                pass
        del self._fresh[: log_number_from - self._first_fresh]
        self._first_fresh = log_number_from
        return list(self._fresh)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries, after all that others added; on disk after the next :meth:`flush`."""
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        data = "".join(lines).encode()
        with self.exclusive():
            if self._fault is None:
                self._write(data)
            if self._fault is None:
                self._bytes += len(data)
            for line in lines:
                entry = json.loads(line)
                self._check.note(entry)
                self._fresh.append(entry)
            self._entries += len(lines)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.write(self._fd, view)
                if not written:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                view = view[written:]
            self._dirty = True
        except OSError as error:
            self._fault = ValueError(self._unwritable(error))
            self._fault.__cause__ = error
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._bytes)
        except BaseException:  # an interrupt: as if the entries had never been given
            os.ftruncate(self._fd, self._bytes)
            raise

    def flush(self, older_than_s: float = 0.0) -> None:
        """Sync the disk, unless the last time is more recent than that.

        Raises:
            ValueError: the disk is full or the file cannot be written; it is left whole.
        """
        if self._fault is not None:
            self._told = True
            raise self._fault
        if not self._dirty or time.monotonic() - self._synced_at < older_than_s:
            return
        try:
            os.fsync(self._fd)
            if not self._begun:
                mark_begun(self._path)
        except OSError as error:
            self._fault = ValueError(self._unwritable(error))
            self._told = True
            raise self._fault from error
        self._begun = True
        self._dirty = False
        self._synced_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if not self._told:
                self.flush()
        finally:
            os.close(self._fd)
