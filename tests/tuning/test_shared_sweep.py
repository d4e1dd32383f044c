"""A sweep in a shared storage, here in memory: what is kept there, and who may join."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fake_kernels
import kill_loop
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from sweep_runs import MANY

import tuning
from tiles.kernels import Backend
from tuning import Plan, Strategy, StudyPlan
from tuning.fleet import run_shared, work
from tuning.shared_sweep import read_shared_run, refusal, shared_plans, stored_attributes
from tuning.storage_url import parse_storage_url, shown_url
from tuning.sweep import Again


class MemoryStorage(InMemoryStorage):
    """What a fleet's storage adds to optuna's, for one process."""

    shown = "memory"
    idle_s = 0.01
    queue_ahead = 8

    def __init__(self) -> None:
        super().__init__()
        self.locks: list[str] = []

    @contextmanager
    def choosing(self, study_name: str) -> Iterator[None]:
        self.locks.append(study_name)
        yield

    @contextmanager
    def comparing(self, study_name: str) -> Iterator[bool]:
        yield True

    def flush(self, older_than_s: float = 0.0) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


def make_plan(name: str = "night", *, m: int = 64, **changes: Any) -> Plan:
    return Plan(
        studies=(StudyPlan(problem=fake_kernels.gemm(m=m), kernel=MANY),),
        folder=Path(name),
        shared_name=name,
        **{"gpu": fake_kernels.GPU, "simulate": True, "max_measurements": 5, **changes},
    )


def sweep(storage: MemoryStorage, plan: Plan) -> tuning.Run:
    return run_shared(plan, "", price=fake_kernels.price, storage=storage)  # type: ignore[arg-type]


def help_with(storage: MemoryStorage, name: str, notes: list[str]) -> list[tuning.Run]:
    return work(name, "", note=notes.append, price=fake_kernels.price, storage=storage)  # type: ignore[arg-type]


def test_name_and_storage_are_all_that_a_worker_needs() -> None:
    storage = MemoryStorage()
    plan = make_plan(seed=3, cache="warm", time_limit_s=900.0)
    run = sweep(storage, plan)
    (found,) = shared_plans(storage, "night")  # type: ignore[arg-type]
    assert found == plan
    assert found.gpu == fake_kernels.GPU
    assert read_shared_run(storage, found) == run  # type: ignore[arg-type]
    assert run.plan == plan.to_dict()
    assert run.folder == Path("night")
    notes: list[str] = []
    assert help_with(storage, "night", notes) == [run]
    assert notes == []


def test_studies_are_named_by_sweep_problem_kernel_and_gpu() -> None:
    storage = MemoryStorage()
    sweep(storage, make_plan())
    sweep(storage, make_plan("day"))
    assert [s.study_name for s in storage.get_all_studies()] == [
        f"{name}|gemm:64x64x64:bf16:bf16|{MANY}|fake|simulated" for name in ("night", "day")
    ]
    assert len(sweep(storage, make_plan()).studies) == 1


def test_an_exhaustive_study_is_queued_ahead_and_measured_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tuning.sweep.Bench", kill_loop.TableBench)
    monkeypatch.setattr(kill_loop, "MEASURING_S", 0.0)
    storage = MemoryStorage()
    waiting: list[int] = []
    plan = make_plan(simulate=False, strategy=Strategy.EXHAUSTIVE)

    def look(_: object) -> None:
        trials = storage.get_all_trials(0, deepcopy=False)
        waiting.append(sum(t.state is TrialState.WAITING for t in trials))

    run = run_shared(plan, "", look, price=fake_kernels.price, storage=storage)  # type: ignore[arg-type]
    trials = storage.get_all_trials(0)
    assert len(trials) == len(run.studies[0].trials) == 84
    assert all("fixed_params" in trial.system_attrs for trial in trials)
    assert 1 <= min(waiting[:70])
    assert max(waiting) <= 8
    assert run.studies[0].repeats == 0
    assert plan.study_name(plan.studies[0]) in storage.locks


def test_a_configuration_queued_twice_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the death of the worker that queues can leave."""
    monkeypatch.setattr("tuning.sweep.Bench", kill_loop.TableBench)
    storage = MemoryStorage()
    plan = make_plan(simulate=False, strategy=Strategy.EXHAUSTIVE)
    doubled = False

    def double(_: object) -> None:
        nonlocal doubled
        waiting = storage.get_all_trials(0, states=(TrialState.WAITING,))
        if waiting and not doubled:
            storage.create_new_trial(0, waiting[0])
            doubled = True

    run = run_shared(plan, "", double, price=fake_kernels.price, storage=storage)  # type: ignore[arg-type]
    assert doubled
    configs = [trial.config for trial in run.studies[0].trials]
    assert len(configs) == len(set(configs)) == 84
    assert run.studies[0].repeats == 0


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seed": 1}, "seed"),
        ({"strategy": Strategy.TPE}, "strategy"),
        ({"gpu": fake_kernels.gpu(title="another")}, "the GPU file"),
    ],
)
def test_another_plan_under_the_same_name_is_refused(change: dict[str, Any], differs: str) -> None:
    storage = MemoryStorage()
    before = sweep(storage, make_plan())
    with pytest.raises(
        ValueError, match=rf"study 'night' of memory holds another sweep \({differs} differs\)"
    ):
        sweep(storage, make_plan(**change))
    assert sweep(storage, make_plan()) == before
    assert len(sweep(storage, make_plan(max_measurements=9)).studies[0].trials) == 9


def test_revalidating_takes_another_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.sweep.Bench", kill_loop.TableBench)
    monkeypatch.setattr(kill_loop, "MEASURING_S", 0.0)
    storage = MemoryStorage()
    plan = make_plan(simulate=False)
    (before,) = sweep(storage, plan).studies
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# faster\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    with pytest.raises(ValueError, match="the kernels' source differs"):
        sweep(storage, plan)
    with pytest.raises(ValueError, match=r"the source of .* is not the one that is swept"):
        help_with(storage, "night", [])

    def cut(event: tuning.Progress) -> None:
        raise KeyboardInterrupt

    def revalidate(progress: Callable[[tuning.Progress], None]) -> tuning.Run:
        return run_shared(
            plan,
            "",
            progress,
            price=fake_kernels.price,
            storage=storage,  # type: ignore[arg-type]
            again=Again.REVALIDATE,
        )

    with pytest.raises(KeyboardInterrupt):
        revalidate(cut)
    found = stored_attributes(storage, plan)  # type: ignore[arg-type]
    assert found[plan.studies[0]]["plan"]["sources"] == {MANY: before.source}  # as long as it is
    (after,) = revalidate(lambda _: None).studies
    assert after.source == plan.to_dict()["sources"][MANY] != before.source
    assert len(sweep(storage, replace(plan, max_measurements=6)).studies[0].trials) == 6
    assert help_with(storage, "night", [])[0].studies[0].source == after.source


def test_another_space_under_the_same_name_is_refused_and_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = MemoryStorage()
    sweep(storage, make_plan())
    monkeypatch.setattr(fake_kernels.FakeKernel, "modes", ("fine", "slow"))
    with pytest.raises(ValueError, match=r"the space of gemm:64x64x64:bf16:bf16 with .* differs"):
        sweep(storage, make_plan())
    with pytest.raises(ValueError, match=r"no study of 'night' can run here: .*other config"):
        help_with(storage, "night", [])


def test_another_version_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    sweep(storage, make_plan())
    for study in storage.get_all_studies():
        plan = {**study.user_attrs["plan"], "schema": "tile-workbench/plan/9"}
        storage.set_study_user_attr(study._study_id, "plan", plan)
    says = r"study 'night' of memory: schema 'tile-workbench/plan/9', this version reads"
    with pytest.raises(ValueError, match=says):
        sweep(storage, make_plan())
    with pytest.raises(ValueError, match=says):
        help_with(storage, "night", [])


def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    storage = MemoryStorage()
    with pytest.raises(ValueError, match=r"memory holds no study 'day': it holds none"):
        help_with(storage, "day", [])
    sweep(storage, make_plan())
    with pytest.raises(ValueError, match=r"memory holds no study 'day': it holds night"):
        help_with(storage, "day", [])


def test_a_sweep_of_two_gpus_is_two_plans() -> None:
    storage = MemoryStorage()
    sweep(storage, make_plan())
    sweep(storage, make_plan(gpu=fake_kernels.gpu(name="other")))
    assert [p.gpu.name for p in shared_plans(storage, "night")] == ["fake", "other"]  # type: ignore[arg-type]
    (one,) = shared_plans(storage, "night@other")  # type: ignore[arg-type]
    assert one.gpu.name == "other"
    assert [r.gpu.name for r in help_with(storage, "night", [])] == ["fake", "other"]


def test_a_host_joins_only_what_its_gpu_and_its_source_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    sweep(storage, make_plan())
    plan = replace(make_plan(), simulate=False, gpu=fake_kernels.gpu(matches=["*H200*"]))
    (study,) = plan.studies
    attributes = next(iter(stored_attributes(storage, make_plan()).values()))  # type: ignore[arg-type]
    assert refusal(plan, study, attributes) == ""  # a kernel that needs no GPU
    monkeypatch.setattr(fake_kernels.FakeKernel, "backend", Backend.TRITON)
    monkeypatch.setattr("tuning.shared_sweep.visible_gpu", lambda: "NVIDIA H200")
    assert refusal(plan, study, attributes) == ""
    monkeypatch.setattr("tuning.shared_sweep.visible_gpu", lambda: "NVIDIA A100")
    assert refusal(plan, study, attributes) == "it is for fake, and the GPU here is 'NVIDIA A100'"
    monkeypatch.setattr("tuning.shared_sweep.visible_gpu", lambda: None)
    assert refusal(plan, study, attributes) == "it is for fake, and this host shows no GPU"
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# faster\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    assert "is not the one that is swept" in refusal(plan, study, attributes)
    assert "no_such" in refusal(plan, replace(study, kernel="no_such"), attributes)


def test_what_is_left_to_others_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    sweep(storage, make_plan())
    sweep(storage, make_plan(m=128))
    wanted = fake_kernels.gemm(m=128)
    monkeypatch.setattr(
        "tuning.fleet.refusal", lambda plan, study, _: "no" if study.problem == wanted else ""
    )
    notes: list[str] = []
    (run,) = help_with(storage, "night", notes)
    assert notes == [f"left to others: gemm:128x64x64:bf16:bf16 with {MANY}: no"]
    assert len(run.studies) == 2


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg://me:s3cret@db:5432/sweeps",
        "postgresql://me:s3cret@db:5432/sweeps",
        "postgresql://me@site:s3%40cret%2F@db:5432/sweeps",
        "postgresql+psycopg://db:5432/sweeps?password=s3cret&sslmode=require",
    ],
)
def test_a_url_is_shown_without_its_secrets(text: str) -> None:
    assert shown_url(parse_storage_url(text)) == "postgresql+psycopg://db:5432/sweeps"
