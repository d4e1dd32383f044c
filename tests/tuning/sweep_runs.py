"""Sweeps of fake kernels, in this process and in others."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_kernels

import tuning
from tuning import Plan, StudyPlan

MANY = "fake_kernels:FakeKernel"
FINE = "fake_kernels:FineKernel"
WIDE = "fake_kernels:WideKernel"
HUGE = "fake_kernels:HugeKernel"
SLOW = "fake_kernels:SlowKernel"


def make_plan(folder: Path, kernel: str = MANY, studies: int = 1, **changes: Any) -> Plan:
    return Plan(
        studies=tuple(
            StudyPlan(problem=fake_kernels.gemm(m=64 * (i + 1)), kernel=kernel)
            for i in range(studies)
        ),
        folder=folder,
        **{"gpu": fake_kernels.GPU, "simulate": True, "max_measurements": 12, **changes},
    )


def sweep(plan: Plan, progress: Any = lambda _: None) -> tuning.Run:
    return tuning.run(plan, progress, price=fake_kernels.price)


def configs_of(run: tuning.Run) -> list[str]:
    return [f"{s.problem} {t.config}" for s in run.studies for t in s.trials]


#: Says ``held`` after three trials, from when on the slow kernel's checks do not end.
_RUN = """
import os, sys; sys.path.insert(0, {here!r})
from pathlib import Path
import fake_kernels, sweep_runs
def show(event):
    if event.trial is not None and event.finished == 3:
        Path(os.environ[fake_kernels.HOLD_VARIABLE]).touch()
        print("held", flush=True)
sweep_runs.sweep(sweep_runs.make_plan(Path({folder!r}), {kernel!r}, **{changes!r}), show)
"""


def start_run(folder: Path, kernel: str, hold: Path, **changes: Any) -> "subprocess.Popen[str]":
    script = _RUN.format(
        here=str(Path(__file__).parent), folder=str(folder), kernel=kernel, changes=changes
    )
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, fake_kernels.HOLD_VARIABLE: str(hold)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def workers_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"tuning.worker_main" in command and str(pid).encode() in command:
                found.append(int(entry.name))
    return found
