"""Replay: the sweep's strategies on what was measured, failures included."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from sweep_runs import make_plan, sweep

import tuning
from tiles.kernels import Status
from tuning import Run, Strategy, StudyRecord, TrialRecord
from tuning.records import Measurement
from tuning.replay import Replay, replay
from tuning.replay_space import ReplaySpace

FAILURES = [status for status in Status if status is not Status.CORRECT]


@pytest.fixture(scope="module")
def exhaustive(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("exhaustive") / "run"
    return sweep(make_plan(folder, strategy=Strategy.EXHAUSTIVE, studies=2))


def measured(run: Run) -> Run:
    """As if it had been measured: a third failed, and the model was wrong about the rest."""

    def outcome(index: int, trial: TrialRecord) -> TrialRecord:
        if index % 3 == 0:
            failed = Measurement(status=FAILURES[index % 5], simulated=False, reason="so it was")
            return replace(trial, measurement=failed)
        time_us = trial.predicted_us * (1 + (index * 37 % 11) / 10)
        correct = Measurement(status=Status.CORRECT, simulated=False, time_us=time_us)
        return replace(trial, measurement=correct)

    def study(one: StudyRecord) -> StudyRecord:
        trials = tuple(outcome(index, trial) for index, trial in enumerate(one.trials))
        return replace(one, simulated=False, trials=trials)

    return replace(run, studies=tuple(study(one) for one in run.studies))


def one_curve(found: Replay, strategy: Strategy, study: int = 0) -> Any:
    return next(c for c in found.studies[study].curves if c.strategy is strategy)


@pytest.mark.parametrize("strategy", [Strategy.TPE, Strategy.RANDOM, Strategy.MODEL])
def test_a_replay_asks_for_what_a_sweep_asks_for(
    exhaustive: Run, tmp_path: Path, strategy: Strategy
) -> None:
    plan = make_plan(tmp_path / "run", strategy=strategy, max_measurements=24, seed=5)
    swept = [trial.config for trial in sweep(plan).studies[0].trials]
    seed = (5 + crc32(plan.study_name(plan.studies[0]).encode())) % 2**32
    space = ReplaySpace.of(exhaustive.studies[0])
    walk = space.walk(strategy, seed, 24, batch=1)
    assert [space.legal.table.config(row) for row in walk.rows] == swept


def test_outcomes_are_those_that_were_measured(exhaustive: Run) -> None:
    run = measured(exhaustive)
    space = ReplaySpace.of(run.studies[0])
    by_config = {trial.config: trial.measurement for trial in run.studies[0].trials}
    for row, outcome in enumerate(space.outcomes):
        known = by_config[space.legal.table.config(row)]
        assert (outcome.status, outcome.value) == (known.status, known.time_us)
    assert space.best == min(m.time_us for m in by_config.values() if m.time_us is not None)
    found = replay(run, [Strategy.EXHAUSTIVE], seeds=3)
    failures = one_curve(found, Strategy.EXHAUSTIVE).failures
    assert sum(failures.values()) == 28
    assert failures.keys() == {status.value for status in FAILURES}


def test_curves_rise_to_the_optimum_and_say_where_they_stopped(exhaustive: Run) -> None:
    found = replay(measured(exhaustive), list(Strategy), seeds=4, max_measurements=40)
    for strategy in Strategy:
        for curve in (one_curve(found, strategy), *found.overall):
            for line in (curve.p10, curve.median, curve.p90):
                assert list(line) == sorted(line)
                assert 0 <= line[0] <= line[-1] <= 1
            assert all(a <= b for a, b in zip(curve.p10, curve.p90, strict=True))
    whole = one_curve(found, Strategy.EXHAUSTIVE)
    assert (len(whole.median), whole.median[-1], whole.measurements) == (84, 1.0, (84, 84, 84))
    budgeted = one_curve(found, Strategy.RANDOM)
    assert (len(budgeted.median), budgeted.measurements) == (40, (40, 40, 40))
    assert one_curve(found, Strategy.MODEL).p10 == one_curve(found, Strategy.MODEL).p90


def test_a_simulated_study_is_the_models_own(exhaustive: Run) -> None:
    found = replay(exhaustive, [Strategy.MODEL, Strategy.RANDOM], seeds=5)
    assert one_curve(found, Strategy.MODEL).median[0] == 1.0
    assert one_curve(found, Strategy.RANDOM).median[0] < 1.0
    assert all(study.to_dict()["simulated"] for study in found.studies)


def test_same_seeds_same_replay(exhaustive: Run) -> None:
    run = measured(exhaustive)
    dictionaries = [replay(run, seeds=3, max_measurements=20).to_dict() for _ in range(2)]
    for one in dictionaries:
        assert one.pop("seconds") > 0
    assert dictionaries[0] == dictionaries[1]
    assert dictionaries[0]["schema"] == "tile-workbench/replay/1"
    assert list(dictionaries[0]["studies"][0]["strategies"]) == ["hybrid", "model", "tpe", "random"]


def test_problems_can_be_chosen(exhaustive: Run) -> None:
    problem = str(exhaustive.studies[1].problem)
    found = replay(exhaustive, [Strategy.MODEL], problems=[problem], seeds=1)
    assert [str(study.space.problem) for study in found.studies] == [problem]
    with pytest.raises(ValueError, match="has no study of 'gemm:1x1x1': choose one of gemm:64x64"):
        replay(exhaustive, problems=["gemm:1x1x1"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"seeds": 0}, r"seeds = 0: must lie in 1\.\.10000"),
        ({"seeds": 10_001}, "seeds = 10001"),
        ({"max_measurements": 0}, "max_measurements = 0: must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(exhaustive: Run, arguments: dict[str, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replay(exhaustive, **arguments)  # type: ignore[arg-type]


def test_a_study_that_left_something_out_is_refused(tmp_path: Path) -> None:
    run = sweep(make_plan(tmp_path / "run", max_measurements=12))
    with pytest.raises(ValueError, match="12 of 84 legal configurations were measured: finish"):
        replay(run)
    with pytest.raises(ValueError, match="was chosen by hybrid, which is no fair sample"):
        replay(run, sample=True)
    with pytest.raises(ValueError, match="holds no study yet"):
        replay(replace(run, studies=()))


@pytest.mark.parametrize("sample", [False, True])
def test_stale_results_are_not_replayed(exhaustive: Run, sample: bool) -> None:
    first, *rest = exhaustive.studies[0].trials
    first = replace(first, stale="not measured again on 2026-01-02")
    study = replace(exhaustive.studies[0], trials=(first, *rest))
    with pytest.raises(ValueError, match=r"1 of 84 results are stale \(not .*\), and .*: sweep it"):
        replay(replace(exhaustive, studies=(study,)), sample=sample, seeds=1)


def test_a_random_sample_stands_for_its_space(tmp_path: Path) -> None:
    plan = make_plan(tmp_path / "run", strategy=Strategy.RANDOM, max_measurements=30)
    found = replay(sweep(plan), [Strategy.RANDOM], sample=True, seeds=2)
    entry = found.to_dict()["studies"][0]
    assert (entry["measured_configurations"], entry["legal_configurations"]) == (30, 84)
    assert one_curve(found, Strategy.RANDOM).median[-1] == 1.0


def test_a_study_without_an_optimum_is_refused(exhaustive: Run) -> None:
    failed = Measurement(status=Status.COMPILE, simulated=False, reason="no")
    trials = tuple(replace(t, measurement=failed) for t in exhaustive.studies[0].trials)
    broken = replace(exhaustive, studies=(replace(exhaustive.studies[0], trials=trials),))
    with pytest.raises(ValueError, match="no configuration is correct: there is no optimum"):
        replay(broken)


@pytest.mark.slow
def test_ten_seeds_of_four_strategies_take_a_fifth_of_two_minutes_of_cpu(tmp_path: Path) -> None:
    import sim
    from tiles.problems import parse_problem
    from tuning import Plan, StudyPlan

    study = StudyPlan(problem=parse_problem("gemm:16x4096x4096:bf16:bf16"), kernel="triton_gemm")
    plan = Plan(
        studies=(study,),
        gpu=sim.load_gpu("h200"),
        folder=tmp_path / "run",
        strategy=Strategy.EXHAUSTIVE,
        simulate=True,
    )
    run = tuning.run(plan)
    assert len(run.studies[0].trials) > 1000
    begun = time.process_time()
    replay(run, seeds=10)
    assert time.process_time() - begun < 24  # on a host half as fast; fifty take five times that
