"""``kill -9`` at random moments: nothing completed is lost, nothing is measured twice."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fake_kernels
import kill_loop
import pytest

import tuning
from tuning.journal_file import JOURNAL, repair
from tuning.run_storage import RunStorage


def killed_run(folder: Path, strategy: str, workers: int, kills: int) -> tuning.Run:
    here = Path(__file__).parent
    done = subprocess.run(
        [
            *(sys.executable, str(here / "kill_loop.py"), str(folder), strategy),
            *(str(workers), str(kills), "1"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return tuning.load_run(folder)


def best_us(study: tuning.StudyRecord) -> float:
    assert study.best is not None
    return kill_loop.true_time_us(study.best.config)


def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, *, kills: int) -> None:
    runs = [killed_run(tmp_path / "one", strategy, workers=1, kills=kills)]
    if kills < 10 or strategy != "hybrid":
        runs.append(killed_run(tmp_path / "two", strategy, workers=2, kills=kills))
    monkeypatch.setattr(tuning.sweep, "Bench", kill_loop.TableBench)
    whole = tuning.run(
        kill_loop.plan_of(tmp_path / "whole", strategy, kills), price=fake_kernels.price
    )
    for workers, resumed in enumerate(runs, 1):
        for study, uninterrupted in zip(resumed.studies, whole.studies, strict=True):
            assert study.repeats == 0
            configs = [trial.config for trial in study.trials]
            if strategy == "hybrid" and workers == 2:
                # Each draws without the outcome of what the other measures: another search from
                # the same advice, whose winner may be another one.  That nothing is lost, nothing
                # is measured twice and the budget holds is exact; how good the winner is is not:
                # the bar is the spread of such searches, not what a kill costs.
                assert len(configs) == 60
                assert best_us(study) <= 1.1 * best_us(uninterrupted)
                continue
            others = set(configs) - {t.config for t in uninterrupted.trials}
            if strategy == "model" and workers == 2:
                # A worker that draws while the other has begun and not drawn leaves it a place; if
                # the other dies there and nothing is left to draw, one further down was measured.
                assert len(configs) == len(uninterrupted.trials)
                assert len(others) <= 1
            else:
                assert not others
                assert len(configs) == len(uninterrupted.trials)
            assert best_us(study) == best_us(uninterrupted)


@pytest.mark.parametrize("strategy", ["exhaustive", "hybrid"])
def test_four_kills_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    check(tmp_path, monkeypatch, strategy, kills=4)


def test_workers_that_share_a_model_guided_study_measure_nothing_twice(tmp_path: Path) -> None:
    run = killed_run(tmp_path / "run", "tpe", workers=3, kills=0)
    (study,) = run.studies
    assert study.repeats == 0
    assert len(study.trials) == 60
    with RunStorage(tmp_path / "run") as storage:
        trials = storage.get_all_trials(0)
    begun = Counter(str(sorted(trial.params.items())) for trial in trials if trial.params)
    assert max(begun.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["exhaustive", "model", "hybrid"])
def test_fifty_kills_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    check(tmp_path, monkeypatch, strategy, kills=50)


def test_a_dead_workers_trials_wait_again_and_a_living_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The loop replaces them for its whole process, which here is that of the other tests too.
    monkeypatch.setattr(tuning.sweep, "Bench", tuning.sweep.Bench)
    plan = kill_loop.plan_of(tmp_path / "run", "model")
    kill_loop.sweep(plan)
    lines = (plan.folder / JOURNAL).read_bytes().splitlines(keepends=True)
    cut = max(n for n, line in enumerate(lines) if b'"param_name"' in line)
    (plan.folder / JOURNAL).write_bytes(b"".join(lines[: cut + 1]))
    assert repair(plan.folder) == 0
    with RunStorage(plan.folder) as living:
        assert len(living.journal.running) == 1
        (study,) = [s for s in living.get_all_studies() if living._get_stale_trial_ids(s._study_id)]
        mine = living.create_new_trial(study._study_id)
        with RunStorage(plan.folder) as other:
            dead = other._get_stale_trial_ids(study._study_id)
            assert len(dead) == 1
            assert mine not in dead
