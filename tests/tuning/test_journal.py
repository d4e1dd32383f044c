"""The journal: readable by optuna, shared by writers of one host, whole after every fault."""

import errno
import os
import signal
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tuning.journal import RunJournal
from tuning.journal_file import JOURNAL, PACKED, ReadOnlyJournal, read_journal, repair
from tuning.replayed_journal import ReplayedJournal
from tuning.run_storage import RunStorage

ENTRY = {"op_code": 0, "worker_id": "w", "study_name": "s"}


def write_study(path: Path, trials: int = 5) -> None:
    with RunJournal(path) as journal:
        study = optuna.create_study(storage=JournalStorage(journal), study_name="s")
        study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=trials)


@pytest.fixture(autouse=True)
def silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def test_optuna_reads_the_file_with_its_own_backend(tmp_path: Path) -> None:
    write_study(tmp_path / JOURNAL)
    theirs = optuna.load_study(
        study_name="s", storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL)))
    )
    ours = optuna.load_study(
        study_name="s", storage=ReplayedJournal(ReadOnlyJournal(tmp_path / JOURNAL))
    )
    assert len(ours.trials) == 5
    assert ours.trials == theirs.trials


def test_a_second_session_goes_on(tmp_path: Path) -> None:
    write_study(tmp_path / JOURNAL)
    with RunJournal(tmp_path / JOURNAL) as journal:
        study = optuna.load_study(study_name="s", storage=JournalStorage(journal))
        study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=2)
        assert len(study.trials) == 7
    assert repair(tmp_path) == 0


def test_two_writers_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    with RunJournal(path) as one, RunJournal(path) as two:
        first, second = JournalStorage(one), JournalStorage(two)
        optuna.create_study(storage=first, study_name="s")
        for storage in (first, second) * 4:
            study = optuna.load_study(study_name="s", storage=storage)
            study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=2)
            study.enqueue_trial({"x": 3})
        # Of two that take a waiting trial one gets it.
        waiting = [t for t in study.trials if t.state is TrialState.WAITING]
        ours, theirs = (
            s.set_trial_state_values(waiting[0]._trial_id, TrialState.RUNNING)
            for s in (first, second)
        )
        assert (ours, theirs) == (True, False)
        assert first.get_all_trials(0) == second.get_all_trials(0)
        assert [t.number for t in second.get_all_trials(0)] == list(range(len(study.trials)))
        read = ReplayedJournal(ReadOnlyJournal(path))
        assert read.get_all_trials(0) == first.get_all_trials(0)


def test_a_line_cut_by_a_kill_is_set_aside_while_others_are_at_work(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    with RunStorage(tmp_path) as storage:
        optuna.create_study(storage=storage, study_name="s")
        with path.open("ab") as file:
            file.write(b'{"op_code": 4, "wor')
        assert len(read_journal(path)) == 1  # somebody is at it: not reported as damage
        study = optuna.load_study(storage=storage, study_name="s")
        study.optimize(lambda trial: trial.suggest_int("x", 0, 9), n_trials=2)
    assert (tmp_path / "journal.log.torn").read_bytes() == b'{"op_code": 4, "wor\n'
    assert repair(tmp_path) == 0
    with RunStorage(tmp_path) as storage:
        assert len(storage.get_all_trials(0)) == 2


def test_repair_waits_for_those_at_work(tmp_path: Path) -> None:
    with RunStorage(tmp_path) as storage:
        optuna.create_study(storage=storage, study_name="s")
        with (tmp_path / JOURNAL).open("ab") as file:
            file.write(b"{}\n")
        with pytest.raises(ValueError, match="is being written by another sweep"):
            repair(tmp_path)
        with pytest.raises(ValueError, match=r"line 2 is no journal entry: run `work"):
            storage.flush() if storage.get_all_studies() else None
    assert repair(tmp_path) == 3
    assert not list(tmp_path.glob("*.lease"))


def test_a_file_that_shrinks_is_told(tmp_path: Path) -> None:
    journal = RunJournal(tmp_path / JOURNAL)
    journal.append_logs([ENTRY])
    os.truncate(tmp_path / JOURNAL, 3)
    journal.append_logs([ENTRY])
    with pytest.raises(ValueError, match="was cut while it was in use"), journal:
        pass


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_cut_off_line_is_named_and_set_aside(tmp_path: Path, cut: int) -> None:
    path = tmp_path / JOURNAL
    write_study(path)
    whole = path.read_bytes()
    lines = whole.count(b"\n")
    path.write_bytes(whole[:-cut])
    with pytest.raises(ValueError, match=rf"journal\.log, line {lines} is cut off.*repair"):
        RunJournal(path)
    assert path.read_bytes() == whole[:-cut]
    last = whole.splitlines(keepends=True)[-1]
    assert repair(tmp_path) == len(last) - cut
    assert path.read_bytes() == whole[: -len(last)]
    assert (tmp_path / "journal.log.torn").read_bytes().rstrip(b"\n") == last[:-cut].rstrip(b"\n")
    assert len(read_journal(path)) == lines - 1


def test_a_journal_without_a_whole_line_begins_anew_after_repair(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    write_study(path)
    path.write_bytes(path.read_bytes()[:5])
    assert repair(tmp_path) == 5
    assert path.read_bytes() == b""
    write_study(path, 1)
    path.write_bytes(b"")
    for attempt in (RunJournal, read_journal, ReadOnlyJournal):
        with pytest.raises(ValueError, match=r"journal\.log: is empty, but its sweep has recorded"):
            attempt(path)


def test_a_journal_to_which_nothing_was_written_is_a_new_one(tmp_path: Path) -> None:
    for _ in range(2):
        with RunJournal(tmp_path / JOURNAL):
            pass
    write_study(tmp_path / JOURNAL, 1)


def test_an_empty_packed_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / PACKED
    path.touch()
    with pytest.raises(ValueError, match=r"journal\.log\.gz: is empty: bring back a copy"):
        read_journal(path)


@pytest.mark.parametrize("bad", [b"\0\0\0", b"not json", b"[1]", b'{"op_code": 99}', b"\xff{}"])
def test_corrupt_line_in_the_middle_is_named_and_set_aside(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / JOURNAL
    write_study(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], bad + b"\n", *lines[3:]]))
    with pytest.raises(ValueError, match=r"line 4 is (corrupt|no journal entry)"):
        read_journal(path)
    repair(tmp_path)
    assert path.read_bytes() == b"".join(lines[:3])
    assert (tmp_path / "journal.log.torn").read_bytes() == b"".join([bad + b"\n", *lines[3:]])


def test_a_full_disk_leaves_the_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / JOURNAL
    journal = RunJournal(path)
    journal.append_logs([ENTRY])
    journal.flush()
    write = os.write
    left = [30]

    def full(fd: int, data: bytes) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(fd, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)
    journal.append_logs([ENTRY, ENTRY])
    with pytest.raises(ValueError, match="No space left on device: free space"):
        journal.flush()
    monkeypatch.undo()
    with journal:
        pass
    assert len(read_journal(path)) == 1


def test_an_interrupted_entry_was_never_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = RunJournal(tmp_path / JOURNAL)
    journal.append_logs([ENTRY])
    write = os.write

    def interrupted(fd: int, data: bytes) -> int:
        write(fd, data[:20])
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.append_logs([ENTRY, ENTRY])
    monkeypatch.undo()
    with journal:
        assert len(list(journal.read_logs(0))) == 1
        journal.append_logs([ENTRY])
    assert read_journal(tmp_path / JOURNAL) == [ENTRY, ENTRY]


def test_missing_journal_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no journal\.log: name the run folder"):
        repair(tmp_path)
    with pytest.raises(ValueError, match="cannot be written: No such file"):
        RunJournal(tmp_path / "absent" / JOURNAL)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """Opening it would wait for a writer for ever."""
    os.mkfifo(tmp_path / JOURNAL)
    signal.alarm(5)  # ends a run that hangs
    try:
        with pytest.raises(ValueError, match=r"journal\.log: not a regular file"):
            RunJournal(tmp_path / JOURNAL)
    finally:
        signal.alarm(0)


@pytest.mark.parametrize("name", [JOURNAL, f"{JOURNAL}.torn"])
def test_what_a_link_leads_to_is_neither_cut_nor_written(tmp_path: Path, name: str) -> None:
    """A repair emptied the file that a journal led to, and a sweep then wrote into it."""
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.write_bytes(b"mine\n")
    (run / name).symlink_to(elsewhere)
    if name != JOURNAL:
        (run / JOURNAL).write_bytes(b"torn")
    with pytest.raises(ValueError, match=rf"run/{name}: is a link, and what it leads to"):
        repair(run)
    with pytest.raises(ValueError, match=rf"run/{name}: is a link, and what it leads to"):
        RunJournal(run / JOURNAL)
    assert elsewhere.read_bytes() == b"mine\n"
    assert sorted(path.name for path in run.iterdir()) == sorted({JOURNAL, name})
