"""A GPU that is kept busy in turns is slower: what lost before must not win by its own time."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import fake_kernels
import optuna
import pytest
from dated_bench import NOW, THEN, DatedBench, sweep, take_over
from optuna.trial import FrozenTrial, create_trial
from sweep_runs import make_plan

import tuning
from tiles.kernels import Status, TileConfig
from tuning import Measurement, Strategy
from tuning.neighbours import winner
from tuning.objective import Objective
from tuning.records import Environment
from tuning.replay_space import ReplaySpace
from tuning.run_storage import RunStorage
from tuning.study import Study
from tuning.sweep import Again, _enumerate
from tuning.t4 import study_to_t4, t4_text
from tuning.t4_import import import_t4
from tuning.timing import Timing
from tuning.validity import Validity

#: What turns make of a time.
BUSY = 1.1


def own_us(config: TileConfig) -> float:
    """By itself: a near-tie of those with the flag, 4 % behind it those without."""
    values = config.to_dict()
    return (100.0 if values["flag"] else 104.0) + values["mode"] / 10 + values["size"] / 1e4


class BusyBench(DatedBench):
    """Times by themselves, and in turns 10 % more of each."""

    def measure(
        self, study: object, config: TileConfig, environment: bool
    ) -> tuple[Measurement, Environment | None]:
        type(self).measured.append(config)
        time_us = own_us(config)
        found = Measurement(status=Status.CORRECT, simulated=False, time_us=time_us)
        return found, type(self).where

    def compare(  # type: ignore[override]
        self, study: object, configs: Sequence[TileConfig]
    ) -> list[Timing]:
        times = [round(BUSY * own_us(config), 4) for config in configs]
        return [Timing(time_us=one, samples_us=(one,), timing="table") for one in times]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[BusyBench]:
    take_over(monkeypatch)
    monkeypatch.setattr("tuning.sweep.Bench", BusyBench)
    monkeypatch.setattr(BusyBench, "where", THEN)
    monkeypatch.setattr(BusyBench, "measured", [], raising=False)
    return BusyBench


def best_of(study: tuning.StudyRecord) -> TileConfig:
    assert study.best is not None
    return study.best.config


def fastest(study: tuning.StudyRecord) -> TileConfig:
    return min((trial.config for trial in study.trials), key=own_us)


def test_what_was_outpaced_can_be_set_against_times_in_turns(
    tmp_path: Path, bench: type[BusyBench]
) -> None:
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE)
    (study,) = sweep(plan).studies
    assert best_of(study) == fastest(study)
    lost = [trial for trial in study.trials if trial.outpaced]
    assert len(lost) > 12
    for trial in study.trials:
        time_us = trial.measurement.time_us
        assert time_us is not None
        assert trial.beside_turns(time_us) == pytest.approx(BUSY * own_us(trial.config), rel=1e-6)
    space = ReplaySpace.of(study)
    assert space.best == pytest.approx(BUSY * own_us(best_of(study)), rel=1e-6)


def test_a_revalidation_measures_the_winner_again(
    tmp_path: Path, bench: type[BusyBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE)
    before = best_of(sweep(plan).studies[0])
    monkeypatch.setattr(bench, "where", NOW)
    bench.measured.clear()
    (study,) = sweep(plan, Again.REVALIDATE).studies
    assert before in bench.measured
    assert best_of(study) == before


def test_what_comes_after_a_revalidation_is_set_against_own_times(
    tmp_path: Path, bench: type[BusyBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.RANDOM, max_measurements=20
    )
    sweep(plan)
    monkeypatch.setattr(bench, "where", NOW)
    first = best_of(sweep(plan, Again.REVALIDATE).studies[0])
    with monkeypatch.context() as patch:  # nothing is timed in turns: its time is over
        patch.setattr("tuning.search.Turn.spares", lambda *_: False)
        (study,) = sweep(replace(plan, max_measurements=60)).studies
    later = [trial for trial in study.trials[20:] if trial.outpaced]
    assert later
    assert [one.outpaced for one in later] == pytest.approx([BUSY] * len(later), rel=1e-3)
    fresh = [trial.config for trial in study.trials if not trial.stale]
    assert best_of(study) in {first, min(fresh, key=own_us)}
    # In turns at last, those of before take part by what they took by themselves.
    (study,) = sweep(replace(plan, max_measurements=70)).studies
    fresh = [trial.config for trial in study.trials if not trial.stale]
    assert best_of(study) == min(fresh, key=own_us)


def test_an_imported_study_keeps_its_winner_and_may_go_on(
    tmp_path: Path, bench: type[BusyBench]
) -> None:
    plan = make_plan(
        tmp_path / "run", simulate=False, strategy=Strategy.RANDOM, max_measurements=30
    )
    run = sweep(plan)
    (study,) = run.studies
    assert any(trial.outpaced for trial in study.trials)
    file = tmp_path / "study.json"
    file.write_text(t4_text(study_to_t4(run, study)))
    import_t4([file], tmp_path / "back")
    assert tuning.load_run(tmp_path / "back").studies == run.studies
    there = replace(plan, folder=tmp_path / "back")
    lost = {trial.config for trial in study.trials if trial.outpaced}
    with RunStorage(there.folder) as storage:
        found = _enumerate(there, there.studies[0], fake_kernels.price)
        again = Study(there, found, storage)
        again.refresh()
        ties = {
            again.priced.table.config(again.outcomes.trials[number][0])
            for number in again.outcomes.ties()
        }
        assert len(ties) > 2
        assert not ties & lost
        assert again.outcomes.best is not None
        assert again.outcomes.best.config == best_of(study)
    assert best_of(sweep(replace(there, max_measurements=50), Again.ALLOW).studies[0]) not in lost


def trial(number: int, size: int, time_us: float, **attributes: object) -> FrozenTrial:
    found = create_trial(
        params={"size": size},
        distributions={"size": optuna.distributions.IntDistribution(16, 64)},
        value=time_us,
        user_attrs={"measurement": {"time_us": time_us}, **attributes},
    )
    found.number = number
    return found


def test_what_was_measured_here_is_not_outpaced_as_its_file_told() -> None:
    trials = [trial(0, 16, 10.0), trial(1, 32, 9.5, outpaced=1.2), trial(2, 64, 9.9, outpaced=1.2)]
    told = Validity.of({})
    assert told.outpaced(trials, Objective.TIME) == {1: 1.2, 2: 1.2}
    again = Validity.of(
        {"revalidated": {"date": "d", "before": 3, "measurements": {"1": {"time_us": 9.0}}}}
    )
    assert 1 not in again.outpaced(trials, Objective.TIME)


def test_of_repeats_the_one_that_took_turns_counts(tmp_path: Path, bench: type[BusyBench]) -> None:
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE)
    lost = next(one.config for one in sweep(plan).studies[0].trials if one.outpaced)
    with RunStorage(plan.folder) as storage:
        study_id = storage.get_study_id_from_name(plan.study_name(plan.studies[0]))
        first = next(
            one for one in storage.get_all_trials(study_id) if one.params == lost.to_dict()
        )
        outcome = {**first.user_attrs["measurement"], "time_us": 99.0}
        repeat = create_trial(
            params=first.params,
            distributions=first.distributions,
            value=99.0,
            user_attrs={**first.user_attrs, "measurement": outcome},
        )
        number = storage.get_trial_number_from_id(
            storage.create_new_trial(study_id, template_trial=repeat)
        )
        compared = storage.get_study_user_attrs(study_id)["compared"]
        timings = {**compared["timings"], str(number): {"time_us": 105.0}}
        storage.set_study_user_attr(study_id, "compared", {**compared, "timings": timings})
        storage.flush()
    (study,) = tuning.load_run(plan.folder).studies
    assert best_of(study) == lost
    assert study.repeats == 1


def test_neighbours_take_the_winner_of_turns(tmp_path: Path, bench: type[BusyBench]) -> None:
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.EXHAUSTIVE)
    best = best_of(sweep(plan).studies[0])
    with RunStorage(plan.folder) as storage:
        assert winner(storage, plan.study_name(plan.studies[0])) == best.to_dict()
