"""Optuna's storage on a run folder's journal, for as many processes of one host as wanted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Optuna's interface for "which trials have lost their worker"; it has no public name.
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.trial import FrozenTrial

from tuning.journal import RunJournal
from tuning.journal_file import JOURNAL
from tuning.leases import Lease, is_alive
from tuning.replayed_journal import ReplayedJournal
from tuning.rescue import close_measured, requeue_callback
from tuning.store import whole

__all__ = ["RunStorage"]

#: Optuna wakes a thread so often to tell that a trial lives; here the lease tells it.
_NEVER_S = 10**6


class RunStorage(ReplayedJournal, BaseHeartbeat):
    """The storage of a sweep at work; a context manager.

    A trial whose process is gone is known by the process's lease, and ``Study.optimize`` puts it
    back into the queue before it begins the next one.

    Raises:
        ValueError: the journal is damaged, or the folder cannot be written.
    """

    idle_s = 0.3  #: how often a process without work looks whether another one has died

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.journal = RunJournal(folder / JOURNAL)
        try:
            with whole(folder / JOURNAL):
                super().__init__(self.journal)
            #: What optuna writes into every entry of this process, and the name of its lease.
            self._name = self._worker_id_prefix.rstrip("-")
            self._callback = requeue_callback()
            self._lease = Lease(folder, self._name)
        except OSError as error:
            self.journal.__exit__(None, None, None)
            raise ValueError(
                f"{folder}: cannot be written: {error.strerror}: choose another output"
            ) from error
        except BaseException:
            self.journal.__exit__(None, None, None)
            raise

    @contextmanager
    def choosing(self, study_name: str) -> Iterator[None]:
        """While a configuration is chosen and claimed, no other process chooses."""
        with self.journal.exclusive():
            yield

    @contextmanager
    def comparing(self, study_name: str) -> Iterator[bool]:
        """True for one process at a time, and for the next one when that one dies."""
        study_id = self.get_study_id_from_name(study_name)
        with self.journal.exclusive():
            by = self.get_study_user_attrs(study_id).get("comparing", "")
            mine = by in ("", self._name) or not is_alive(self._folder, by)
            if mine:
                self.set_study_user_attr(study_id, "comparing", self._name)
        try:
            yield mine
        finally:
            if mine:
                self.set_study_user_attr(study_id, "comparing", "")

    def flush(self, older_than_s: float = 0.0) -> None:
        """See :meth:`tuning.journal.RunJournal.flush`."""
        self.journal.flush(older_than_s)

    def record_heartbeat(self, trial_id: int) -> None:
        """Nothing: the lease tells that the process lives."""

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        alive: dict[str, bool] = {self._name: True}
        dead = []
        for trial_id, worker in self.journal.running.items():
            name = worker[: len(self._name)]
            if name not in alive:
                alive[name] = is_alive(self._folder, name)
            if not alive[name]:
                dead.append(trial_id)
        if not dead:
            return []
        ours = {trial._trial_id for trial in self.get_all_trials(study_id, deepcopy=False)}
        return close_measured(self, (trial_id for trial_id in dead if trial_id in ours))

    def get_heartbeat_interval(self) -> int:
        """Seconds between heartbeats, which are not needed."""
        return _NEVER_S

    def get_heartbeat_stale_trial_callback(self) -> Callable[[Any, FrozenTrial], None]:
        """What happens to a trial that lost its process."""
        return self._callback

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.journal.__exit__(kind, value, traceback)
        finally:
            self._lease.release()
