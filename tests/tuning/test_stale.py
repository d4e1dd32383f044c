"""Results that rest on another source, driver or version are shown as stale, and never mixed in."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_kernels
import pytest
from dated_bench import NOW, THEN, DatedBench, sweep, take_over
from sweep_runs import MANY, make_plan

from tiles.kernels import Backend
from tuning import Strategy
from tuning.environment import read_environment
from tuning.staleness import changes, host_environment, staleness
from tuning.sweep import Again


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> type[DatedBench]:
    return take_over(monkeypatch)


def test_what_counts_as_a_change() -> None:
    assert changes(THEN, THEN, Backend.TRITON) == []
    assert changes(THEN, NOW, Backend.TRITON) == [
        "driver 570.1 then, 580.2 now",
        "triton 3.6 then, 3.7 now",
    ]
    assert changes(THEN, NOW, Backend.CUPY) == ["driver 570.1 then, 580.2 now"]
    # Results of before NVRTC was written down are not stale for that.
    first, second = (
        replace(THEN, versions={**THEN.versions, "nvrtc": version}) for version in ("13.0", "13.5")
    )
    assert changes(first, second, Backend.CUPY) == ["nvrtc 13.0 then, 13.5 now"]
    assert changes(first, second, Backend.TRITON) == changes(THEN, second, Backend.CUPY) == []
    unknown = replace(THEN, driver="unknown", versions={})
    assert changes(THEN, unknown, Backend.TRITON) == []


def test_environments_name_the_compiler_of_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.environment.compiler_name", lambda: "nvrtc 13.5")
    monkeypatch.setattr("tuning.staleness.visible_gpu", lambda: "NVIDIA H200")
    monkeypatch.setattr("tuning.environment.driver_version", lambda: "580.2")
    here = host_environment()
    assert here is not None
    torch = SimpleNamespace(
        version=SimpleNamespace(cuda="13.0"),
        cuda=SimpleNamespace(get_device_name=lambda: "NVIDIA H200"),
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert here.versions["nvrtc"] == read_environment("cuda").versions["nvrtc"] == "13.5"
    monkeypatch.setattr("tuning.environment.compiler_name", lambda: None)
    assert "nvrtc" not in read_environment("cuda").versions


def test_another_gpu_makes_nothing_stale_but_the_source_does(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    (study,) = sweep(make_plan(tmp_path / "run", simulate=False)).studies
    assert study.environment == THEN
    assert staleness(study, None) == staleness(study, THEN) == []
    assert staleness(study, replace(NOW, gpu="NVIDIA A100")) == []
    assert staleness(study, NOW) == ["driver 570.1 then, 580.2 now", "triton 3.6 then, 3.7 now"]
    edited = tmp_path / "template.py"
    edited.write_bytes(fake_kernels.FakeKernel().template.read_bytes() + b"\n# faster\n")
    monkeypatch.setattr(fake_kernels.FakeKernel, "template", edited)
    assert staleness(study, None) == [f"the source of {MANY} changed"]


def test_a_sweep_does_not_go_on_with_stale_results(
    tmp_path: Path, bench: type[DatedBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "run", simulate=False, strategy=Strategy.RANDOM)
    sweep(plan)
    files = {path: path.read_bytes() for path in plan.folder.iterdir()}
    monkeypatch.setattr(DatedBench, "where", NOW)
    more = replace(plan, max_measurements=20)
    with pytest.raises(
        ValueError, match=r"is stale: driver 570\.1 then, 580\.2 now, triton .*--re"
    ):
        sweep(more)
    assert {path: path.read_bytes() for path in plan.folder.iterdir()} == files
    assert len(sweep(more, Again.ALLOW).studies[0].trials) == 20
