"""A sweep opened to be looked at while it goes on."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.storages.journal import BaseJournalBackend

from tuning.journal_file import JOURNAL, PACKED, EntryCheck, ReadOnlyJournal
from tuning.replayed_journal import ReplayedJournal
from tuning.store import load_run, quiet_optuna

__all__ = ["FollowedJournal", "open_followed"]


class FollowedJournal(BaseJournalBackend):
    """A journal that others write: every look finds what was added; nothing is ever written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._check = EntryCheck()
        self._entries: list[dict[str, Any]] = []
        self._bytes = 0

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from that number on; a line that is not whole yet is left for the next look."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._bytes)
                data = file.read()
        except FileNotFoundError:
            data = b""  # the sweep has not begun
        entries, good_bytes, _ = self._check.read(data)
        self._entries += entries
        self._bytes += good_bytes
        return self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Never.

        Raises:
            ValueError: always.
        """
        raise ValueError("the sweep is open for reading only")


@contextmanager
def open_followed(study: str | Path, storage: str | None) -> Iterator[tuple[BaseStorage, int]]:
    """The optuna storage of a sweep, and how many studies it has.

    Args:
        study: a run folder or, with a storage, the name of a sweep.
        storage: URL of a shared storage.

    Raises:
        ValueError: no such sweep, it is damaged, or the storage does not answer.
    """
    with quiet_optuna():
        if storage is None:
            folder = Path(study)
            run = load_run(folder)  # says what is wrong with it
            packed = not (folder / JOURNAL).exists() and (folder / PACKED).exists()
            journal: BaseJournalBackend
            if packed:
                journal = ReadOnlyJournal(folder / PACKED)
            else:
                journal = FollowedJournal(folder / JOURNAL)
            yield ReplayedJournal(journal), len(run.studies)
        else:
            from tuning.fleet_storage import FleetStorage
            from tuning.shared_sweep import shared_plans

            with FleetStorage(storage) as opened:
                plans = shared_plans(opened, str(study))
                yield opened, sum(len(plan.studies) for plan in plans)
