"""Traffic counted point by point: what fails, who shares the points, and what the time allows."""

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from counted_traffic import ASKED_FOR, REFUSED, counted, point

import sim
from bench import block, traffic
from bench.compiled_ahead import compile_ahead
from bench.counters import Counted, CountersRefused, read_counters
from bench.executed import Launch
from bench.traffic_points import Point
from tiles.kernels import kernel
from tiles.kernels.cuda.modules import BINARIES
from tiles.problems import parse_problem

torch = pytest.importorskip("torch")
GPU = sim.load_gpu("h200")


def count_some(found: list[Point], count: traffic.Count, seconds: float = 100.0) -> str:
    session: dict[str, object] = {}
    return traffic.count_all(
        found, session, time_limit_s=seconds, counts=[count], write=lambda: None
    )


def test_a_launch_that_fails_costs_its_own_point() -> None:
    found = [point(str(n), 100, None) for n in range(5)]

    def count(launches: Sequence[Launch], seconds: float) -> tuple[list[Counted], dict[str, str]]:
        if any(one.problem == "3" for one in launches):
            raise CountersRefused("ncu profiled no kernel: none matched")
        return counted(launches), ASKED_FOR

    assert count_some(found, count) == ""
    assert [one.counted is not None for one in found] == [True, True, True, False, True]
    assert found[3].refused == "ncu profiled no kernel: none matched"


def test_a_profiler_that_fails_always_is_given_up() -> None:
    found = [point(str(n), 100, None) for n in range(20)]
    calls = []

    def count(launches: Sequence[Launch], seconds: float) -> tuple[list[Counted], dict[str, str]]:
        calls.append(len(launches))
        raise CountersRefused("ncu lists no kernel: ==ERROR== LibraryNotLoaded")

    assert count_some(found, count).startswith("3 launches running were refused alike: ncu lists")
    assert calls == [8, 1, 1, 1]
    assert sum(bool(one.refused) for one in found) == 3


def test_a_profiler_without_permission_is_asked_once() -> None:
    found = [point(str(n), 100, None) for n in range(20)]
    calls = []

    def count(launches: Sequence[Launch], seconds: float) -> tuple[list[Counted], dict[str, str]]:
        calls.append(len(launches))
        return read_counters(REFUSED["permission"][0], len(launches), ASKED_FOR), ASKED_FOR

    assert count_some(found, count).startswith("ERR_NVGPUCTRPERM")
    assert len(calls) == 1
    assert all(one.refused.startswith("ERR_NVGPUCTRPERM") for one in found)


def test_gpus_share_the_points_and_count_at_once() -> None:
    found = [point(str(n), 100, None) for n in range(35)]
    both = threading.Barrier(2, timeout=10)  # neither ends its first batch without the other
    taken: dict[str, list[str]] = {"0": [], "1": []}

    def count(
        launches: Sequence[Launch], seconds: float, device: str
    ) -> tuple[list[Counted], dict[str, str]]:
        if not taken[device]:
            both.wait()
        taken[device] += [one.problem for one in launches]
        return counted(launches), ASKED_FOR

    session: dict[str, object] = {}
    counts = [partial(count, device=one) for one in taken]
    said = traffic.count_all(found, session, time_limit_s=100, counts=counts, write=lambda: None)
    assert said == ""
    assert all(one.counted is not None for one in found)
    assert sorted(taken["0"] + taken["1"]) == sorted(one.problem for one in found)
    assert min(len(one) for one in taken.values()) >= 8


def test_more_gpus_than_are_visible_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    output = ["--output", str(tmp_path / "traffic.json")]
    assert traffic.main(["--gpus", "2", *output], find=lambda gpu: []) == 2
    assert "CUDA_VISIBLE_DEVICES names 1: ask for fewer" in capsys.readouterr().err


@pytest.mark.slow
def test_points_are_compiled_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv(BINARIES, "")  # what is set meanwhile goes with it
    monkeypatch.delenv(BINARIES)
    launches = [
        Launch(problem=text, kernel=name, config=first_config(text, name))
        for text, name in (
            ("gemm:4096x4096x4096:bf16:bf16", "hopper_gemm"),
            ("gemm:2048x4096x4096:bf16:bf16", "hopper_gemm"),
            ("quantize:8192x8192:int8.b32x32:bf16", "triton_quantize"),
        )
    ]
    assert compile_ahead(launches, GPU, time_limit_s=120, processes=2) == 3
    assert os.environ[BINARIES] == str(tmp_path / "tile-workbench" / "binaries")
    assert len(list(Path(os.environ[BINARIES]).glob("*.cubin"))) == 1  # shapes share it
    assert list((tmp_path / "triton").glob("**/*.cubin"))


def first_config(text: str, name: str) -> dict[str, object]:
    space = kernel(name).legal_space(parse_problem(text), GPU.limits).accepted
    return space.config(0).to_dict()


def test_choosing_the_points_counts_towards_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    asked: list[float] = []
    monkeypatch.setattr(traffic, "_session", lambda arguments, gpu: {})
    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def find(gpu: object) -> list[Point]:
        now[0] += 440.0
        return [point("0", 100, None)]

    def count(launches: Sequence[Launch], seconds: float) -> object:
        asked.append(seconds)
        raise CountersRefused("ncu is missing")

    output = tmp_path / "traffic.json"

    def ready(launches: Sequence[Launch], gpu: object, *, time_limit_s: float) -> None:
        assert len(launches) == 1
        now[0] += 10.0

    call = partial(traffic.main, count=count, find=find, ready=ready)
    assert call(["--time-limit", "8m", "--output", str(output)]) == 1
    assert asked == [30.0]
    now[0] = 0.0
    assert call(["--time-limit", "455s", "--output", str(output)]) == 1
    assert asked == [30.0]  # too little is left to begin
    assert "the time is over" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="a host without a GPU is asked")
def test_a_host_without_a_gpu_is_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "traffic.json")]
    assert traffic.main(output, find=lambda gpu: [point("0", 100, None)]) == 2
    said = "error: torch finds no CUDA device: count nothing with --dry-run\n"
    assert capsys.readouterr().err == said
    assert block.main(output) == 2
    said = "error: torch finds no CUDA device: time small cases with --device cpu\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())
