"""Limits of time that adapt, and the host memory that a process holds."""

import os
import subprocess
import sys
import time

import pytest

from tuning.limits import AdaptiveLimits, JobLimits
from tuning.process_memory import available_bytes, resident_bytes


def test_a_limit_follows_what_stages_took() -> None:
    limits = AdaptiveLimits(JobLimits(check_s=100, check_floor_s=2))
    for count in range(5):
        assert limits.seconds("check_s", "a") == 100, count
        limits.note("check_s", "a", 1.0)
    assert limits.seconds("check_s", "a") == 5.0
    for seconds in (30.0, 30.0, 30.0, 30.0):
        limits.note("check_s", "a", seconds)
    assert limits.seconds("check_s", "a") == 100  # the ceiling
    assert limits.seconds("check_s", "b") == 100  # another problem starts anew


def test_one_slow_compilation_does_not_move_the_limit() -> None:
    limits = AdaptiveLimits(JobLimits(compile_s=120, compile_floor_s=0.1))
    for seconds in (1.0, 1.0, 50.0, 1.0, 1.0):
        limits.note("compile_s", "a", seconds)
    assert limits.seconds("compile_s", "a") == 5.0


def test_floor_and_ceiling_hold() -> None:
    limits = AdaptiveLimits(JobLimits(check_s=1.0, check_floor_s=30, time_floor_s=7))
    for _ in range(9):
        limits.note("check_s", "a", 0.01)
        limits.note("time_s", "a", 0.01)
        limits.note("open_s", "a", 0.01)
    assert limits.seconds("check_s", "a") == 1.0
    assert limits.seconds("time_s", "a") == 7
    assert limits.seconds("open_s", "a") == 300  # does not adapt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device_share": 0.0}, r"device_share = 0.0: it must lie in \(0, 1\]"),
        ({"host_bytes": 1000}, "host_bytes = 1000: Python alone needs 64 MiB"),
    ],
)
def test_limits_refuse_nonsense(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JobLimits(**changes)  # type: ignore[arg-type]


def test_children_count() -> None:
    script = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'x = b\"1\" * 2**27; import time; "
        "print(1, flush=True); time.sleep(60)'])\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        assert resident_bytes(process.pid) > 2**27
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()


def test_memory_of_a_process_that_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    time.sleep(0.01)
    assert resident_bytes(process.pid) == 0
    assert (available_bytes() or 0) > 2**26
