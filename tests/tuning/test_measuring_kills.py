"""``kill -9`` of a sweep or of the process that measures for it, at random moments.

A real sweep in a process of its own, with a real measuring process: what
``test_kills`` leaves out to strike more often.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fake_kernels
import hostile_kernels
import pytest

import tuning
from tiles.kernels import Status
from tuning import JobLimits, Plan, Strategy, StudyPlan
from tuning.journal_file import JOURNAL
from tuning.stored_plan import PLAN_FILE

KILLS = 8
#: A kill strikes at most this long after its victim has been seen to measure.
STRIKE_S = 0.15
#: Of a start, imports included, on a busy machine.
PATIENCE_S = 120.0


def plan(folder: Path) -> Plan:
    study = StudyPlan(problem=fake_kernels.gemm(), kernel="hostile_kernels:MillisecondKernel")
    return Plan(studies=(study,), folder=folder, gpu=fake_kernels.GPU, strategy=Strategy.EXHAUSTIVE)


def sweep(folder: Path) -> tuning.Run:
    return tuning.run(plan(folder), price=hostile_kernels.price, limits=JobLimits())


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline, "given up"
        time.sleep(0.005)


def lines(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def measuring(pid: int) -> list[int]:
    """The child processes of a sweep that are alive."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(word) for word in text.split()]


def outcomes(folder: Path) -> dict[str, tuning.Measurement]:
    """What is on the disk, by configuration; none was measured twice."""
    if not (folder / JOURNAL).exists() or not (folder / PLAN_FILE).exists():
        return {}
    tuning.repair(folder)
    (study,) = tuning.load_run(folder).studies
    assert study.repeats == 0
    return {str(trial.config): trial.measurement for trial in study.trials}


@pytest.mark.slow
def test_kills_of_a_sweep_and_of_what_measures_for_it_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, folder = tmp_path / "log", tmp_path / "run"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    script = (
        "from pathlib import Path; import test_measuring_kills as t\n"
        f"t.sweep(Path({str(folder)!r}))"
    )
    moments = random.Random(7)
    known: dict[str, tuning.Measurement] = {}
    parents = children = 0
    while parents + children < KILLS:
        before = lines(log)
        with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE) as parent:
            wait_until(lambda: lines(log) > before or parent.poll() is not None)  # noqa: B023
            while parents + children < KILLS and parent.poll() is None:
                time.sleep(moments.uniform(0, STRIKE_S))
                victims = measuring(parent.pid)
                if not victims:
                    continue  # between two measuring processes
                if (parents + children) % 2:
                    os.kill(parent.pid, signal.SIGKILL)
                    parents += 1
                    wait_until(lambda: not any(map(alive, victims)))  # noqa: B023
                    break
                seen = lines(log)
                os.kill(victims[0], signal.SIGKILL)
                children += 1
                # The next one measures again before anything else strikes.
                wait_until(lambda: lines(log) > seen or parent.poll() is not None)  # noqa: B023
            if parent.poll() is None:
                parent.kill()
            assert parent.stderr is not None
            assert b"Traceback" not in parent.stderr.read()
        now = outcomes(folder)
        assert known.items() <= now.items(), "an outcome was lost or has changed"
        known = now
    assert (parents, children) == (KILLS // 2, KILLS - KILLS // 2)
    assert len(known) < 200, "the sweep was over before the last kill"

    run = sweep(folder)
    found = outcomes(folder)
    assert known.keys() <= found.keys()
    for config, outcome in known.items():  # near-ties have been timed again, in turns
        assert found[config] == outcome or found[config].timing.endswith("-interleaved")
    assert len(found) == 200
    assert {one.status for one in found.values()} == {Status.CORRECT}
    assert run.studies[0].best is not None
    # Launched again is only what a kill struck: at most one configuration each.
    checks = Counter(log.read_text().splitlines())
    assert len(checks) == 200
    assert sum(checks.values()) - 200 <= parents + children


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has reaped yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
