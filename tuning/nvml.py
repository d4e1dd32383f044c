"""NVML about the one GPU that this process uses."""

import os
import sys
import time
from typing import Any

from tuning.conditions import Reading

__all__ = ["Nvml", "chosen_gpu", "open_nvml"]

#: NVML's clock event reasons that a measurement should know of, by bit.
#: Source: nvml.h, nvmlClocksEventReason*.
THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "heat",
    0x40: "hardware heat",
    0x80: "power brake",
}


def chosen_gpu() -> str:
    """UUID or PCI-order index of the GPU that CUDA uses in this process, or would use first."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        uuid = getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", None)
        if uuid is not None:
            return f"GPU-{uuid}"
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    return first if first.isdecimal() or first.startswith("GPU-") else "0"


def open_nvml() -> "Nvml | None":
    """NVML on this process's GPU; None without ``pynvml`` or without its driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return Nvml(pynvml, _handle(pynvml, chosen_gpu()))
    except pynvml.NVMLError:
        return None


def _handle(pynvml: Any, gpu: str) -> Any:
    if gpu.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(gpu)
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByIndex(0)


class Nvml:
    """One GPU's sensors and the processes on it."""

    source = "nvml"
    watches_company = True

    def __init__(self, pynvml: Any, handle: Any) -> None:
        self._nvml = pynvml
        self._handle = handle
        self._ours = {os.getpid()}
        self._strangers = self._processes()
        self._seen_us = int(time.time() * 1e6)

    def claim(self) -> None:
        """Take the processes that appeared since the beginning for ours.

        Called once this process has a context: in a container NVML counts by the host's numbers.
        """
        # Before there was a context, the device's number was a guess: CUDA may sort by speed.
        self._handle = _handle(self._nvml, chosen_gpu())
        self._ours |= self._processes() - self._strangers

    def read(self) -> Reading:
        """The sensors now."""
        nvml = self._nvml
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage)
        # The name before 12.535 of nvidia-ml-py, and the one since.
        names = ("ThrottleReasons", "EventReasons")
        functions = (getattr(nvml, f"nvmlDeviceGetCurrentClocks{n}", None) for n in names)
        asked = next((function for function in functions if function is not None), None)
        bits = None if asked is None else self._ask(asked)
        return Reading(
            sm_clock_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            power_w=None if power_mw is None else power_mw / 1e3,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            throttled=tuple(name for bit, name in THROTTLES.items() if (bits or 0) & bit),
        )

    def energy_j(self) -> float | None:
        """What the board has taken since its driver was loaded; it steps some times a second."""
        counter = getattr(self._nvml, "nvmlDeviceGetTotalEnergyConsumption", None)
        millijoules = None if counter is None else self._ask(counter)
        return None if millijoules is None else millijoules / 1e3

    def company(self) -> str:
        """What another process did on the GPU since the last call, in one line; "" for nothing."""
        here = self._processes()
        newcomers = here - self._ours - self._strangers
        self._strangers = here - self._ours
        busy: dict[int, int] = {}
        samples = self._ask(self._nvml.nvmlDeviceGetProcessUtilization, self._seen_us) or ()
        for sample in samples:
            self._seen_us = max(self._seen_us, int(sample.timeStamp))
            if sample.smUtil and int(sample.pid) not in self._ours:
                busy[int(sample.pid)] = max(busy.get(int(sample.pid), 0), int(sample.smUtil))
        if busy:
            pid = max(busy, key=lambda found: busy[found])
            return f"process {pid} used the GPU, {busy[pid]} % of the time"
        if newcomers:
            return f"process {min(newcomers)} came to the GPU"
        return ""

    def close(self) -> None:
        """Nothing to end: NVML goes with the process."""

    def _processes(self) -> set[int]:
        found = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses) or ()
        return {int(process.pid) for process in found}

    def _ask(self, function: Any, *arguments: Any) -> Any:
        """An answer, or None where the driver, the GPU or a container refuses it."""
        try:
            return function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None
