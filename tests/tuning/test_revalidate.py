"""Revalidated sweeps: what is measured again, what counts afterwards, and several at it at once."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fake_kernels
import kill_loop
import pytest
from dated_bench import NOW, THEN, DatedBench, sweep, take_over
from optuna.trial import TrialState
from sweep_runs import MANY, make_plan

import tuning
from tiles.kernels import Status, TileConfig
from tuning import Measurement, Strategy
from tuning.journal_file import JOURNAL
from tuning.neighbours import winner
from tuning.run_storage import RunStorage
from tuning.staleness import staleness
from tuning.stored_plan import PLAN_FILE
from tuning.strategies import LegalTable
from tuning.sweep import Again
from tuning.timing import Timing


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[DatedBench]:
    return take_over(monkeypatch)


def test_revalidating_measures_winners_and_runners_up_alone(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        tmp_path / "run",
        simulate=False,
        studies=2,
        strategy=Strategy.RANDOM,
        max_measurements=30,
    )
    before = sweep(plan)
    first = [
        sorted(
            (t for t in s.trials if t.measurement.time_us is not None),
            key=lambda t: t.measurement.time_us or 0.0,
        )
        for s in before.studies
    ]
    monkeypatch.setattr(DatedBench, "where", NOW)
    DatedBench.measured.clear()
    after = sweep(plan, Again.REVALIDATE)
    assert 2 * 5 <= len(DatedBench.measured) <= 2 * 12
    for study, ranked in zip(after.studies, first, strict=True):
        fresh = [t for t in study.trials if not t.stale]
        assert {t.config for t in fresh} == {t.config for t in ranked[: len(fresh)]}
        assert len(study.trials) == 30
        assert study.environment == NOW
        assert staleness(study, NOW) == []
        assert study.best is not None
        assert study.best.config == ranked[len(fresh) - 1].config  # the order is turned round
        assert study.best.measurement.time_us == pytest.approx(
            1000 / kill_loop.true_time_us(study.best.config)
        )
        with RunStorage(plan.folder) as storage:
            name = next(n for n in plan.studies if n.problem == study.problem)
            assert winner(storage, plan.study_name(name)) == study.best.config.to_dict()
    assert sweep(plan) == after == tuning.load_run(plan.folder)
    assert sweep(plan, Again.REVALIDATE).studies[0].best == after.studies[0].best


def fresh_best(study: tuning.StudyRecord) -> TileConfig:
    """The fastest of what was measured under the new driver."""
    fresh = [t for t in study.trials if t.measurement.time_us is not None and not t.stale]
    return min(fresh, key=lambda t: t.measurement.time_us or 0.0).config


def test_what_is_measured_after_a_revalidation_counts(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.RANDOM, max_measurements=10
    )
    sweep(plan)
    monkeypatch.setattr(DatedBench, "where", NOW)
    stale = sum(bool(t.stale) for t in sweep(plan, Again.REVALIDATE).studies[0].trials)
    assert 0 < stale < 10
    events: list[tuning.Progress] = []
    more = replace(plan, max_measurements=60)
    (study,) = tuning.run(more, events.append, price=fake_kernels.price).studies
    assert [bool(t.stale) for t in study.trials].count(True) == stale
    assert not any(t.stale for t in study.trials[10:])
    true_us = [kill_loop.true_time_us(t.config) for t in study.trials if t.measurement.time_us]
    assert study.best is not None
    assert 1000 / kill_loop.true_time_us(study.best.config) < 1000 / sorted(true_us)[-12]
    assert study.best.config == fresh_best(study) in {t.config for t in study.trials[10:]}
    assert events[-1].best is not None
    assert events[-1].best.config == study.best.config
    with RunStorage(plan.folder) as storage:
        assert winner(storage, plan.study_name(plan.studies[0])) == study.best.config.to_dict()
    # The next revalidation begins with what counts now.
    monkeypatch.setattr(DatedBench, "where", THEN)
    DatedBench.measured.clear()
    sweep(more, Again.REVALIDATE)
    assert study.best.config in DatedBench.measured
    assert set(DatedBench.measured) <= {t.config for t in study.trials if not t.stale}


def test_ties_of_a_later_comparison_take_the_place_of_revalidated_times(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.RANDOM, max_measurements=10
    )
    sweep(plan)
    monkeypatch.setattr(DatedBench, "where", NOW)
    before = sweep(plan, Again.REVALIDATE).studies[0]
    assert before.not_compared == "not here"
    compared: list[TileConfig] = []

    def in_turns(self: object, study: object, configs: Sequence[TileConfig]) -> list[Timing]:
        compared.extend(configs)
        return [
            Timing(time_us=1.0 + i, samples_us=(1.0,), timing="t") for i, _ in enumerate(configs)
        ]

    monkeypatch.setattr(DatedBench, "compare", in_turns)
    # So that every fresh one ties with every other.
    monkeypatch.setattr("tuning.study_outcomes.NEAR", 1e9)
    after = sweep(replace(plan, max_measurements=12)).studies[0]
    stale = {t.config for t in after.trials if t.stale}
    assert stale
    assert not stale & set(compared)
    assert {t.config for t in before.trials if t.measurement.time_us and not t.stale} <= set(
        compared
    )
    interleaved = {t.config for t in after.trials if t.measurement.timing == "t-interleaved"}
    assert interleaved == set(compared)
    assert after.not_compared == ""


def test_a_revalidation_that_was_interrupted_goes_on(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        tmp_path / "run", simulate=False, studies=2, strategy=Strategy.RANDOM, max_measurements=30
    )
    sweep(plan)
    monkeypatch.setattr(DatedBench, "where", NOW)
    DatedBench.measured.clear()

    def stop(event: tuning.Progress) -> None:
        if event.index == 1 and event.finished == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuning.run(plan, stop, price=fake_kernels.price, again=Again.REVALIDATE)
    first, second = tuning.load_run(plan.folder).studies
    assert any(t.stale for t in first.trials)
    assert not any(t.stale for t in second.trials)  # not before all of it is done
    left = len(DatedBench.measured)
    events: list[tuning.Progress] = []
    run = tuning.run(plan, events.append, price=fake_kernels.price, again=Again.REVALIDATE)
    fresh = sum(not t.stale for s in run.studies for t in s.trials)
    assert len(DatedBench.measured) == fresh
    assert len(events) == fresh - left
    assert (events[0].finished, events[-1].finished) == (4, events[-1].budget)
    assert run.studies[0] == first
    # Another change in between: what was measured before it is measured again.
    whole = len(DatedBench.measured)
    monkeypatch.setattr(DatedBench, "where", THEN)
    sweep(plan, Again.REVALIDATE)
    assert len(DatedBench.measured) >= whole + 10


#: Revalidates once every process is there; a line of the log for every measurement.
_REVALIDATE = """
import os, sys, time; sys.path.insert(0, {here!r})
from pathlib import Path
import dated_bench, sweep_runs, tuning, tuning.sweep
class Bench(dated_bench.DatedBench):
    where = dated_bench.NOW
    measured = []
    def start(self, studies):
        ready = Path({log!r} + ".ready")
        ready.mkdir(exist_ok=True)
        (ready / str(os.getpid())).touch()
        for _ in range(6000):
            if len(list(ready.iterdir())) == 2:
                break
            time.sleep(0.01)
    def measure(self, study, config, environment):
        with open({log!r}, "a") as file:
            file.write(f"{{study.plan.problem}} {{config}}\\n")
        time.sleep(0.05)
        return super().measure(study, config, environment)
tuning.sweep.Bench = Bench
plan = sweep_runs.make_plan(Path({folder!r}), **{changes!r}, strategy=tuning.Strategy.RANDOM)
dated_bench.sweep(plan, tuning.sweep.Again.REVALIDATE)
"""


def test_two_processes_that_revalidate_measure_nothing_twice(
    tmp_path: Path, bench: type[DatedBench]
) -> None:
    changes = {"simulate": False, "studies": 2, "max_measurements": 20}
    plan = make_plan(tmp_path / "run", strategy=Strategy.RANDOM, **changes)
    sweep(plan)
    log = tmp_path / "log"
    script = _REVALIDATE.format(
        here=str(Path(__file__).parent), log=str(log), folder=str(plan.folder), changes=changes
    )
    both = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    measured = log.read_text().splitlines()
    assert len(set(measured)) == len(measured)
    fresh = [t for s in tuning.load_run(plan.folder).studies for t in s.trials if not t.stale]
    assert len(fresh) == len(measured) >= 2 * 5


def test_a_trial_that_runs_during_a_revalidation_counts(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.RANDOM, max_measurements=10
    )
    tried = {t.config for t in sweep(plan).studies[0].trials}
    (candidates,) = tuning.sweep.enumerate_studies(plan, fake_kernels.price)
    assert candidates.priced is not None
    table = candidates.priced.table
    row = next(row for row in range(len(table)) if table.config(row) not in tried)
    legal = LegalTable.of(candidates.priced)
    monkeypatch.setattr(DatedBench, "where", NOW)
    with RunStorage(plan.folder) as helper:
        study_id = helper.get_study_id_from_name(plan.study_name(plan.studies[0]))
        running = helper.create_new_trial(study_id)
        for name, value in legal.params(row).items():
            kind = legal.space[name]
            helper.set_trial_param(running, name, kind.to_internal_repr(value), kind)
        helper.flush()
        sweep(plan, Again.REVALIDATE)
        outcome = Measurement(status=Status.CORRECT, simulated=False, time_us=1.0, timing="table")
        helper.set_trial_user_attr(running, "predicted_us", 1.0)
        helper.set_trial_user_attr(running, "predicted_90_us", [1.0, 1.0])
        helper.set_trial_user_attr(running, "measurement", outcome.to_dict())
        helper.set_trial_state_values(running, TrialState.COMPLETE, [1.0])
    (after,) = tuning.load_run(plan.folder).studies
    (ran,) = (t for t in after.trials if t.config == table.config(row))
    assert not ran.stale
    assert after.best == ran


def test_revalidating_takes_another_source(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "run", simulate=False)
    sweep(plan)
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# faster\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    with pytest.raises(ValueError, match="the kernels' source differs"):
        sweep(plan)
    (study,) = sweep(plan, Again.REVALIDATE).studies
    assert staleness(study, None) == []
    assert json.loads((plan.folder / PLAN_FILE).read_text())["sources"] == {MANY: study.source}
    assert (plan.folder / JOURNAL).read_bytes().count(b'"revalidated"') == 1
    assert sweep(plan).studies == (study,)


def test_a_simulated_sweep_has_nothing_to_revalidate(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a simulated sweep has nothing to revalidate"):
        sweep(make_plan(tmp_path / "run"), Again.REVALIDATE)
