"""HOST families whose configurations take as long as they say, on one clock for all."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import fake_kernels
from fake_kernels import MODES, FakeConfig, FakeKernel, FakeWorkload

from tiles.kernels import TileConfig, Workload
from tiles.problems import Problem
from tuning import timer
from tuning.promotion.contest import Contender, Contest

FIRST, SECOND = "contested_kernels:FirstKernel", "contested_kernels:SecondKernel"
_NOW_NS = [0]


class ContestedWorkload(FakeWorkload):
    """Launches move one clock on by ``size`` us, whoever launches."""

    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        assert isinstance(config, FakeConfig)

        def launch() -> None:
            _NOW_NS[0] += 1000 * config.size

        # Only a measuring process of these kernels' own comes here.
        timer.time = SimpleNamespace(perf_counter_ns=lambda: _NOW_NS[0])  # type: ignore[assignment]
        return [launch] * sets


class FirstKernel(FakeKernel):
    name: ClassVar[str] = "first"

    def workload(self, problem: Problem, *, device: str, seed: int) -> Workload:
        return ContestedWorkload(problem)


class SecondKernel(FirstKernel):
    name: ClassVar[str] = "second"


def one(size: int, mode: str = "fine", kernel: str = FIRST, *, flag: bool = False) -> Contender:
    config = FakeConfig(mode=MODES.index(mode), size=size, flag=flag)
    return Contender(kernel=kernel, config=config, before_us=float(size))


def contest(place: int, old: Contender | None, *new: Contender) -> Contest:
    return Contest(problem=fake_kernels.gemm(m=64 * (place + 1)), old=old, new=new)
