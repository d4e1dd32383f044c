"""Who reads the GPU's sensors while samples are taken: NVML, or else ``nvidia-smi``."""

import subprocess
import threading
import time
from typing import Protocol

from tuning.conditions import Reading
from tuning.nvml import chosen_gpu, open_nvml

__all__ = ["Observer", "SmiObserver", "open_observer"]

FIELDS = "clocks.sm,power.draw,temperature.gpu"
#: How often ``nvidia-smi`` is told to read; one call by itself takes longer than a measurement.
INTERVAL_MS = 50
#: A reading older than this says nothing about now.
STALE_S = 1.0


class Observer(Protocol):
    """Reads one GPU."""

    @property
    def source(self) -> str:
        """ "nvml" or "nvidia-smi"."""

    @property
    def watches_company(self) -> bool:
        """Whether :meth:`company` would notice another process."""

    def claim(self) -> None:
        """Called once this process has a context on the GPU."""

    def read(self) -> Reading:
        """The sensors now."""

    def energy_j(self) -> float | None:
        """The board's energy counter; None where there is none."""

    def company(self) -> str:
        """What another process did on the GPU since the last call; "" for nothing."""

    def close(self) -> None:
        """End what was started for reading."""


def open_observer() -> Observer | None:
    """An observer of the GPU that this process uses; None where nothing reads its sensors."""
    return open_nvml() or SmiObserver.open()


class SmiObserver:
    """The latest line of an ``nvidia-smi`` that reads again and again.  Sees no other process."""

    source = "nvidia-smi"
    watches_company = False

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._latest: tuple[float, Reading] | None = None
        threading.Thread(target=self._follow, daemon=True).start()

    @classmethod
    def open(cls) -> "SmiObserver | None":
        """Start ``nvidia-smi`` in this process's group; None when there is none."""
        command = [
            *("nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"),
            *(f"--id={chosen_gpu()}", f"--loop-ms={INTERVAL_MS}"),
        ]
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            return None
        return cls(process)

    def _follow(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._latest = time.monotonic(), _parse(line)

    def claim(self) -> None:
        """Nothing to do: other processes are not looked at."""

    def read(self) -> Reading:
        """The latest reading, empty when there is none of the last second."""
        latest = self._latest
        if latest is None or time.monotonic() - latest[0] > STALE_S:
            return Reading()
        return latest[1]

    def energy_j(self) -> None:
        """Never: what ``nvidia-smi`` prints has no counter."""
        return None

    def company(self) -> str:
        """Never anything."""
        return ""

    def close(self) -> None:
        """End ``nvidia-smi``."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _parse(line: str) -> Reading:
    """A line of ``nvidia-smi``; fields that it does not support read "[N/A]"."""
    values: list[float | None] = []
    for word in line.split(","):
        try:
            values.append(float(word))
        except ValueError:
            values.append(None)
    clock, power, temperature, *_ = [*values, None, None, None]
    return Reading(
        sm_clock_mhz=None if clock is None else int(clock),
        power_w=power,
        temperature_c=None if temperature is None else int(temperature),
    )
