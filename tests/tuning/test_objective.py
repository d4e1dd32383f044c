"""Sweeps for the least energy: who wins, what is stored, and that objectives do not mix."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_kernels
import kill_loop
import pytest
from energy_bench import EnergyBench, true_energy_mj
from fake_kernels import MODES
from optuna.trial import TrialState
from sweep_runs import MANY, make_plan, sweep
from test_shared_sweep import MemoryStorage

import tuning
from sim import load_gpu, price
from sim.energy import launch_energy, priced_energy
from tiles.kernels import kernel
from tiles.problems import parse_problem
from tuning import Measurement, Plan, Run, Strategy
from tuning.bench import Bench
from tuning.energy import Energy
from tuning.fleet import run_shared, work_in_folder
from tuning.interrupts import Interrupts
from tuning.neighbours import winner
from tuning.objective import Objective
from tuning.replay import replay
from tuning.replay_space import ReplaySpace
from tuning.rescue import close_measured
from tuning.run_storage import RunStorage
from tuning.stored_plan import PLAN_FILE
from tuning.sweep import Again
from tuning.t4 import study_to_t4
from tuning.t4_import import import_t4

ENERGY = Objective.ENERGY


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[EnergyBench]:
    monkeypatch.setattr(EnergyBench, "asked", ())
    monkeypatch.setattr(kill_loop, "MEASURING_S", 0.0)
    monkeypatch.setattr("tuning.sweep.Bench", EnergyBench)
    return EnergyBench


def energy_plan(folder: Path, **changes: Any) -> Plan:
    return make_plan(
        folder,
        **{
            "simulate": False,
            "strategy": Strategy.EXHAUSTIVE,
            "objective": ENERGY,
            "kernel": MANY,
            **changes,
        },
    )


def read_energy(trial: tuning.TrialRecord) -> float:
    assert trial.measurement.energy is not None
    return trial.measurement.energy.energy_mj


def test_the_least_energy_wins_though_another_is_faster(
    tmp_path: Path, bench: type[EnergyBench]
) -> None:
    plan = energy_plan(tmp_path / "run")
    (study,) = sweep(plan).studies
    correct = [t for t in study.trials if t.measurement.time_us is not None]
    least = min(correct, key=lambda t: true_energy_mj(t.config))
    fastest = min(correct, key=lambda t: kill_loop.true_time_us(t.config))
    assert study.best is not None
    assert study.best.config == least.config != fastest.config
    (again,) = tuning.load_run(tmp_path / "run").studies
    assert again == study
    assert again.objective is ENERGY


def test_a_trial_holds_time_and_energy_measured_beside_predicted(
    tmp_path: Path, bench: type[EnergyBench]
) -> None:
    plan = energy_plan(tmp_path / "run")
    (study,) = sweep(plan).studies
    for trial in study.trials:
        outcome = trial.measurement
        assert (outcome.energy is None) == (outcome.time_us is None)
        table = fake_kernels.FakeKernel().legal_space(study.problem, plan.gpu.limits).accepted
        priced = fake_kernels.price(study.problem, fake_kernels.FakeKernel(), table, plan.gpu)
        rows = [row for row in range(len(table)) if table.config(row) == trial.config]
        told = launch_energy(priced.prediction(rows[0]), plan.gpu).energy_mj
        assert trial.predicted_energy_mj == pytest.approx(told)
        if outcome.energy is not None:
            assert outcome.energy.power_w == pytest.approx(outcome.energy.energy_mj / 10)
            assert Measurement.from_dict(outcome.to_dict()) == outcome


def test_near_ties_in_energy_are_read_in_turns(tmp_path: Path, bench: type[EnergyBench]) -> None:
    (study,) = sweep(energy_plan(tmp_path / "run")).studies
    assert study.best is not None
    values = [true_energy_mj(t.config) for t in study.trials if t.measurement.energy]
    near = sum(value <= 1.03 * min(values) for value in values)
    assert near > 1, "nothing to compare"
    assert sum(bench.asked) >= near
    assert read_energy(study.best) == pytest.approx(1.01 * min(values))
    assert study.best.measurement.timing == "table-interleaved"


def test_the_winner_in_turns_is_the_one_with_the_least_energy(
    tmp_path: Path, bench: type[EnergyBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turns the least energy takes the longest."""
    compare: Callable[..., Any] = EnergyBench.compare

    def slow(self: EnergyBench, study: object, configs: Any) -> Any:
        found = compare(self, study, configs)
        return [replace(one, time_us=1e6 / one.energy.energy_mj) for one in found]

    monkeypatch.setattr(EnergyBench, "compare", slow)
    events: list[tuning.Progress] = []
    (study,) = sweep(energy_plan(tmp_path / "run"), events.append).studies
    told, best = events[-1].best, study.best
    assert told is not None
    assert best is not None
    assert told.config == best.config
    assert events[-1].objective is ENERGY
    times = [t.measurement.time_us for t in study.trials if "inter" in t.measurement.timing]
    assert best.measurement.time_us == max(time for time in times if time is not None)


def test_neighbouring_m_hand_on_the_least_energy(tmp_path: Path, bench: type[EnergyBench]) -> None:
    plan = energy_plan(tmp_path / "run", studies=2)
    first, _ = sweep(plan).studies
    assert first.best is not None
    with RunStorage(tmp_path / "run") as storage:
        study_id = storage.get_study_id_from_name(plan.study_name(plan.studies[1]))
        handed = storage.get_study_user_attrs(study_id)["neighbours"]
    assert handed == [first.best.config.to_dict()]


def test_optunas_values_are_energies(tmp_path: Path, bench: type[EnergyBench]) -> None:
    plan = energy_plan(tmp_path / "run")
    sweep(plan)
    with RunStorage(tmp_path / "run") as storage:
        study_id = storage.get_study_id_from_name(plan.study_name(plan.studies[0]))
        trials = storage.get_all_trials(study_id)
        for trial in trials:
            assert trial.value == Objective.ENERGY.of_stored(trial.user_attrs["measurement"])
        won = winner(storage, plan.study_name(plan.studies[0]), ENERGY)
        assert won != winner(storage, plan.study_name(plan.studies[0]), Objective.TIME)


def test_a_trial_that_lost_its_worker_is_closed_with_its_energy(
    tmp_path: Path, bench: type[EnergyBench]
) -> None:
    plan = energy_plan(tmp_path / "run")
    sweep(plan)
    with RunStorage(tmp_path / "run") as storage:
        study_id = storage.get_study_id_from_name(plan.study_name(plan.studies[0]))
        done = next(t for t in storage.get_all_trials(study_id) if t.value is not None)
        lost = storage.create_new_trial(study_id)
        for key, value in done.user_attrs.items():
            storage.set_trial_user_attr(lost, key, value)
        assert close_measured(storage, [lost]) == []
        assert storage.get_trial(lost).state is TrialState.COMPLETE
        assert storage.get_trial(lost).value == done.value


def test_a_sweep_that_was_interrupted_ends_as_one_that_was_not(
    tmp_path: Path, bench: type[EnergyBench]
) -> None:
    def stop(event: tuning.Progress) -> None:
        if event.finished == 7 and event.trial is not None:
            raise KeyboardInterrupt

    whole = sweep(energy_plan(tmp_path / "whole", strategy=Strategy.HYBRID))
    plan = energy_plan(tmp_path / "cut", strategy=Strategy.HYBRID)
    with pytest.raises(KeyboardInterrupt):
        sweep(plan, stop)
    assert len(tuning.load_run(plan.folder).studies[0].trials) == 7
    again = work_in_folder(plan.folder, price=fake_kernels.price)
    assert [t.config for t in again.studies[0].trials] == [
        t.config for t in whole.studies[0].trials
    ]
    assert again.studies[0].best == whole.studies[0].best


@pytest.mark.parametrize("first", Objective)
def test_a_study_is_not_continued_under_the_other_objective(
    tmp_path: Path, first: Objective
) -> None:
    other = next(one for one in Objective if one is not first)
    plan = make_plan(tmp_path / "run", objective=first)
    sweep(plan)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    told = rf"\(the objective, {first.value} there and {other.value} here, differs\): choose"
    with pytest.raises(ValueError, match=told):
        sweep(replace(plan, objective=other, max_measurements=40))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_nor_is_one_of_a_shared_storage() -> None:
    storage: Any = MemoryStorage()
    plan = make_plan(Path("night"), shared_name="night")
    run_shared(plan, "", price=fake_kernels.price, storage=storage)
    with pytest.raises(ValueError, match=r"the objective, time there and energy here, differs"):
        run_shared(replace(plan, objective=ENERGY), "", price=fake_kernels.price, storage=storage)


def test_plans_for_time_are_as_they_always_were(tmp_path: Path) -> None:
    sweep(make_plan(tmp_path / "run"))
    stored = json.loads((tmp_path / "run" / PLAN_FILE).read_text())
    assert "objective" not in stored
    run = tuning.load_run(tmp_path / "run")
    assert run.studies[0].objective is Objective.TIME
    assert all(t.predicted_energy_mj is None for t in run.studies[0].trials)
    assert all("energy" not in t.measurement.to_dict() for t in run.studies[0].trials)


def test_an_objective_that_nobody_knows_is_told(tmp_path: Path) -> None:
    sweep(make_plan(tmp_path / "run"))
    path = tmp_path / "run" / PLAN_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"objective": "heat"}))
    with pytest.raises(ValueError, match=r"plan.json: objective 'heat' is not time or energy"):
        tuning.load_run(tmp_path / "run")


def test_simulated_sweeps_rank_by_predicted_energy(tmp_path: Path) -> None:
    def price_hot(*arguments: Any) -> Any:
        """Small sizes are fast and keep the tensor cores busy."""
        priced = fake_kernels.price(*arguments)
        busy = priced.time_us * (1.2 - priced.table["size"] / 128)
        return replace(priced, terms_us={"launch": priced.time_us, "tensor": busy})

    plan = make_plan(tmp_path / "run", objective=ENERGY, strategy=Strategy.MODEL)
    (study,) = tuning.run(plan, price=price_hot).studies
    best = study.best
    assert best is not None
    told = [trial.predicted_energy_mj for trial in study.trials]
    assert told == sorted(told, key=lambda value: value or 0.0), "the model's best first"
    assert best.predicted_energy_mj == told[0]
    assert best.measurement.energy == Energy(energy_mj=told[0] or 0.0, source="simulated")
    assert best.measurement.simulated
    assert best.measurement.energy.power_w is None


def test_tables_are_priced_as_single_launches_are() -> None:
    gpu, problem = load_gpu("h200"), parse_problem("gemm:512x1024x1024:int8-row:bf16")
    one = kernel("triton_gemm")
    priced = price(problem, one, one.legal_space(problem, gpu.limits).accepted, gpu)
    energy = priced_energy(priced, gpu)
    for row in (0, len(priced) // 2, len(priced) - 1):
        alone = launch_energy(priced.prediction(row), gpu)
        assert energy.energy_mj[row] == pytest.approx(alone.energy_mj)
        assert energy.power_w[row] == pytest.approx(alone.power_w)
    # Power's own doubt widens the interval of the time.
    assert (energy.low_mj / energy.energy_mj < priced.low_us / priced.time_us).all()
    assert (energy.high_mj / energy.energy_mj > priced.high_us / priced.time_us).all()


def test_kernels_on_the_host_have_no_energy(tmp_path: Path) -> None:
    plan = energy_plan(tmp_path / "run", kernel="fake_kernels:FineKernel")
    with pytest.raises(ValueError, match="run on the host have no energy counter: search for time"):
        tuning.run(plan, price=fake_kernels.price)
    assert not (tmp_path / "run" / PLAN_FILE).exists()


def test_a_gpu_without_sensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoSensor:
        def hello(self) -> Any:
            return kill_loop.TableBench().environment(None), 0

        def energy_sensor(self) -> str:
            return ""

    study: Any = type("Study", (), {"kernel": type("K", (), {"backend": None})()})()
    plan = energy_plan(tmp_path / "run")
    found = Bench(plan, tuning.JobLimits(), 0, Interrupts())
    monkeypatch.setattr(found, "_worker", lambda device: NoSensor())
    with pytest.raises(ValueError, match="neither NVML nor nvidia-smi says what the GPU draws"):
        found.start([study])


def test_a_revalidation_measures_the_least_energies_again(
    tmp_path: Path, bench: type[EnergyBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = energy_plan(tmp_path / "run")
    before = sweep(plan).studies[0]
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# edited\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    run = tuning.run(plan, price=fake_kernels.price, again=Again.REVALIDATE)
    fresh = [t for t in run.studies[0].trials if not t.stale]
    ranked = sorted(
        (t for t in before.trials if t.measurement.energy), key=lambda t: true_energy_mj(t.config)
    )
    assert {t.config for t in fresh} >= {t.config for t in ranked[:5]}
    assert run.studies[0].best is not None
    assert run.studies[0].best.config == ranked[0].config


@pytest.fixture
def finished(tmp_path: Path, bench: type[EnergyBench]) -> Run:
    return sweep(energy_plan(tmp_path / "finished"))


def test_t4_files_tell_energies_and_come_back(finished: Run, tmp_path: Path) -> None:
    content = study_to_t4(finished, finished.studies[0])
    assert content["results"][0]["objectives"] == ["energy"]
    for result, trial in zip(content["results"], finished.studies[0].trials, strict=True):
        named = {one["name"]: one for one in result["measurements"]}
        predicted = named["predicted_energy"]
        assert (predicted["value"], predicted["unit"]) == (
            pytest.approx((trial.predicted_energy_mj or 0.0) / 1e3),
            "J",
        )
        assert ("energy" in named) == (trial.measurement.energy is not None)
    path = tmp_path / "one.json"
    path.write_text(json.dumps(content))
    import_t4([path], tmp_path / "back")
    back = tuning.load_run(tmp_path / "back")
    assert back.studies == finished.studies
    assert back.studies[0].objective is ENERGY


def test_an_energy_that_was_edited_is_refused(finished: Run, tmp_path: Path) -> None:
    content = study_to_t4(finished, finished.studies[0])
    for entry in next(r for r in content["results"] if r["correctness"])["measurements"]:
        if entry["name"] == "energy":
            entry["value"] *= 0.9
    path = tmp_path / "one.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it was edited"):
        import_t4([path], tmp_path / "back")


def test_a_replay_searches_for_energy(finished: Run) -> None:
    space = ReplaySpace.of(finished.studies[0])
    assert finished.studies[0].best is not None
    assert space.best == read_energy(finished.studies[0].best)
    walk = space.walk(Strategy.MODEL, 0, 8)
    energies = [space.outcomes[row].value for row in walk.rows]
    assert walk.fractions[-1] == space.best / min(e for e in energies if e is not None)
    (told,) = replay(finished, [Strategy.RANDOM], seeds=2).to_dict()["studies"]
    assert told["optimum_mj"] == space.best
    assert "optimum_us" not in told


def test_a_right_answer_without_a_reading_cannot_win(
    tmp_path: Path, bench: type[EnergyBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure: Callable[..., Any] = EnergyBench.measure

    def blind(self: EnergyBench, study: object, config: Any, environment: bool) -> Any:
        outcome, where = measure(self, study, config, environment)
        silent = config.mode == MODES.index("fine")
        return (replace(outcome, energy=None) if silent else outcome), where

    monkeypatch.setattr(EnergyBench, "measure", blind)
    (study,) = sweep(energy_plan(tmp_path / "run")).studies
    assert study.best is not None
    assert study.best.measurement.energy is not None
    assert any(t.measurement.time_us and not t.measurement.energy for t in study.trials)
