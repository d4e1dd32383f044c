"""A HOST kernel family whose configurations misbehave in every way that candidate code can."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

import sim
from sim.prediction import PricedTable
from tiles.kernels import (
    Accuracy,
    Backend,
    ConfigTable,
    Kernel,
    Limits,
    NumericPath,
    Rule,
    TileConfig,
    Workload,
)
from tiles.problems import Gemm, Problem
from tiles.recipes import recipe
from tuning import timer

#: What each value of ``mode`` does.
MODES = (
    "fine",
    "slow",
    "raise",
    "compile",
    "exit",
    "abort",
    "hang",
    "wrong",
    "nan",
    "noise",
    "hang_timing",
    "leave_child",
    "kill",
    "first_hangs",
    "real_time_signal",
)
LOG_VARIABLE = "FAKE_KERNEL_LOG"  #: file that gets a line for every check
HOLD_VARIABLE = "FAKE_KERNEL_HOLD"  #: file whose presence makes a slow check wait


class CompilationError(Exception):
    """Stands for Triton's."""


CompilationError.__module__ = "triton.compiler.errors"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeConfig(TileConfig):
    mode: int
    size: int
    flag: bool


class FakeWorkload(Workload):
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.device = "cpu"

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        assert isinstance(config, FakeConfig)
        seconds = 600.0 if MODES[config.mode] == "hang_timing" else 1e-6 * config.size
        return [lambda: time.sleep(seconds)] * sets

    def check(self, config: TileConfig) -> Accuracy:
        assert isinstance(config, FakeConfig)
        mode = MODES[config.mode]
        if log := os.environ.get(LOG_VARIABLE):
            with open(log, "a") as file:
                file.write(f"{self.problem} {config}\n")
        if mode == "slow":
            time.sleep(0.15)
            while (hold := os.environ.get(HOLD_VARIABLE)) and os.path.exists(hold):
                time.sleep(0.01)
        elif mode == "raise":
            raise RuntimeError("illegal memory access\nsecond line")
        elif mode == "compile":
            raise CompilationError("register allocation failed")
        elif mode == "exit":
            print("last words", file=sys.stderr)
            os._exit(3)
        elif mode == "abort":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif mode == "real_time_signal":
            os.kill(os.getpid(), 35)
        elif mode == "hang":
            time.sleep(600)
        elif mode == "first_hangs":
            with open(os.environ[LOG_VARIABLE]) as file:
                time.sleep(600 if len(file.readlines()) == 1 else 0)
        elif mode == "wrong":
            return Accuracy(
                ok=False, max_error_over_bound=9.0, relative_rms=0.5, reason="C[0, 1] = 7"
            )
        elif mode == "nan":
            return Accuracy(
                ok=False, max_error_over_bound=np.nan, relative_rms=np.nan, reason="C[0, 0] is NaN"
            )
        elif mode == "noise":
            os.write(1, b'{"phase": "done"}\n' * 200_000)
            sys.stdout.write("x" * 3_000_000)
            sys.stderr.write("\n{not json")
        elif mode == "leave_child":
            sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
            subprocess.Popen([*sleep, f"left by {os.getpid()}"])
            print("a child is left", flush=True)
            os._exit(4)
        return Accuracy(ok=True, max_error_over_bound=0.1, relative_rms=1e-3)

    def compile(self, config: TileConfig) -> None:
        self.check(config)

    @property
    def set_bytes(self) -> int:
        return 1024


class FakeKernel(Kernel):
    name: ClassVar[str] = "fake"
    backend: ClassVar[Backend] = Backend.HOST
    config_type: ClassVar[type[TileConfig]] = FakeConfig
    modes: ClassVar[tuple[str, ...]] = MODES[:12]

    def refusal(self, problem: Problem, limits: Limits) -> str | None:
        return None if isinstance(problem, Gemm) else "serves gemm only"

    def path(self, problem: Problem, limits: Limits) -> NumericPath:
        return NumericPath.NATIVE

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            FakeConfig,
            mode=[MODES.index(mode) for mode in self.modes],
            size=[16, 32, 64, 128],
            flag=[False, True],
        )

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        small = (table["size"] == 16) & table["flag"]
        return [Rule("small flag", small, lambda row: f"size {table['size'][row]} with flag")]

    def default(self, problem: Problem, limits: Limits) -> TileConfig:
        return FakeConfig(mode=0, size=16, flag=False)

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        return FakeWorkload(problem)


class FineKernel(FakeKernel):
    """Only configurations that behave, some of them slowly."""

    modes = ("fine", "slow")


class WideKernel(FakeKernel):
    """Many times more configurations than a search measures."""

    modes = MODES[:8]

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            FakeConfig,
            mode=[MODES.index(mode) for mode in self.modes],
            size=list(range(100, 200, 2)),
            flag=[False, True],
        )


class HugeKernel(FakeKernel):
    """Ten thousand legal configurations and more."""

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(
            FakeConfig, mode=list(range(12)), size=list(range(1000, 2000)), flag=[True]
        )


class SlowKernel(FakeKernel):
    """A tenth of a second for every check, so that a test can interrupt it."""

    modes = ("slow",)


class ClockedWorkload(FakeWorkload):
    """Launches move the host timer's clock on by ``size`` us, and nothing else does."""

    now_ns = 0

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        assert isinstance(config, FakeConfig)
        step_ns = 1000 * config.size

        def launch() -> None:
            self.now_ns += step_ns

        # Only a measuring process of this kernel's own comes here.
        timer.time = SimpleNamespace(perf_counter_ns=lambda: self.now_ns)  # type: ignore[assignment]
        return [launch] * sets


class ClockedKernel(FakeKernel):
    """One whose measured time no busy host can move."""

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        return ClockedWorkload(problem)


def gpu(**changes: Any) -> sim.Gpu:
    """An H200 by another name, which every device matches."""
    content = yaml.safe_load(sim.load_gpu("h200").text)
    content |= {"name": "fake", "matches": ["*"], **changes}
    return sim.parse_gpu(yaml.safe_dump(content).encode(), "fake")


GPU = gpu()


def gemm(m: int = 64, n: int = 64, k: int = 64) -> Gemm:
    return Gemm(m=m, n=n, k=k, recipe=recipe("bf16"))


def priced(
    problem: Problem, kernel: Kernel, table: ConfigTable, time_us: NDArray[np.float64]
) -> PricedTable:
    """Predicted times of a table, with intervals of 20 % and no traffic."""
    zero = np.zeros(len(table))
    return PricedTable(
        problem=problem,
        kernel=kernel.name,
        gpu="fake",
        path=NumericPath.NATIVE,
        table=table,
        time_us=time_us,
        low_us=time_us * 0.8,
        high_us=time_us * 1.2,
        terms_us={"launch": time_us},
        dram_read_bytes=zero,
        dram_write_bytes=zero,
        l2_read_bytes=zero,
    )


def price(problem: Problem, kernel: Kernel, table: ConfigTable, gpu: object) -> PricedTable:
    """A model that prefers small sizes and knows nothing about modes."""
    time_us = table["size"] * 1.0 + 0.1 * table["mode"] + 0.5 * table["flag"]
    return priced(problem, kernel, table, time_us)
