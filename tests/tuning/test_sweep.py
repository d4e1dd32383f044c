"""Sweeps: nothing measured twice, every configuration accounted for."""

import csv
import gzip
import os
from collections import Counter
from pathlib import Path
from typing import Any

import fake_kernels
import kill_loop
import optuna
import pytest
from optuna.storages import JournalStorage
from sweep_runs import FINE, MANY, SLOW, configs_of, make_plan, sweep

import tuning
from tiles.kernels import Status
from tuning import Progress, Strategy, rejections
from tuning.journal import RunJournal
from tuning.journal_file import JOURNAL
from tuning.rejections import REJECTIONS
from tuning.store import quiet_optuna


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


def test_a_family_that_nothing_prices_is_measured_beside_the_roofline(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run", FINE, simulate=False, max_measurements=3)
    (study,) = tuning.run(plan).studies
    assert [trial.measurement.status for trial in study.trials] == [Status.CORRECT] * 3
    assert len({trial.config for trial in study.trials}) == 3
    assert len({trial.predicted_us for trial in study.trials}) == 1
    # Simulated, the roofline would be all that it finds.
    with pytest.raises(ValueError, match="fake has no cost model for gemm problems"):
        tuning.run(make_plan(tmp_path / "simulated", FINE))


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


@pytest.mark.parametrize("strategy", [Strategy.HYBRID, Strategy.TPE])
def test_same_plan_same_trials(tmp_path: Path, strategy: Strategy) -> None:
    """Another seed is another search, where there is anything to draw."""
    options: dict[str, Any] = {"strategy": strategy, "max_measurements": 24}
    first, again, other = (
        configs_of(sweep(make_plan(tmp_path / name, seed=seed, **options)))
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again
    assert (first != other) == (strategy is Strategy.TPE)


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


def test_of_many_rejections_some_are_listed_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "run")
    space = fake_kernels.FakeKernel().legal_space(plan.studies[0].problem, fake_kernels.GPU.limits)
    (rule,) = {one.rule for one in space.rejected}
    total = len(list(space.rejected))
    monkeypatch.setattr(rejections, "MOST", 5)
    sweep(plan)
    with gzip.open(plan.folder / REJECTIONS, "rt", newline="") as file:
        *shown, last = csv.DictReader(file)
    configs = [str(one.config) for one in space.rejected]
    places = [configs.index(one["config"]) for one in shown]
    assert len(shown) == 5 < total
    assert (places[0], places[-1]) == (0, total - 1)  # from one end of the space to the other
    assert places == sorted(places)
    assert (last["rule"], last["config"]) == (rule, "")
    assert last["reason"] == f"{total - 5} more of this rule"


@pytest.mark.parametrize("share", [None, 0, 0.5, 0.99])
def test_a_table_of_rejections_that_was_cut_is_written_anew(
    tmp_path: Path, share: float | None
) -> None:
    plan = make_plan(tmp_path / "run")
    sweep(plan)
    table = plan.folder / REJECTIONS
    whole = table.read_bytes()
    table.unlink()
    if share is not None:
        table.write_bytes(whole[: int(share * len(whole))])
    sweep(plan)
    assert table.read_bytes() == whole


def test_a_pipe_for_a_table_of_rejections_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    sweep(plan)
    (plan.folder / REJECTIONS).unlink()
    os.mkfifo(plan.folder / REJECTIONS)
    with pytest.raises(ValueError, match=r"rejections\.csv\.gz: not a regular file"):
        sweep(plan)


def test_a_finished_sweep_measures_nothing_more(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run")
    first = sweep(plan)
    files = {path: path.read_bytes() for path in plan.folder.iterdir()}
    assert sweep(plan) == first
    assert {path: path.read_bytes() for path in plan.folder.iterdir()} == files


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
    assert best.config.to_dict()["mode"] == 0
    assert best.measurement.time_us == min(
        t.measurement.time_us for t in study.trials if t.measurement.time_us is not None
    )
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
    from tuning.study_outcomes import StudyOutcomes

    monkeypatch.setattr(StudyOutcomes, "ties", lambda outcomes: list(outcomes.trials)[:2])
    monkeypatch.setattr(Bench, "compare", lambda *_: "the process died with signal 11")
    plan = make_plan(tmp_path / "run", SLOW, simulate=False, strategy=Strategy.EXHAUSTIVE)
    (study,) = sweep(plan).studies
    assert study.not_compared == "the process died with signal 11"
    assert study.best is not None


def test_time_limit_is_shared_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it would take three times the limit."""
    monkeypatch.setattr("tuning.sweep.Bench", kill_loop.TableBench)
    monkeypatch.setattr(kill_loop, "MEASURING_S", 0.036)
    plan = make_plan(
        tmp_path / "run",
        studies=3,
        simulate=False,
        time_limit_s=3.0,
        strategy=Strategy.EXHAUSTIVE,
    )
    run = sweep(plan)
    counts = [len(study.trials) for study in run.studies]
    assert min(counts) >= 1, counts
    assert max(counts) < 84, counts
    assert {study.stopped for study in run.studies} == {"the sweep's time limit was reached"}


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
