"""Configurations that break a measuring process in every way that needs no GPU."""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import fake_kernels
import numpy as np

from sim.prediction import PricedTable
from tiles.kernels import (
    Accuracy,
    ConfigTable,
    Kernel,
    Limits,
    Rule,
    Status,
    TileConfig,
    Workload,
)
from tiles.problems import Problem

FLOOD_VARIABLE = "HOSTILE_FLOOD_BYTES"  #: how much the flood prints; 256 MiB when not set
#: Resident memory that a test allows; the glutton wants more.
HOST_BYTES = 2**29

#: What each value of ``mode`` does to its process, and what must be recorded.
MODES: dict[str, tuple[Status, str]] = {
    "fine": (Status.CORRECT, ""),
    "prints": (Status.CORRECT, ""),
    "flood": (Status.CORRECT, ""),
    "closes_stdout": (Status.CORRECT, ""),
    "wrong": (Status.CORRECTNESS, "C[0, 1] = 7"),
    "nan": (Status.CORRECTNESS, "C[0, 0] is nan"),
    "compile_error": (Status.COMPILE, "CompilationError: register allocation failed"),
    "raise": (Status.RUNTIME, "RuntimeError: an illegal memory access"),
    "recursion": (Status.RUNTIME, "RecursionError"),
    "sys_exit": (Status.RUNTIME, "SystemExit: 0"),
    "interrupt": (Status.RUNTIME, "KeyboardInterrupt"),
    "os_exit": (Status.RUNTIME, "the process exited with code 0: good-bye"),
    "trap": (Status.RUNTIME, "the process was killed by SIGTRAP"),
    "abort": (Status.RUNTIME, "the process was killed by SIGABRT"),
    "segfault": (Status.RUNTIME, "the process was killed by SIGSEGV"),
    "fork": (Status.RUNTIME, "the process exited with code 5"),
    "memory": (Status.RUNTIME, "MiB of host memory, more than the cap of 512 MiB"),
    "memory_error": (Status.RUNTIME, "MemoryError"),
    "garbage": (Status.RUNTIME, "wrote into the workbench's own channel"),
    "hang": (Status.TIMEOUT, "compiling and checking took longer than"),
    "deaf": (Status.TIMEOUT, "compiling and checking took longer than"),
    "stop": (Status.TIMEOUT, "compiling and checking took longer than"),
    "hang_timing": (Status.TIMEOUT, "timing took longer than"),
    "real_time_signal": (Status.RUNTIME, "the process was killed by signal 35"),
}
_NAMES = tuple(MODES)
_WRONG = {"wrong": "C[0, 1] = 7", "nan": "C[0, 0] is nan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileConfig(TileConfig):
    mode: int
    size: int


def mode_of(config: TileConfig) -> str:
    """What a configuration does."""
    assert isinstance(config, HostileConfig)
    return _NAMES[config.mode]


def _garbage() -> None:
    """Write to every descriptor above the standard ones."""
    for fd in range(3, 32):
        try:
            os.write(fd, b"\xff\xff\xff\x7fnot a message")
        except OSError:
            continue
    time.sleep(60)


def _memory() -> None:
    held = []
    for _ in range(10_000):
        held.append(np.ones(2**22))
        time.sleep(0.002)


def _memory_error() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2**31, resource.RLIM_INFINITY))
    np.ones(2**30)


def _recursion() -> None:
    _recursion()


def _deaf() -> None:
    """Spin with every signal blocked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    while True:
        pass


def _exit() -> None:
    print("good-bye", flush=True)
    os._exit(0)


def _fork() -> None:
    """A child that keeps every descriptor open outlives its parent."""
    if os.fork() == 0:
        time.sleep(60)
    os._exit(5)


def _flood() -> None:
    left = int(os.environ.get(FLOOD_VARIABLE, 2**28))
    block = b"candidate code has a lot to say\n" * 2**15
    while left > 0:
        left -= os.write(1, block)


def _raise(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


_ACTIONS: dict[str, Callable[[], object]] = {
    "prints": lambda: print('{"phase": "done"}\n' * 1000),
    "flood": _flood,
    "closes_stdout": lambda: os.closerange(0, 3),
    "compile_error": _raise(fake_kernels.CompilationError("register allocation failed")),
    "raise": _raise(RuntimeError("an illegal memory access was encountered")),
    "recursion": _recursion,
    "sys_exit": _raise(SystemExit(0)),
    "interrupt": _raise(KeyboardInterrupt()),
    "os_exit": _exit,
    "trap": lambda: os.kill(os.getpid(), signal.SIGTRAP),
    "abort": os.abort,
    "segfault": lambda: ctypes.string_at(8),
    "fork": _fork,
    "memory": _memory,
    "memory_error": _memory_error,
    "garbage": _garbage,
    "hang": lambda: time.sleep(3600),
    "deaf": _deaf,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "real_time_signal": lambda: os.kill(os.getpid(), 35),
}


class HostileWorkload(fake_kernels.FakeWorkload):
    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        assert isinstance(config, HostileConfig)
        seconds = 3600.0 if mode_of(config) == "hang_timing" else 1e-6 * config.size
        return [lambda: time.sleep(seconds)] * sets

    def check(self, config: TileConfig) -> Accuracy:
        mode = mode_of(config)
        if (log := os.environ.get(fake_kernels.LOG_VARIABLE)) is not None:
            with open(log, "a") as file:
                file.write(f"{self.problem} {config}\n")
        if mode in _WRONG:
            rms = np.nan if mode == "nan" else 0.5
            return Accuracy(
                ok=False, max_error_over_bound=rms * 9, relative_rms=rms, reason=_WRONG[mode]
            )
        _ACTIONS.get(mode, lambda: None)()
        sys.setrecursionlimit(1000)
        return Accuracy(ok=True, max_error_over_bound=0.1, relative_rms=1e-3)


class HostileKernel(fake_kernels.FakeKernel):
    """Every misbehaviour once, every good mode in several sizes."""

    name: ClassVar[str] = "hostile"
    config_type: ClassVar[type[TileConfig]] = HostileConfig

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        modes = range(len(MODES))
        return ConfigTable.product(HostileConfig, mode=list(modes), size=[100, 20_000, 40_000])

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        fine = table["mode"] == _NAMES.index("fine")
        extra = ~fine & (table["size"] != 100)
        return [Rule("once", extra, lambda row: f"mode {table['mode'][row]} once is enough")]

    def default(self, problem: Problem, limits: Limits) -> TileConfig:
        return HostileConfig(mode=0, size=100)

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        return HostileWorkload(problem)


def _millisecond() -> None:
    """As a kernel on a device would: sleep, and no longer than a busy host's sleep overshoots."""
    end = time.perf_counter() + 1e-3
    time.sleep(0.8e-3)
    while time.perf_counter() < end:
        pass


class MillisecondWorkload(HostileWorkload):
    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        return [_millisecond] * sets


class MillisecondKernel(fake_kernels.FakeKernel):
    """Many configurations that take a millisecond each, for the engine's own cost."""

    name: ClassVar[str] = "millisecond"
    config_type: ClassVar[type[TileConfig]] = HostileConfig

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(HostileConfig, mode=[0], size=list(range(200)))

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        return []

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        return MillisecondWorkload(problem)


def price(problem: Problem, kernel: Kernel, table: ConfigTable, gpu: object) -> PricedTable:
    """A model that knows sizes only."""
    time_us = table["size"] * 1.0
    return fake_kernels.priced(problem, kernel, table, time_us)
