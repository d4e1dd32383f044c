"""Configurations with real CUDA faults: what each must end with, and the family that holds them."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

sys.path.append(str(Path(__file__).parents[1] / "tuning"))

import fake_kernels
import hostile_kernels
import numpy as np

from sim.prediction import PricedTable
from tiles.kernels import (
    Accuracy,
    Backend,
    ConfigTable,
    Kernel,
    Limits,
    Rule,
    Status,
    TileConfig,
    Workload,
)
from tiles.problems import Problem

#: In the order of measuring: well-behaved ones first, so that limits adapt to them.
MODES: dict[str, tuple[Status, str]] = {
    "fine": (Status.CORRECT, ""),
    "fine_triton": (Status.CORRECT, ""),
    "wrong": (Status.CORRECTNESS, "out[0] ="),
    "nan": (Status.CORRECTNESS, "out[0] = nan"),
    "compile_error": (Status.COMPILE, "CompileException"),
    "compile_error_triton": (Status.COMPILE, "CompilationError"),
    "shared_memory_triton": (Status.COMPILE, "OutOfResources"),
    "device_memory": (Status.RUNTIME, "OutOfMemoryError"),
    "trap": (Status.RUNTIME, "CUDA"),
    "illegal": (Status.RUNTIME, "illegal memory access"),
    "illegal_triton": (Status.RUNTIME, "illegal memory access"),
    "trap_while_timed": (Status.RUNTIME, "CUDA"),
    "os_exit": (Status.RUNTIME, "the process exited with code 7"),
    "loop": (Status.TIMEOUT, "compiling and checking took longer than"),
    "loop_triton": (Status.TIMEOUT, "compiling and checking took longer than"),
    "loop_while_timed": (Status.TIMEOUT, "timing took longer than"),
    "flood": (Status.CORRECT, ""),
}
_NAMES = tuple(MODES)
#: Sizes of the well-behaved ones; the smallest is the fastest.
SIZES = (2**20, 2**22, 2**24)
#: The CUDA source, or the Triton kernel, that a mode launches when that is not "fine".
_CUDA = {
    "wrong": "wrong",
    "nan": "nan",
    "compile_error": "does_not_compile",
    "trap": "trap",
    "illegal": "illegal",
    "loop": "loop",
}
_TRITON = {
    "fine_triton": "fine",
    "compile_error_triton": "does_not_compile",
    "shared_memory_triton": "too_much_memory",
    "illegal_triton": "illegal",
    "loop_triton": "loop",
}
_WHILE_TIMED = {"trap_while_timed": "trap", "loop_while_timed": "loop"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultConfig(TileConfig):
    size: int  #: elements
    mode: int


def mode_of(config: TileConfig) -> str:
    """What a configuration does."""
    assert isinstance(config, FaultConfig)
    return _NAMES[config.mode]


class FaultWorkload(Workload):
    """``out = 2 x + 1``."""

    def __init__(self, problem: Problem) -> None:
        import torch

        self.problem, self.device = problem, "cuda"
        self._x = torch.rand(SIZES[-1], device="cuda")
        self._out = torch.empty_like(self._x)

    def _launch(self, mode: str, x: Any, out: Any) -> None:
        if mode in _TRITON:
            import hostile_triton

            kernel = getattr(hostile_triton, _TRITON[mode])
            block = hostile_triton.BLOCK
            kernel[(-(-x.numel() // block),)](x, out, x.numel(), BLOCK=block)
            return
        import hostile_cuda

        hostile_cuda.launch(_CUDA.get(mode, "fine"), x, out)

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        assert isinstance(config, FaultConfig)
        mode = _WHILE_TIMED.get(mode_of(config), mode_of(config))
        x, out = self._x[: config.size], self._out[: config.size]
        return [lambda: self._launch(mode, x, out)] * sets

    def check(self, config: TileConfig) -> Accuracy:
        import torch

        assert isinstance(config, FaultConfig)
        mode = mode_of(config)
        if mode == "device_memory":
            torch.empty(2**50, dtype=torch.uint8, device="cuda")
        elif mode == "os_exit":
            os._exit(7)
        elif mode == "flood":
            hostile_kernels._flood()
        x, out = self._x[: config.size], self._out[: config.size]
        out.fill_(float("nan"))
        self._launch("fine" if mode in _WHILE_TIMED else mode, x, out)
        torch.cuda.synchronize()
        bad = (out != 2 * x + 1).nonzero()
        if len(bad):
            at = int(bad[0].item())
            return Accuracy(
                ok=False,
                max_error_over_bound=float("inf"),
                relative_rms=1.0,
                reason=f"out[{at}] = {out[at].item()}, wanted {(2 * x + 1)[at].item()}",
            )
        return Accuracy(ok=True, max_error_over_bound=0.0, relative_rms=0.0)

    def compile(self, config: TileConfig) -> None:
        """Nothing is compiled ahead."""

    @property
    def set_bytes(self) -> int:
        return 8 * SIZES[-1]


class FaultKernel(fake_kernels.FakeKernel):
    """Every fault once, the well-behaved CUDA kernel in three sizes."""

    name: ClassVar[str] = "fault"
    backend: ClassVar[Backend] = Backend.TRITON  # which means: on the GPU
    config_type: ClassVar[type[TileConfig]] = FaultConfig

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(FaultConfig, size=list(SIZES), mode=list(range(len(MODES))))

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        extra = (table["mode"] != 0) & (table["size"] != SIZES[0])
        return [Rule("once", extra, lambda row: "every fault once is enough")]

    def default(self, problem: Problem, limits: Limits) -> TileConfig:
        return FaultConfig(size=SIZES[0], mode=0)

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        return FaultWorkload(problem)


def price(problem: Problem, kernel: Kernel, table: ConfigTable, gpu: object) -> PricedTable:
    """A model that puts the well-behaved configurations first: limits adapt to them."""
    priced = hostile_kernels.price(problem, kernel, table, gpu)
    time_us = np.where(table["mode"] == 0, 1e-6 * table["size"], 100.0 + table["mode"])
    return replace(priced, time_us=time_us, low_us=0.8 * time_us, high_us=1.2 * time_us)
