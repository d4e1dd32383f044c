"""Sweeps that were interrupted or killed lose nothing and go on."""

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fake_kernels
import pytest
from sweep_runs import SLOW, configs_of, make_plan, start_run, sweep, workers_of

import tuning
from tuning import Progress
from tuning.journal_file import JOURNAL, read_journal


def test_an_interrupt_inside_optunas_bookkeeping_is_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from optuna.study import _optimize

    plan = make_plan(tmp_path / "run")
    close, closed = _optimize._tell_with_warning, 0

    def strike(**arguments: Any) -> Any:
        nonlocal closed
        closed += 1
        if closed == 4:
            raise KeyboardInterrupt
        return close(**arguments)

    monkeypatch.setattr(_optimize, "_tell_with_warning", strike)
    with pytest.raises(KeyboardInterrupt):
        sweep(plan)
    resumed = sweep(plan)
    configs = configs_of(resumed)
    assert len(configs) == len(set(configs)) == plan.max_measurements


@pytest.mark.parametrize("after", [0, 3, 8, 11])
def test_interrupted_sweep_resumes(tmp_path: Path, after: int) -> None:
    plan = make_plan(tmp_path / "run", studies=2)
    seen: list[Progress] = []

    def interrupt(event: Progress) -> None:
        seen.append(event)
        if len(seen) == after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan, interrupt)
    kept = configs_of(tuning.load_run(plan.folder))
    assert len(kept) == after + 1
    resumed: list[Progress] = []
    run = sweep(plan, resumed.append)
    assert len([e for e in resumed if e.trial is not None]) == 24 - after - 1
    assert configs_of(run)[: after + 1] == kept
    assert len(set(configs_of(run))) == 24


@pytest.mark.parametrize("stage", ["parameters", "outcome"])
def test_a_trial_left_running_is_finished(tmp_path: Path, stage: str) -> None:
    """What a killed process leaves: a RUNNING trial, with or without its stored outcome."""
    plan = make_plan(tmp_path / "run")
    whole = sweep(plan)
    journal = plan.folder / JOURNAL
    entries = read_journal(journal)
    cut = max(
        index
        for index, entry in enumerate(entries)
        if ("param_name" in entry if stage == "parameters" else "measurement" in str(entry))
    )
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: cut + 1]))
    events: list[Progress] = []
    run = sweep(plan, events.append)
    assert len([e for e in events if e.trial is not None]) == (stage == "parameters")
    assert configs_of(run) == configs_of(whole)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_signal_ends_worker_and_keeps_the_record(
    tmp_path: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    changes = {"simulate": False, "max_measurements": 7}
    process = start_run(tmp_path / "run", SLOW, tmp_path / "hold", **changes)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n", process.communicate()
    assert workers_of(process.pid)
    os.kill(process.pid, sent)
    process.communicate()
    assert process.returncode != 0
    deadline = time.monotonic() + 120
    while workers_of(process.pid):
        assert time.monotonic() < deadline, "its worker lives on"
        time.sleep(0.02)
    finished = configs_of(tuning.load_run(tmp_path / "run"))
    assert len(finished) >= 3
    run = sweep(make_plan(tmp_path / "run", SLOW, **changes))
    assert configs_of(run)[: len(finished)] == finished
    assert len(set(configs_of(run))) == 7
    # Only the configuration that was cut short may have been checked twice.
    checks = Counter(log.read_text().splitlines())
    assert sorted(checks.values())[-2:] in ([1, 1], [1, 2])
