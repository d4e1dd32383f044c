"""Sweeps: nothing lost, nothing measured twice, every configuration accounted for."""

import csv
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_kernels
import optuna
import pytest
from optuna.storages import JournalStorage

import sim
import tuning
from tiles.kernels import Status
from tiles.kernels.closure import source_digest
from tuning import Plan, Progress, Strategy, StudyPlan
from tuning.journal import JOURNAL, RunJournal, read_journal
from tuning.store import REJECTIONS, quiet_optuna
from tuning.stored_plan import GPU_FILE, PLAN_FILE
from tuning.worker import JobLimits

LIMITS = JobLimits(check_s=2.0, time_s=2.0)
MANY = "fake_kernels:FakeKernel"
FINE = "fake_kernels:FineKernel"
SLOW = "fake_kernels:SlowKernel"


def make_plan(folder: Path, kernel: str = MANY, studies: int = 1, **changes: Any) -> Plan:
    return Plan(
        studies=tuple(
            StudyPlan(problem=fake_kernels.gemm(m=64 * (i + 1)), kernel=kernel)
            for i in range(studies)
        ),
        folder=folder,
        **{"gpu": fake_kernels.GPU, "simulate": True, "max_measurements": 12, **changes},
    )


def sweep(plan: Plan, progress: Any = lambda _: None) -> tuning.Run:
    return tuning.run(plan, progress, price=fake_kernels.price, limits=LIMITS)


def configs_of(run: tuning.Run) -> list[str]:
    return [f"{s.problem} {t.config}" for s in run.studies for t in s.trials]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_simulated_sweep_records_predictions_as_such(tmp_path: Path, strategy: Strategy) -> None:
    run = sweep(make_plan(tmp_path / "run", studies=2, strategy=strategy))
    expected = 84 if strategy is Strategy.EXHAUSTIVE else 12
    for study in run.studies:
        assert study.simulated
        assert study.environment is None
        assert len(study.trials) == expected
        assert (study.space_size, study.legal_size) == (96, 84)
        assert study.rejected_by_rule == {"small flag": 12}
        for trial in study.trials:
            assert trial.measurement.simulated
            assert trial.measurement.timing == "simulated"
            assert trial.measurement.time_us == trial.predicted_us
            assert trial.predicted_low_us < trial.predicted_us < trial.predicted_high_us
    assert len(set(configs_of(run))) == 2 * expected
    assert tuning.load_run(tmp_path / "run") == run
    if strategy in (Strategy.HYBRID, Strategy.MODEL, Strategy.EXHAUSTIVE):
        best = run.studies[0].best
        assert best is not None
        assert best.measurement.time_us == 16.0


def test_hybrid_starts_with_the_models_best(tmp_path: Path) -> None:
    run = sweep(make_plan(tmp_path / "run"))
    study = run.studies[0]
    predicted = [trial.predicted_us for trial in study.trials]
    assert predicted[:3] == [pytest.approx(16 + 0.1 * mode) for mode in range(3)]
    assert sorted(predicted)[:3] == predicted[:3]
    # The other half of the seeds lies elsewhere: not one more mode of the same.
    modes = [trial.config.to_dict()["mode"] for trial in study.trials]
    assert modes[:3] == [0, 1, 2]
    assert all(abs(mode - earlier) > 1 for mode in modes[3:6] for earlier in modes[:3])


def test_same_plan_same_trials(tmp_path: Path) -> None:
    first = sweep(make_plan(tmp_path / "a", max_measurements=24))
    again = sweep(make_plan(tmp_path / "b", max_measurements=24))
    other = sweep(make_plan(tmp_path / "c", max_measurements=24, seed=1))
    assert configs_of(first) == configs_of(again)
    assert configs_of(first) != configs_of(other)


def test_every_rejection_is_listed_with_its_reason(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    sweep(plan)
    with gzip.open(plan.folder / REJECTIONS, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    kernel = fake_kernels.FakeKernel()
    space = kernel.legal_space(plan.studies[0].problem, fake_kernels.GPU.limits)
    assert [(r["config"], r["status"], r["rule"], r["reason"]) for r in rows] == [
        (str(r.config), r.status.value, r.rule, r.reason) for r in space.rejected
    ]
    assert rows[0]["reason"] == "size 16 with flag"


def test_a_finished_sweep_measures_nothing_more(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    first = sweep(plan)
    files = {path: path.read_bytes() for path in plan.folder.iterdir()}
    assert sweep(plan) == first
    assert {path: path.read_bytes() for path in plan.folder.iterdir()} == files


def test_a_larger_budget_continues(tmp_path: Path) -> None:
    first = sweep(make_plan(tmp_path / "run", max_measurements=5))
    more = sweep(make_plan(tmp_path / "run", max_measurements=20))
    assert configs_of(more)[:5] == configs_of(first)
    assert len(set(configs_of(more))) == 20
    assert json.loads((tmp_path / "run" / PLAN_FILE).read_text())["max_measurements"] == 20


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"strategy": Strategy.TPE}, "strategy"),
        ({"cache": "warm"}, "cache"),
        ({"simulate": False}, "simulate"),
        ({"studies": 2}, "studies"),
        ({"gpu": fake_kernels.gpu(title="another")}, "the GPU file"),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, change: dict[str, Any], key: str) -> None:
    sweep(make_plan(tmp_path / "run"))
    with pytest.raises(ValueError, match=rf"holds another sweep \({key} differs\): choose"):
        sweep(make_plan(tmp_path / "run", **change))


def test_a_sweep_of_other_kernel_source_is_another_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(make_plan(tmp_path / "run"))
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# faster\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    with pytest.raises(ValueError, match=r"holds another sweep \(the kernels' source"):
        sweep(make_plan(tmp_path / "run", max_measurements=20))


def test_plan_file_is_pinned(tmp_path: Path) -> None:
    sweep(make_plan(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / PLAN_FILE).read_text()) == {
        "schema": "tile-workbench/plan/1",
        "gpu": "fake",
        "gpu_sha256": hashlib.sha256(fake_kernels.GPU.text.encode()).hexdigest(),
        "simulate": True,
        "cache": "cold",
        "strategy": "hybrid",
        "seed": 0,
        "max_measurements": 12,
        "time_limit_s": None,
        "sources": {MANY: source_digest(fake_kernels.FakeKernel().template)},
        "studies": [{"problem": "gemm:64x64x64:bf16:bf16", "kernel": MANY}],
    }


def test_the_gpu_file_is_kept_and_given_back(tmp_path: Path) -> None:
    run = sweep(make_plan(tmp_path / "run"))
    assert (tmp_path / "run" / GPU_FILE).read_text() == fake_kernels.GPU.text
    assert tuning.load_run(tmp_path / "run").gpu == run.gpu == fake_kernels.GPU


def test_a_gpu_that_is_not_its_file_is_refused(tmp_path: Path) -> None:
    """What is kept must be what was priced."""
    faster = replace(fake_kernels.GPU, sm_count=200)
    with pytest.raises(ValueError, match="gpu 'fake' was changed after its file was read: write"):
        sweep(make_plan(tmp_path / "run", gpu=faster))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: path.write_text(path.read_text() + "# more\n"), "not the file that"),
        (lambda path: path.write_bytes(b""), "not the file that"),
    ],
)
def test_a_damaged_gpu_file_is_told(tmp_path: Path, damage: Any, says: str) -> None:
    plan = make_plan(tmp_path / "run")
    sweep(plan)
    damage(plan.folder / GPU_FILE)
    files = {path: path.read_bytes() for path in plan.folder.iterdir()}
    for use in (lambda: tuning.load_run(plan.folder), lambda: sweep(plan)):
        with pytest.raises(ValueError, match=rf"gpu\.yaml: .*{says}.*bring back a copy"):
            use()
    assert {path: path.read_bytes() for path in plan.folder.iterdir()} == files


def test_a_plan_of_before_gpu_files_were_kept_means_one_of_ours(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run", gpu=sim.load_gpu("h200"))
    sweep(plan)
    (plan.folder / GPU_FILE).unlink()
    old = {key: value for key, value in plan.to_dict().items() if key != "gpu_sha256"}
    (plan.folder / PLAN_FILE).write_text(json.dumps(old))
    assert tuning.load_run(plan.folder).gpu == sim.load_gpu("h200")
    (plan.folder / PLAN_FILE).write_text(json.dumps({**old, "gpu": "mine"}))
    with pytest.raises(ValueError, match=r"gpu\.yaml: .*bring back a copy"):
        tuning.load_run(plan.folder)


def test_torn_journal_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    sweep(plan)
    journal = plan.folder / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-7])
    lines = len(journal.read_bytes().splitlines())
    files = {path: path.read_bytes() for path in plan.folder.iterdir()}
    with pytest.raises(ValueError, match=rf"line {lines} is cut off"):
        sweep(make_plan(tmp_path / "run", max_measurements=30))
    with pytest.raises(
        ValueError, match=rf"journal\.log, line {lines} is cut off: run `work"
    ) as told:
        tuning.load_run(plan.folder)
    assert "edited" not in str(told.value)
    assert {path: path.read_bytes() for path in plan.folder.iterdir()} == files
    tuning.repair(plan.folder)
    assert len(configs_of(sweep(plan))) == 12


def test_loading_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such run folder"):
        tuning.load_run(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"holds no sweep: plan\.json is missing"):
        tuning.load_run(tmp_path)
    (tmp_path / PLAN_FILE).write_text('{"schema": "tile-work')
    with pytest.raises(ValueError, match="cut off or corrupt"):
        tuning.load_run(tmp_path)
    (tmp_path / PLAN_FILE).write_text('{"schema": "tile-workbench/plan/9"}')
    with pytest.raises(ValueError, match="this version reads 'tile-workbench/plan/1'"):
        tuning.load_run(tmp_path)


def test_unwritable_output_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be made: Not a directory: choose another"):
        sweep(make_plan(tmp_path / "file" / "run"))


def test_a_kernel_that_cannot_serve_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_kernels.FakeKernel, "refusal", lambda *_: "K is odd")
    with pytest.raises(ValueError, match="cannot serve gemm:64x64x64:bf16:bf16: K is odd"):
        sweep(make_plan(tmp_path / "run"))
    assert list((tmp_path / "run").iterdir()) == []


def test_a_study_without_legal_configurations_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiles.kernels import Rule

    monkeypatch.setattr(
        fake_kernels.FakeKernel,
        "rules",
        lambda self, problem, table, limits: [Rule("all", table["size"] > 0, lambda row: "no")],
    )
    events: list[Progress] = []
    run = sweep(make_plan(tmp_path / "run"), events.append)
    assert run.studies[0].trials == ()
    assert run.studies[0].best is None
    assert run.studies[0].rejected_by_rule == {"all": 96}
    assert events[-1].stopped == "no configuration is legal"


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


def test_measured_sweep_of_a_misbehaving_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fake_kernels.FakeKernel,
        "modes",
        ("fine", "compile", "exit", "nan"),
    )
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    # The worker imports the module afresh, so its modes are the indices of the full tuple.
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE, max_measurements=1
    )
    run = sweep(plan)
    study = run.studies[0]
    assert Counter(t.measurement.status for t in study.trials) == {
        Status.CORRECT: 7,
        Status.RUNTIME: 7,
        Status.COMPILE: 7,
        Status.CORRECTNESS: 7,
    }
    assert all(t.measurement.reason for t in study.trials if t.measurement.time_us is None)
    best = study.best
    assert best is not None
    assert best.config.to_dict() == {"mode": 0, "size": 16, "flag": False}
    assert study.environment is not None
    checked = log.read_text().splitlines()
    assert len(checked) == len(set(checked)) == 28
    # Ties were timed in turns and say so.
    tied = [t for t in study.trials if t.measurement.timing == "host-interleaved"]
    assert len(tied) != 1
    assert tuning.load_run(plan.folder) == run
    sweep(plan)
    assert log.read_text().splitlines() == checked


def test_ties_that_cannot_be_compared_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tuning.bench import Bench
    from tuning.study import Study

    monkeypatch.setattr(Study, "ties", lambda study: list(study.trials)[:2])
    monkeypatch.setattr(Bench, "compare", lambda *_: "the process died with signal 11")
    plan = make_plan(tmp_path / "run", SLOW, simulate=False, strategy=Strategy.EXHAUSTIVE)
    (study,) = sweep(plan).studies
    assert study.not_compared == "the process died with signal 11"
    assert study.best is not None


def test_time_limit_is_shared_and_kept(tmp_path: Path) -> None:
    plan = make_plan(
        tmp_path / "run", SLOW, studies=3, simulate=False, time_limit_s=2.0, max_measurements=7
    )
    start = time.monotonic()
    run = sweep(plan)
    assert time.monotonic() - start < 15
    assert [bool(study.trials) for study in run.studies] == [True] * 3
    assert "time limit" in run.studies[0].stopped


_RUN = """
import sys; sys.path.insert(0, {here!r})
from pathlib import Path
import test_sweep
def show(event):
    if event.trial is not None: print(event.finished, flush=True)
test_sweep.sweep(test_sweep.make_plan(Path({folder!r}), {kernel!r}, **{changes!r}), show)
"""


def start_run(folder: Path, kernel: str, **changes: Any) -> "subprocess.Popen[str]":
    script = _RUN.format(
        here=str(Path(__file__).parent), folder=str(folder), kernel=kernel, changes=changes
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"tuning.worker_main" in command and str(pid).encode() in command:
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_signal_ends_worker_and_keeps_the_record(
    tmp_path: Path, sent: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    changes = {"simulate": False, "max_measurements": 7}
    process = start_run(tmp_path / "run", SLOW, **changes)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "3":
        assert process.poll() is None, process.communicate()
    assert workers_of(process.pid)
    os.kill(process.pid, sent)
    process.communicate(timeout=10)
    assert process.returncode != 0
    deadline = time.monotonic() + 5
    while workers_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not workers_of(process.pid)
    finished = configs_of(tuning.load_run(tmp_path / "run"))
    assert len(finished) >= 3
    run = sweep(make_plan(tmp_path / "run", SLOW, **changes))
    assert configs_of(run)[: len(finished)] == finished
    assert len(set(configs_of(run))) == 7
    # Only the configuration that was cut short may have been checked twice.
    checks = Counter(log.read_text().splitlines())
    assert sorted(checks.values())[-2:] in ([1, 1], [1, 2])


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_simulated_run_killed_anywhere_resumes(tmp_path: Path, attempt: int) -> None:
    rng = random.Random(attempt)
    folder = tmp_path / "run"
    kills = 0
    for _ in range(20):
        journal = folder / JOURNAL
        before = journal.stat().st_size if journal.exists() else 0
        process = start_run(folder, MANY, studies=10, max_measurements=60)
        # From the moment it writes: importing takes longer than all of its trials.
        while process.poll() is None and (not journal.exists() or journal.stat().st_size <= before):
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.3))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
        if (folder / JOURNAL).exists():
            tuning.repair(folder)
    assert kills
    run = sweep(make_plan(folder, MANY, studies=10, max_measurements=60))
    assert len(set(configs_of(run))) == len(configs_of(run)) == 600


def test_optuna_log_level_is_restored(tmp_path: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    with quiet_optuna():
        assert optuna.logging.get_verbosity() == optuna.logging.CRITICAL
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def test_names_of_studies(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    sweep(plan)
    with RunJournal(plan.folder / JOURNAL) as journal:
        names = [s.study_name for s in JournalStorage(journal).get_all_studies()]
    assert names == [f"gemm:64x64x64:bf16:bf16|{MANY}|fake|simulated"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_measurements": 0}, "max_measurements = 0: must be at least 1"),
        ({"time_limit_s": 0.0}, "time_limit_s = 0.0: must be positive"),
        ({"seed": -1}, "seed = -1"),
        ({"cache": "hot"}, "choose cold or warm"),
        ({"studies": 0}, "no studies"),
    ],
)
def test_plan_refuses_nonsense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(tmp_path, **changes)
