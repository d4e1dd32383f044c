"""Counted traffic: the profiler's listings, its refusals, and the record beside predictions.

The listings are made up after those that ``ncu --csv --print-units base`` writes.
"""

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

import sim
from bench import block, traffic
from bench.compiled_ahead import compile_ahead
from bench.counters import (
    METRICS,
    Counted,
    CountersRefused,
    count_traffic,
    profile,
    read_counters,
)
from bench.executed import MARK, Launch
from bench.traffic_points import PROBLEMS, Point, points, raster_of, summary
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.cuda.modules import BINARIES
from tiles.problems import parse_problem

torch = pytest.importorskip("torch")
GPU = sim.load_gpu("h200")
ASKED_FOR = {quantity: names[0] for quantity, (names, _) in METRICS.items()}
HEAD = (
    '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",'
    '"Grid Size","Device","CC","Section Name","Metric Name","Metric Unit","Metric Value"'
)
KERNEL = "_gemm_scaled(CUtensorMap, const float *, int)"


def rows(number: int, name: str, values: dict[str, str], unit: str = "") -> list[str]:
    units = {metric: "sector" if "sectors" in metric else "byte" for metric in values}
    return [
        f'"{number}","42","python3.12","127.0.0.1","{name}","1","7","(128, 1, 1)","(132, 1, 1)",'
        f'"0","9.0","Command line profiler metrics","{metric}","{unit or units[metric]}","{value}"'
        for metric, value in values.items()
    ]


def values(
    read: str = "100", write: str = "20", l2: str = "64", sm: str = "4,096"
) -> dict[str, str]:
    return dict(zip(ASKED_FOR.values(), (read, write, l2, sm), strict=True))


def listing(*kernels: Sequence[str]) -> str:
    lines = ["==PROF== Connected to process 42 (/usr/bin/python3.12)", HEAD]
    number = 0
    for launch in kernels:
        lines += rows(number, f"{MARK}()", values("0", "0", "0", "0"))
        for name in launch:
            number += 1
            lines += rows(number, name, values())
        lines.append("==PROF== Profiling: 2 passes")
        number += 1
    return "\n".join([*lines, "==PROF== Disconnected from process 42"])


def test_counters_of_every_launch_are_summed_over_its_kernels() -> None:
    one, two = read_counters(listing([KERNEL], ["decode", KERNEL]), 2, ASKED_FOR)
    assert one.kernels == (KERNEL,)
    assert one.values == {
        "dram_read_bytes": 100,
        "dram_write_bytes": 20,
        "l2_read_bytes": 64 * 32,
        "sm_read_bytes": 4096,
    }
    assert two.kernels == ("decode", KERNEL)
    assert two.values == {name: 2 * value for name, value in one.values.items()}


def test_units_other_than_bytes_are_understood() -> None:
    text = "\n".join(
        [
            HEAD,
            *rows(0, MARK, values()),
            *rows(1, KERNEL, values("1.5", "2", "3", "4"), unit="Mbyte"),
        ]
    )
    (one,) = read_counters(text, 1, ASKED_FOR)
    assert one.values["dram_read_bytes"] == 1.5e6


REFUSED = {
    "permission": (
        "==PROF== Connected to process 42 (python)\n"
        "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU "
        "Performance Counters on the target device 0.\n==WARNING== No kernels were profiled.",
        "ERR_NVGPUCTRPERM: this user may not read the GPU's counters: run as root",
    ),
    "metric": (
        "==ERROR== Failed to find metric regex:^lts__t_sectors_srcunit_tex_op_read(\\.sum|\\.avg)",
        "ncu knows no metric lts__t_sectors_srcunit_tex_op_read",
    ),
    "kernel": ("==WARNING== No kernels were profiled.", "ncu profiled no kernel: none matched"),
    "crash": (
        "==ERROR== The application returned an error code (1).\n"
        "==WARNING== No kernels were profiled.",
        r"ncu profiled no kernel: ==ERROR== The application returned an error code \(1\)",
    ),
    "nothing": ("", "ncu lists no kernel: it says nothing"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_why(text: str, message: str) -> None:
    with pytest.raises(CountersRefused, match=message):
        read_counters(text, 1, ASKED_FOR)


def test_a_listing_that_lacks_something_is_refused() -> None:
    with pytest.raises(CountersRefused, match="lists 1 launches, 2 were made"):
        read_counters(listing([KERNEL]), 2, ASKED_FOR)
    with pytest.raises(CountersRefused, match="no kernel behind a mark"):
        read_counters(listing([]), 1, ASKED_FOR)
    short = {metric: value for metric, value in values().items() if "xbar" not in metric}
    text = "\n".join([HEAD, *rows(0, MARK, values()), *rows(1, KERNEL, short)])
    with pytest.raises(CountersRefused, match=r"lists no l1tex__m_xbar2l1tex_read_bytes\.sum of"):
        read_counters(text, 1, ASKED_FOR)
    text = "\n".join([HEAD, *rows(0, MARK, values()), *rows(1, KERNEL, values(read="n/a"))])
    with pytest.raises(CountersRefused, match="'n/a' byte for dram__bytes_read"):
        read_counters(text, 1, ASKED_FOR)


LAUNCH = Launch(problem=PROBLEMS[0], kernel="triton_gemm", config={})


def test_a_metric_of_another_name_is_asked_for() -> None:
    asked: list[list[str]] = []

    def run(launches: Sequence[Launch], metrics: Sequence[str], seconds: float) -> str:
        asked.append(list(metrics))
        if "dram__bytes_read.sum" in metrics:
            return "==ERROR== Failed to find metric regex:^dram__bytes_read(\\.sum)"
        return listing([KERNEL]).replace("dram__bytes_read", "dram__bytes_op_read")

    (one,), metrics = count_traffic([LAUNCH], time_limit_s=1, run=run)
    assert one.values["dram_read_bytes"] == 100
    assert metrics["dram_read_bytes"] == "dram__bytes_op_read.sum"
    assert len(asked) == 2


def test_a_metric_that_nothing_is_judged_by_may_be_missing() -> None:
    missing = "==ERROR== Failed to find metric regex:^l1tex__m_xbar2l1tex_read_bytes(\\.sum)"

    def run(launches: Sequence[Launch], metrics: Sequence[str], seconds: float) -> str:
        return missing if len(metrics) == len(METRICS) else listing([KERNEL])

    (one,), metrics = count_traffic([LAUNCH], time_limit_s=1, run=run)
    assert set(one.values) == set(metrics) == set(METRICS) - {"sm_read_bytes"}


def test_what_a_profiler_started_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in a launch: beside it nothing could be counted."""
    tool, child = tmp_path / "ncu", tmp_path / "child"
    tool.write_text(
        f"#!/bin/sh\nsleep 300 &\necho $! > {child}.new\nmv {child}.new {child}\nwait\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CountersRefused, match="ncu took longer than 1 s"):
        profile([LAUNCH], ["dram__bytes_read.sum"], 1.0)
    # Killed, it may be there a moment longer.
    end = time.monotonic() + 10
    while lives(int(child.read_text())):
        assert time.monotonic() < end, "the profiled process lives on"
        time.sleep(0.01)


def lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_metric_without_another_name_ends_it() -> None:
    with pytest.raises(CountersRefused, match="ncu knows no metric lts__t_sectors"):
        count_traffic([LAUNCH], time_limit_s=1, run=lambda *_: REFUSED["metric"][0])


@pytest.fixture(scope="module")
def all_points() -> list[Point]:
    return points(GPU)


def test_points_are_spread_over_formats_rasters_and_sizes(all_points: list[Point]) -> None:
    assert len(all_points) >= 30
    assert len({one.key for one in all_points}) == len(all_points)
    assert len({one.problem for one in all_points}) == len(PROBLEMS)
    assert len({one.kernel for one in all_points}) >= 8
    rasters = {(one.problem, one.kernel): set[int]() for one in all_points}
    for one in all_points:
        rasters[one.problem, one.kernel].add(one.config.get("group_m", 0))
    assert sum(len(groups) >= 2 for groups in rasters.values()) >= 10
    replayed = [one for one in all_points if one.replayed is not None]
    assert len(replayed) >= 30
    for one in replayed:
        assert one.replayed is not None
        assert one.replayed["l2_read_bytes"] == pytest.approx(
            # Scales that a kernel holds in fp32 are counted as they are stored.
            one.predicted["l2_read_bytes"],
            rel=0.1 if ".mx" in one.problem or "mxfp8" in one.problem else 1e-6,
        )


@pytest.mark.parametrize("shared", [{"split_k": 2}, {"stream_k": True, "persistent": True}])
def test_tiles_that_programs_share_are_no_plain_raster(shared: dict[str, int]) -> None:
    problem, kind = parse_problem("gemm:64x14336x4096:bf16:bf16"), kernel("triton_gemm").config_type
    fields = {"block_m": 64, "block_n": 128, "block_k": 64, "group_m": 1, "num_warps": 4}
    plain = {**fields, "num_stages": 3, "tma": True, "persistent": False}
    assert raster_of(problem, "triton_gemm", kind.from_dict(plain), GPU) is not None
    config = kind.from_dict(plain | shared)
    assert raster_of(problem, "triton_gemm", config, GPU) is None


@pytest.mark.parametrize(
    ("block_m", "block_n", "grid"),
    [(128, 256, (16, 16)), (256, 128, (16, 16)), (128, 128, (16, 32))],
    ids=["shares B", "shares A", "shares B of a square tile"],
)
def test_clusters_lie_along_the_side_that_shares_the_larger_tile(
    block_m: int, block_n: int, grid: tuple[int, int]
) -> None:
    """What a replay reads through the L2 is what the model says: multicast counts once."""
    problem, family = parse_problem("gemm:4096x4096x4096:bf16:bf16"), kernel("hopper_gemm")
    config = family.config_type.from_dict(
        {
            "block_m": block_m,
            "block_n": block_n,
            "stages": 4,
            "cluster": 2,
            "group_m": 1,
            "pingpong": False,
            "store_buffers": 1,
            "chained": False,
        }
    )
    found = raster_of(problem, "hopper_gemm", config, GPU)
    assert found is not None
    assert (found.tiles_m, found.tiles_n) == grid
    priced = sim.price(problem, family, ConfigTable.of([config]), GPU)
    replayed = found.tiles_m * found.tiles_n * (found.a_bytes + found.b_bytes)
    assert priced.l2_read_bytes[0] == pytest.approx(replayed)


def point(problem: str, read: float, counted: float | None) -> Point:
    moved = {"dram_read_bytes": read, "dram_write_bytes": 0.0, "l2_read_bytes": 10.0}
    return Point(
        problem=problem,
        kernel="triton_gemm",
        config={"block_m": 64},
        predicted=moved,
        replayed=None,
        counted=None
        if counted is None
        else {"dram_read_bytes": counted, "dram_write_bytes": 0.0, "l2_read_bytes": 8.0},
    )


def test_errors_are_summed_up_beside_what_is_asked() -> None:
    found = [point(str(n), 100 + n, 100.0) for n in range(11)] + [point("x", 1, None)]
    content = summary(found)
    assert (content["points"], content["counted"]) == (12, 11)
    read = content["predicted dram_read_bytes"]
    assert read["median_error"] == pytest.approx(0.05)
    assert read["p90_error"] == pytest.approx(0.09)
    assert (read["asked_median"], read["asked_p90"]) == (0.10, 0.25)
    assert content["predicted l2_read_bytes"]["median_error"] == pytest.approx(0.25)
    assert "replayed dram_read_bytes" not in content


def counted(launches: Sequence[Launch]) -> list[Counted]:
    text = listing(*([KERNEL] for _ in launches))
    return read_counters(text, len(launches), ASKED_FOR)


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


def test_a_profiler_has_a_lock_and_a_gpu_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "ncu"
    tool.write_text('#!/bin/sh\necho "$TMPDIR $CUDA_VISIBLE_DEVICES"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = [profile([LAUNCH], ["m"], 10.0, device).split() for device in ("0", "1")]
    assert [device for _, device in said] == ["0", "1"]
    assert len({folder for folder, _ in said} | {str(tmp_path)}) == 3


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


def dry_run(path: Path, found: list[Point]) -> int:
    return traffic.main(["--dry-run", "--output", str(path)], find=lambda gpu: list(found))


def test_a_dry_run_writes_every_point_without_a_count(
    tmp_path: Path, all_points: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traffic.json"
    assert dry_run(path, all_points) == 0
    data = json.loads(path.read_text())
    assert data["schema"] == traffic.SCHEMA
    assert data["sessions"] == []
    assert {one["counted"] for one in data["points"]} == {None}
    assert f"0 of {len(data['points'])} points counted" in capsys.readouterr().out


def test_a_record_is_gone_on_with(tmp_path: Path, all_points: list[Point]) -> None:
    path = tmp_path / "traffic.json"
    some = {"dram_read_bytes": 1.0, "dram_write_bytes": 1.0, "l2_read_bytes": 1.0}

    known = [replace(all_points[0], counted=some, kernels=(KERNEL,)), *all_points[1:]]
    path.write_text(traffic.record_text(known, [{"commit": "a"}], "h200"))
    assert dry_run(path, all_points) == 0
    data = json.loads(path.read_text())
    assert data["sessions"] == [{"commit": "a"}]
    assert [one["counted"] is not None for one in data["points"]].count(True) == 1
    assert data["points"][0]["kernels"] == [KERNEL]


def test_counts_of_points_that_are_not_chosen_any_more_stay(
    tmp_path: Path, all_points: list[Point]
) -> None:
    path = tmp_path / "traffic.json"
    some = {"dram_read_bytes": 1.0, "dram_write_bytes": 1.0, "l2_read_bytes": 1.0}

    def rerun(chosen: list[Point]) -> dict[str, dict[str, object]]:
        assert dry_run(path, chosen) == 0
        points = json.loads(path.read_text())["points"]
        return {one["config"]["name"]: one for one in points}

    names = [replace(one, config={"name": str(n)}) for n, one in enumerate(all_points[:3])]
    path.write_text(traffic.record_text([replace(n, counted=some) for n in names[:2]], [], "h200"))
    found = rerun(names[1:])
    assert list(found) == ["1", "2", "0"]
    assert found["0"]["counted"] == some
    assert [one["earlier"] for one in found.values()] == [False, False, True]
    summed = json.loads(path.read_text())["summary"]
    assert (summed["points"], summed["counted"], summed["earlier"]) == (2, 1, 1)
    found = rerun(names)  # chosen again
    assert [one["earlier"] for one in found.values()] == [False, False, False]
    assert found["0"]["counted"] == some


def test_choosing_the_points_counts_towards_the_limit(
    tmp_path: Path,
    all_points: list[Point],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    asked: list[float] = []
    monkeypatch.setattr(traffic, "_session", lambda arguments, gpu: {})
    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def find(gpu: object) -> list[Point]:
        now[0] += 440.0
        return list(all_points[:1])

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
    tmp_path: Path, all_points: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "traffic.json")]
    assert traffic.main(output, find=lambda gpu: list(all_points)) == 2
    said = "error: torch finds no CUDA device: count nothing with --dry-run\n"
    assert capsys.readouterr().err == said
    assert block.main(output) == 2
    said = "error: torch finds no CUDA device: time small cases with --device cpu\n"
    assert capsys.readouterr().err == said
    assert not list(tmp_path.iterdir())


def test_another_record_is_not_overwritten(
    tmp_path: Path, all_points: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traffic.json"
    path.write_text(json.dumps({"schema": "tile-workbench/kernels/2"}))
    assert dry_run(path, all_points) == 2
    assert capsys.readouterr().err.count("\n") == 1
    path.write_text(traffic.record_text([], [], "b200"))
    assert dry_run(path, all_points) == 2
    assert "of b200" in capsys.readouterr().err
