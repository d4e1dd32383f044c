"""Neighbouring problems: which are near, whose winners are tried first, and that they are kept."""

from pathlib import Path
from typing import Any

import fake_kernels
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from sweep_runs import MANY, configs_of, sweep

import tuning
from tiles.problems import Problem, parse_problem
from tuning import Plan, StudyPlan
from tuning.candidates import Candidates
from tuning.neighbours import KEPT, distance, neighbours, winner, winning_params
from tuning.study import Study
from tuning.sweep import _enumerate

EXTENT = st.integers(1, 4096)
SHAPE = st.tuples(EXTENT, EXTENT, EXTENT)


@pytest.fixture(autouse=True)
def silence() -> None:
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)


def plan_over(folder: Path, *shapes: tuple[int, int, int], **changes: Any) -> Plan:
    studies = tuple(StudyPlan(problem=fake_kernels.gemm(*shape), kernel=MANY) for shape in shapes)
    return Plan(studies=studies, gpu=fake_kernels.GPU, folder=folder, simulate=True, **changes)


def plan_over_m(folder: Path, *rows: int, **changes: Any) -> Plan:
    return plan_over(folder, *((m, 64, 64) for m in rows), **changes)


def candidates_of(plan: Plan) -> Candidates:
    return _enumerate(plan, plan.studies[0], fake_kernels.price)


def gave(storage: InMemoryStorage, plan: Plan, which: int, size: int) -> None:
    """Store a study whose one trial is of that size."""
    study = optuna.create_study(study_name=plan.study_name(plan.studies[which]), storage=storage)
    sizes: dict[str, BaseDistribution] = {"size": IntDistribution(16, 4096)}
    measured = {"measurement": {"time_us": 1.0}}
    study.add_trial(
        optuna.create_trial(
            params={"size": size}, distributions=sizes, value=1.0, user_attrs=measured
        )
    )


@given(one=SHAPE, other=SHAPE, third=SHAPE)
def test_distance_is_a_metric_of_extents(
    one: tuple[int, int, int], other: tuple[int, int, int], third: tuple[int, int, int]
) -> None:
    a, b, c = (fake_kernels.gemm(*shape) for shape in (one, other, third))
    assert distance(a, b) == distance(b, a)
    assert (distance(a, b) == 0) == (one == other)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-8


def test_distance_adds_ratios_up() -> None:
    start = fake_kernels.gemm(64, 64, 64)
    doubled, halved, both = (
        distance(start, fake_kernels.gemm(*shape))
        for shape in ((64, 128, 64), (64, 64, 32), (128, 64, 32))
    )
    assert doubled == halved == pytest.approx(0.6931, abs=1e-4)
    assert both == pytest.approx(2 * doubled)
    other: Problem = parse_problem("quantize:64x64:int8.row:bf16")
    with pytest.raises(ValueError, match="different kinds"):
        distance(start, other)


def test_neighbours_are_nearest_first_and_of_the_same_work(tmp_path: Path) -> None:
    plan = plan_over_m(tmp_path / "run", 64, 4096, 16, 256, 128)
    wide = StudyPlan(problem=fake_kernels.gemm(m=64, n=96), kernel=MANY)
    family = StudyPlan(problem=fake_kernels.gemm(m=100), kernel="fake_kernels:FineKernel")
    formats = StudyPlan(problem=parse_problem("gemm:72x64x64:fp16:fp16"), kernel=MANY)
    out = StudyPlan(problem=parse_problem("gemm:72x64x64:bf16:fp32"), kernel=MANY)
    kind = StudyPlan(problem=parse_problem("quantize:64x64:int8.row:bf16"), kernel=MANY)
    plan = Plan(
        studies=(*plan.studies, wide, family, formats, out, kind),
        gpu=plan.gpu,
        folder=plan.folder,
        simulate=True,
    )
    found = [one.problem.shape[:2] for one in neighbours(plan, plan.studies[0])]
    # A wider one is nearer than twice the rows; 16 and 256 rows are as far, the smaller is first.
    assert found == [(64, 96), (128, 64), (16, 64), (256, 64), (4096, 64)]
    for alone in (family, formats, out, kind):
        assert neighbours(plan, alone) == []


def test_each_m_opens_with_its_neighbours_winners(tmp_path: Path) -> None:
    """The winner at M = 64 is the model's worst at M = 128, and is measured there first."""
    run = tuning.run(plan_over_m(tmp_path / "run", 64, 128, max_measurements=8), price=upside_down)
    best = run.studies[0].best
    assert best is not None
    assert run.studies[1].trials[0].config == best.config
    assert run.studies[1].trials[0].predicted_us > run.studies[1].trials[1].predicted_us


def upside_down(problem: Any, kernel: Any, table: Any, gpu: object) -> Any:
    """Prices whose order is the other way round at M = 64."""
    priced = fake_kernels.price(problem, kernel, table, gpu)
    if problem.m == 64:
        for column in (priced.time_us, priced.low_us, priced.high_us):
            column[:] = column[::-1].copy()
    return priced


def test_another_shapes_winner_is_tried_where_n_and_k_differ_too(tmp_path: Path) -> None:
    plan = plan_over(tmp_path / "run", (64, 64, 64), (128, 256, 32), max_measurements=8)
    run = tuning.run(plan, price=upside_down)
    best = run.studies[0].best
    assert best is not None
    assert run.studies[1].trials[0].config == best.config
    assert run.studies[1].trials[0].predicted_us > run.studies[1].trials[1].predicted_us


def test_the_nearest_two_winners_are_kept(tmp_path: Path) -> None:
    plan = plan_over(
        tmp_path / "run", (64, 64, 64), (64, 96, 64), (64, 64, 128), (128, 128, 64), (512, 64, 64)
    )
    storage = InMemoryStorage()
    gave(storage, plan, 4, 16)
    assert winning_params(plan, plan.studies[0], storage) == [{"size": 16}]
    for which, size in ((3, 32), (2, 64), (1, 64)):
        gave(storage, plan, which, size)
    # Of those at 96 columns and at twice the depth, which agree, and at twice the rows and columns.
    found = winning_params(plan, plan.studies[0], storage)
    assert found == [{"size": 64}, {"size": 32}]
    assert len(found) == KEPT
    assert winning_params(
        plan, plan.studies[0], storage, legal=lambda params: params["size"] < 64
    ) == [{"size": 32}, {"size": 16}]


def test_an_interrupted_sweep_over_shapes_finds_the_same_neighbours(tmp_path: Path) -> None:
    shapes = ((64, 64, 64), (64, 128, 64), (128, 128, 128), (64, 256, 32))
    whole = sweep(plan_over(tmp_path / "whole", *shapes, max_measurements=8))
    for at in (9, 17, 23):
        plan = plan_over(tmp_path / f"run{at}", *shapes, max_measurements=8)
        seen = 0

        def interrupt(event: Any, at: int = at) -> None:
            nonlocal seen
            seen += event.trial is not None
            if seen == at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep(plan, interrupt)
        assert configs_of(sweep(plan)) == configs_of(whole)


def test_a_neighbours_winner_that_is_not_legal_is_left_out(tmp_path: Path) -> None:
    plan = plan_over_m(tmp_path / "run", 64, max_measurements=8)
    storage = InMemoryStorage()
    study = Study(plan, candidates_of(plan), storage)
    assert study.strategy.neighbours == ()
    storage.set_study_user_attr(
        study.optuna._study_id,
        "neighbours",
        [{"mode": 0, "size": 16, "flag": True}, {"mode": 2, "size": 64, "flag": True}],
    )
    again = Study(plan, candidates_of(plan), storage)
    legal = again.legal.row({"mode": 2, "size": 64, "flag": True})
    assert again.strategy.neighbours == (legal,)
    assert again.strategy.openers[0] == legal


def test_near_ties_timed_in_turns_decide_who_won() -> None:
    study = optuna.create_study(study_name="s")
    for value, size in ((10.0, 16), (10.1, 32), (12.0, 64)):
        distributions: dict[str, BaseDistribution] = {"size": IntDistribution(16, 64)}
        study.add_trial(
            optuna.create_trial(
                params={"size": size},
                distributions=distributions,
                value=value,
                user_attrs={"measurement": {"time_us": value}},
            )
        )
    assert winner(study._storage, "s") == {"size": 16}
    timings = {"0": {"time_us": 10.3}, "1": {"time_us": 10.2}}
    study.set_user_attr("compared", {"timings": timings})
    assert winner(study._storage, "s") == {"size": 32}
    # In turns the GPU is warmer: one that was slower by itself does not win by its own time.
    timings = {"0": {"time_us": 12.5}, "1": {"time_us": 12.4}}
    study.set_user_attr("compared", {"timings": timings})
    assert winner(study._storage, "s") == {"size": 32}
    assert winner(study._storage, "absent") is None
