"""Counters of the profiler: its listings, its refusals, and what it is asked."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from counted_traffic import ASKED_FOR, HEAD, KERNEL, REFUSED, listing, rows, values

from bench.counters import METRICS, CountersRefused, count_traffic, profile, read_counters
from bench.executed import MARK, Launch
from bench.traffic_points import PROBLEMS

pytest.importorskip("torch")


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
