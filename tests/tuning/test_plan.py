"""A run folder belongs to one plan and one GPU file; damage is told and costs nothing."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import fake_kernels
import pytest
from sweep_runs import MANY, configs_of, make_plan, sweep

import sim
import tuning
from tiles.kernels.closure import source_digest
from tuning import Strategy
from tuning.journal_file import JOURNAL
from tuning.store import check_folder, replace_file, store_plan
from tuning.stored_plan import GPU_FILE, PLAN_FILE


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
        ({"studies": 2}, "what is searched"),
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


def test_a_shared_name_that_the_storage_cannot_hold_is_refused(tmp_path: Path) -> None:
    rest = len(make_plan(tmp_path, shared_name="x").study_name(make_plan(tmp_path).studies[0])) - 1
    plan = make_plan(tmp_path, shared_name="x" * (512 - rest))
    assert len(plan.study_name(plan.studies[0])) == 512
    with pytest.raises(ValueError, match=r"^study name 'xxx.* 513 characters, more than 512: cho"):
        make_plan(tmp_path, shared_name="x" * (513 - rest))


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


def test_a_pipe_is_not_replaced_by_a_file_of_the_run(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / GPU_FILE)
    with pytest.raises(ValueError, match=r"is not a regular file: choose another output"):
        replace_file(tmp_path / GPU_FILE, b"x")
    assert [path.name for path in tmp_path.iterdir()] == [GPU_FILE]
    assert (tmp_path / GPU_FILE).is_fifo()


def test_two_processes_may_write_one_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / GPU_FILE, os.fsync

    def meanwhile(handle: int) -> None:
        monkeypatch.setattr(os, "fsync", synced)
        replace_file(path, b"the other's")

    monkeypatch.setattr(os, "fsync", meanwhile)
    replace_file(path, b"mine, which is longer")
    assert path.read_bytes() == b"mine, which is longer"
    assert [left.name for left in tmp_path.iterdir()] == [GPU_FILE]


def test_a_folder_where_a_killed_sweep_left_half_a_file_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(handle: int) -> None:
        raise KeyboardInterrupt

    plan = make_plan(tmp_path / "run")
    plan.folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            store_plan(plan)
    (left,) = plan.folder.iterdir()
    assert left.name.startswith(GPU_FILE)
    assert left.suffix == ".tmp"
    check_folder(plan)
    (plan.folder / "notes.0123abcd.tmp").touch()
    with pytest.raises(ValueError, match=r"holds 'notes\.0123abcd\.tmp' and no sweep"):
        check_folder(plan)
