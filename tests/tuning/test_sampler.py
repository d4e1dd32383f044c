"""Strategies inside optuna studies: legal, new, and the same after every interruption."""

import math
from pathlib import Path
from typing import Any

import fake_kernels
import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState
from sweep_runs import configs_of, make_plan, sweep
from test_strategies import legal_table

from tiles.kernels import ConfigTable, Status
from tiles.kernels.gemm import GemmConfig
from tuning import Plan, Strategy
from tuning.candidates import Candidates
from tuning.records import Measurement
from tuning.strategies.legal_table import diverse_best
from tuning.study import Study, Surplus
from tuning.sweep import _enumerate


@pytest.fixture(autouse=True)
def silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def scalar_distance(a: dict[str, Any], b: dict[str, Any], logarithmic_mode: bool) -> float:
    mode = math.log2 if logarithmic_mode else float
    return (
        (mode(a["mode"]) - mode(b["mode"])) ** 2
        + (math.log2(a["size"]) - math.log2(b["size"])) ** 2
        + (float(a["flag"]) - float(b["flag"])) ** 2
    )


@settings(deadline=None)
@given(
    keep=st.integers(1, 2**24 - 1),
    tried=st.integers(0, 2**24 - 1),
    mode=st.integers(1, 2),
    size=st.integers(16, 256),
    flag=st.booleans(),
)
def test_snap_finds_the_nearest_allowed_configuration(
    keep: int, tried: int, mode: int, size: int, flag: bool
) -> None:
    legal = legal_table(keep)
    allowed = np.array([not tried >> row & 1 for row in range(len(legal))])
    if not allowed.any():
        return
    point = {"mode": mode, "size": size, "flag": flag}
    row = legal.nearest(point, allowed)
    assert allowed[row]
    logarithmic = all(config.mode > 0 for config in legal.table)
    distances = {
        r: scalar_distance(point, legal.params(r), logarithmic)
        for r in range(len(legal))
        if allowed[r]
    }
    assert distances[row] == pytest.approx(min(distances.values()), abs=1e-6)


def test_row_of_an_unknown_configuration_is_none() -> None:
    legal = legal_table()
    assert legal.row({"mode": 0, "size": 48, "flag": False}) is None
    assert legal.row({"mode": 0}) is None
    assert legal.row(legal.params(7)) == 7


class Interrupted(BaseException):
    """A process that ends here."""


def candidates_of(plan: Plan) -> Candidates:
    return _enumerate(plan, plan.studies[0], fake_kernels.price)


def go_on(
    plan: Plan,
    storage: BaseStorage,
    *,
    batch: int = 1,
    stop_after: int | None = None,
    stage: str = "asked",
    announced: list[list[Any]] | None = None,
) -> Study:
    """Open the study and measure until it is exhausted, or cut a trial short."""
    announce = None if announced is None else announced.append
    study = Study(plan, candidates_of(plan), storage, batch=batch, announce=announce)
    done = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal done
        if stage == "blank" and done == stop_after:
            raise Interrupted
        row = study.ask(trial)
        if stage == "asked" and done == stop_after:
            raise Interrupted
        failed = row % 4 == 3
        outcome = Measurement(
            status=Status.RUNTIME if failed else Status.CORRECT,
            simulated=False,
            time_us=None if failed else 10.0 + 37 * row % 84,
        )
        study.tell(trial, row, outcome)
        if stage == "told" and done == stop_after:
            raise Interrupted
        done += 1
        if study.exhausted():
            study.optuna.stop()
        if outcome.time_us is None:
            raise optuna.TrialPruned
        return outcome.time_us

    if not study.exhausted():
        study.optuna.optimize(objective, n_trials=study.budget - study.finished)
    return study


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("stage", ["blank", "asked", "told"])
def test_a_study_cut_short_anywhere_ends_as_if_it_had_not_been(
    strategy: Strategy, stage: str
) -> None:
    plan = make_plan(Path("unused"), strategy=strategy, simulate=False, max_measurements=30)
    whole = go_on(plan, InMemoryStorage(), batch=5)
    asked = len(whole.history.rows)
    assert asked == whole.budget if strategy is not Strategy.HYBRID else asked > 15
    for cut in (2, 9, 15):
        storage = InMemoryStorage()
        with pytest.raises(Interrupted):
            go_on(plan, storage, batch=5, stop_after=cut, stage=stage)
        resumed = go_on(plan, storage, batch=5)
        assert resumed.history.told == whole.history.told


def test_batches_are_announced_before_they_are_measured() -> None:
    plan = make_plan(Path("unused"), strategy=Strategy.MODEL, simulate=False, max_measurements=12)
    announced: list[list[Any]] = []
    study = go_on(plan, InMemoryStorage(), batch=5, announced=announced)
    assert [len(batch) for batch in announced] == [5, 5, 5]
    measured = [study.priced.table.config(row) for row in study.history.rows]
    assert [config for batch in announced for config in batch][:12] == measured


def test_two_processes_share_a_study() -> None:
    """Each sees what the other has asked for, and neither ends the other's trial."""
    plan = make_plan(Path("unused"), simulate=False, max_measurements=20)
    storage = InMemoryStorage()
    studies = [Study(plan, candidates_of(plan), storage, alone=False) for _ in range(2)]
    rows = []
    for number in range(20):
        study = studies[number % 2]
        trial = study.optuna.ask()
        rows.append(study.ask(trial))
        late = Study(plan, candidates_of(plan), storage, alone=False)
        assert not late._queued
        time_us = 10.0 + rows[-1]
        measurement = Measurement(status=Status.CORRECT, simulated=False, time_us=time_us)
        study.tell(trial, rows[-1], measurement)
        study.optuna.tell(trial, time_us)
    assert len(set(rows)) == 20
    for study in studies:
        study.refresh()
        assert study.finished == 20


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "was lost"])
def test_what_a_dead_worker_left_counts_towards_the_budget(waits: bool) -> None:
    """Beside it nothing fresh is drawn, which would be one measurement too many."""
    plan = make_plan(Path("unused"), simulate=False, max_measurements=3)
    storage = InMemoryStorage()
    dead, living = (Study(plan, candidates_of(plan), storage, alone=False) for _ in range(2))
    for _ in range(2):
        trial = living.optuna.ask()
        row = living.ask(trial)
        outcome = Measurement(status=Status.CORRECT, simulated=False, time_us=10.0 + row)
        living.tell(trial, row, outcome)
        living.optuna.tell(trial, outcome.time_us)
    lost = dead.optuna.ask()
    left = dead.ask(lost)
    fresh = living.optuna.ask()  # begun before the queue holds anything
    storage.set_trial_state_values(lost._trial_id, TrialState.FAIL)
    if waits:
        dead.look_around()
        assert dead._queued == {left}
    with pytest.raises(Surplus):
        living.ask(fresh)
    living.optuna.tell(fresh, state=TrialState.PRUNED)
    assert not living.look_around()
    assert not living.idle
    assert living.ask(living.optuna.ask()) == left


def test_trials_that_are_drawn_at_once_differ() -> None:
    plan = make_plan(Path("unused"), strategy=Strategy.MODEL, simulate=False)
    storage = InMemoryStorage()
    studies = [Study(plan, candidates_of(plan), storage, alone=False) for _ in range(3)]
    trials = [study.optuna.ask() for study in studies]
    rows = [study.ask(trial) for study, trial in zip(studies, trials, strict=True)]
    assert len(set(rows)) == 3


@pytest.mark.parametrize("after", [0, 5, 9])
def test_an_interrupted_sweep_tries_what_an_uninterrupted_one_tries(
    tmp_path: Path, after: int
) -> None:
    plan = make_plan(tmp_path / "cut", max_measurements=14, studies=2)
    whole = sweep(make_plan(tmp_path / "whole", max_measurements=14, studies=2))
    seen = 0

    def interrupt(_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(plan, interrupt)
    assert configs_of(sweep(plan)) == configs_of(whole)


def test_seeds_are_half_the_best_and_half_unlike_them() -> None:
    table = ConfigTable.product(
        GemmConfig,
        block_m=(64, 128),
        block_n=(64, 128, 256),
        block_k=(64,),
        group_m=(1, 2),
        num_warps=(4,),
        num_stages=(2, 3, 4),
        tma=(True,),
        persistent=(False, True),
    )
    ranking = np.arange(len(table))
    seeds = diverse_best(table, ranking, 8)
    assert seeds[:4] == [0, 1, 2, 3]
    assert len(set(seeds)) == 8
    points = np.log2(np.stack([table[n] for n in ("block_m", "block_n", "num_stages")], axis=1))
    flags = np.stack([np.log2(table["group_m"]), table["persistent"]], axis=1)
    points = np.concatenate([points, flags], axis=1)
    for index in range(4, 8):
        earlier = points[seeds[:index]]
        assert ((earlier - points[seeds[index]]) ** 2).sum(axis=1).min() >= 2.0
        skipped = [r for r in range(seeds[index]) if r not in seeds[:index]]
        near = [((earlier - points[r]) ** 2).sum(axis=1).min() < 2.0 for r in skipped]
        assert all(near), "a better row that is unlike all before was passed over"


def test_seeds_of_a_small_table_are_all_of_it() -> None:
    table = ConfigTable.product(
        GemmConfig,
        block_m=(64,),
        block_n=(64,),
        block_k=(64,),
        group_m=(1, 8),
        num_warps=(4,),
        num_stages=(2, 3),
        tma=(True,),
        persistent=(False,),
    )
    assert sorted(diverse_best(table, np.array([3, 1, 0, 2]), 9)) == [0, 1, 2, 3]
