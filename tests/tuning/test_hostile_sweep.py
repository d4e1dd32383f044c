"""A whole sweep over configurations that break their process in every way that needs no GPU."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fake_kernels
import hostile_kernels
import pytest
from hostile_kernels import MODES, mode_of

import tuning
from tiles.kernels import Status
from tuning import JobLimits, Plan, Strategy, StudyPlan

#: Of what hangs.  Before the first does, five checks have gone well: the floor holds from then on.
#: All else ends by itself in a tenth of that, but a busy host may stand still.
LIMITS = JobLimits(check_s=300, check_floor_s=4, time_s=4, host_bytes=hostile_kernels.HOST_BYTES)


def make_plan(folder: Path, kernel: str = "HostileKernel", **changes: object) -> Plan:
    study = StudyPlan(problem=fake_kernels.gemm(), kernel=f"hostile_kernels:{kernel}")
    return Plan(
        studies=(study,),
        folder=folder,
        gpu=fake_kernels.GPU,
        strategy=Strategy.EXHAUSTIVE,
        **changes,  # type: ignore[arg-type]
    )


def sweep(folder: Path) -> tuning.Run:
    return tuning.run(make_plan(folder), price=hostile_kernels.price, limits=LIMITS)


def check(run: tuning.Run) -> None:
    """Every configuration has the status that its misbehaviour deserves."""
    (study,) = run.studies
    assert {mode_of(t.config) for t in study.trials} == set(MODES)
    assert len(study.trials) == len(MODES) + 2
    for trial in study.trials:
        mode = mode_of(trial.config)
        status, reason = MODES[mode]
        found = trial.measurement
        assert found.status is status, f"{mode}: {found.status}, {found.reason}"
        assert reason in found.reason, f"{mode}: {found.reason}"
        assert (found.time_us is not None) == (status is Status.CORRECT), mode
    assert study.best is not None
    assert study.best.config.to_dict()["size"] == 100
    assert study.environment is not None


def mode_of_line(line: str) -> str:
    """Of a line of the kernels' log."""
    return list(MODES)[int(line.partition("mode=")[2].split()[0])]


@pytest.mark.slow
def test_every_configuration_ends_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them writes ten gigabytes; the sweeping process ends with 0 for all that."""
    folder, log = tmp_path / "run", tmp_path / "log"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    script = (
        "from pathlib import Path; import test_hostile_sweep as t\n"
        f"t.check(t.sweep(Path({str(folder)!r})))"
    )
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": here, hostile_kernels.FLOOD_VARIABLE: str(10**10)}
    done = subprocess.run([sys.executable, "-c", script], env=environment)
    assert done.returncode == 0
    run = tuning.load_run(folder)
    check(run)
    lines = log.read_text().splitlines()
    assert len(set(lines)) == len(MODES) + 2
    (again,) = (line for line, count in Counter(lines).items() if count == 2)
    assert mode_of_line(again) == "memory_error"  # a neighbour may have taken the memory
    assert len(lines) == len(set(lines)) + 1  # no other configuration ran twice
    assert sweep(folder) == run
    assert log.read_text().splitlines() == lines


def rate(folder: Path) -> float:
    """Configurations a second once the measuring process runs, store included."""
    told: list[float] = []
    plan = make_plan(folder, "MillisecondKernel")
    run = tuning.run(
        plan,
        lambda event: told.append(time.monotonic()) if event.trial is not None else None,
        price=hostile_kernels.price,
        limits=JobLimits(),
    )
    assert len(told) == 200
    (study,) = run.studies
    # A kernel that a busy host held up for longer than its millisecond is not the engine's cost.
    held_us = sum(sample - 1000 for t in study.trials for sample in t.measurement.samples_us)
    assert held_us >= 0
    return (len(told) - 1) / (told[-1] - told[0] - 1e-6 * held_us)


@pytest.mark.alone
def test_twenty_measured_configurations_a_second(tmp_path: Path) -> None:
    """The fastest of some: whoever else works on this machine shall not decide."""
    rates: list[float] = []
    while len(rates) < 8 and max(rates, default=0.0) < 20:
        rates.append(rate(tmp_path / f"run-{len(rates)}"))
    print(f"{max(rates):.1f} configurations a second")
    assert max(rates) >= 20, rates
