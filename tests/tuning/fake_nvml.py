"""Stands for ``pynvml``: one GPU whose sensors and processes a test writes down."""

import os
from collections.abc import Iterator
from itertools import chain, repeat
from types import ModuleType, SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml(ModuleType):
    """Sensors answer from ``clocks``, one value a reading; the last one stays."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    def __init__(self, clocks: list[int] | None = None, *, silent: bool = False) -> None:
        super().__init__("pynvml")
        values = clocks or [1980]
        self.clocks: Iterator[int] = chain(values, repeat(values[-1]))
        self.silent = silent  #: as a MIG slice or a container that refuses everything
        self.pids = [os.getpid()]
        self.busy: list[tuple[int, int]] = []  #: (pid, per cent); told once
        self.throttle_bits = 0
        self.asked_for: list[Any] = []

    def _answer(self, value: Any) -> Any:
        if self.silent:
            raise NVMLError("Not Supported")
        return value

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked_for.append(index)
        return f"gpu {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked_for.append(uuid)
        return uuid

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return int(self._answer(next(self.clocks)))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(self._answer(512_340))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return int(self._answer(12_345_678))

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        return int(self._answer(57))

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return int(self._answer(self.throttle_bits))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return list(self._answer([SimpleNamespace(pid=pid) for pid in self.pids]))

    def nvmlDeviceGetProcessUtilization(self, handle: str, since: int) -> list[Any]:
        if self.silent or not self.busy:
            raise NVMLError("Not Found")
        told, self.busy = self.busy, []
        return [SimpleNamespace(pid=p, smUtil=u, timeStamp=since + 1) for p, u in told]
