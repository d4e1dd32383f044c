"""Reads where a measurement happens: device, driver, clocks, versions."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

from tiles.kernels.nvrtc import compiler_name
from tiles.version import VERSION
from tuning.nvml import chosen_gpu, open_nvml
from tuning.records import Environment

__all__ = ["driver_version", "free_gpu_bytes", "nvrtc_version", "read_environment", "sm_clock_mhz"]

_PACKAGES = ("torch", "triton", "numpy", "optuna")


def _smi(field: str) -> str | None:
    """One field of ``nvidia-smi``'s answer for this process's GPU, or None without an answer."""
    command = [
        *("nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"),
        f"--id={chosen_gpu()}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def sm_clock_mhz() -> int | None:
    """The GPU's SM clock now, from NVML or nvidia-smi; None when neither answers."""
    nvml = open_nvml()
    if nvml is not None:
        return nvml.read().sm_clock_mhz
    text = _smi("clocks.sm")
    return int(text) if text is not None and text.isdecimal() else None


def driver_version() -> str | None:
    """Of this process's GPU, or None where nvidia-smi does not answer."""
    return _smi("driver_version")


def nvrtc_version() -> str | None:
    """Of the compiler of CUDA C++, e.g. ``"13.5"``; None where it cannot be loaded.

    It is a package of its own: neither torch's CUDA nor CuPy's version says which one compiles.
    """
    name = compiler_name()
    return None if name is None else name.removeprefix("nvrtc ")


def free_gpu_bytes() -> int | None:
    """Free memory of this process's GPU, or None when it cannot be told."""
    text = _smi("memory.free")
    return int(text) * 2**20 if text is not None and text.isdecimal() else None


def read_environment(device: str, clock_mhz: int | None = None) -> Environment:
    """The environment of this process; ``device`` "cuda" imports torch, "cpu" does not."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    versions["tile-workbench"] = VERSION  # known in a source tree, too
    for package in ("cupy-cuda13x", "cupy-cuda12x", "cupy"):
        try:
            versions["cupy"] = version(package)
        except PackageNotFoundError:
            continue
        break
    if device == "cpu":
        name = platform.processor() or platform.machine()
        return Environment(gpu=name, driver="none", sm_clock_mhz=None, versions=versions)
    import torch

    versions["cuda"] = str(torch.version.cuda)
    if (nvrtc := nvrtc_version()) is not None:
        versions["nvrtc"] = nvrtc
    return Environment(
        gpu=torch.cuda.get_device_name(),
        driver=driver_version() or "unknown",
        sm_clock_mhz=clock_mhz,
        versions=versions,
    )
