"""Names the GPU that CUDA programs started from here would use, without CUDA in this process."""

import os
import subprocess

__all__ = ["visible_gpu"]

TIMEOUT_S = 20


def visible_gpu() -> str | None:
    """Name of the first device that ``CUDA_VISIBLE_DEVICES`` leaves, e.g. ``"NVIDIA H200"``.

    Asks NVML where ``pynvml`` is installed, else ``nvidia-smi``.  Both number devices by PCI bus,
    CUDA by speed: on a host of several models the answer may be another model than CUDA's first.
    Whoever measures looks again.

    Returns:
        ``None`` where there is no GPU, none is visible, or a MIG slice is asked for.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    first = None if visible is None else visible.partition(",")[0].strip()
    if first is not None and not first.isdecimal() and not first.startswith("GPU-"):
        return None  # "", "-1" and "NoDevFiles" hide all; a MIG slice is not the GPU
    devices = _devices()
    if first is None:
        return devices[0][1] if devices else None
    if first.isdecimal():
        return devices[int(first)][1] if int(first) < len(devices) else None
    # CUDA takes the beginning of a UUID for the whole when only one device has it.
    names = [name for uuid, name in devices if uuid.startswith(first)]
    return names[0] if len(names) == 1 else None


def _devices() -> list[tuple[str, str]]:
    """(UUID, name) of every NVIDIA GPU of this machine by PCI bus."""
    try:
        import pynvml
    except ImportError:
        return _from_smi()
    try:
        pynvml.nvmlInit()
        try:
            handles = [
                pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())
            ]
            return [
                (_text(pynvml.nvmlDeviceGetUUID(h)), _text(pynvml.nvmlDeviceGetName(h)))
                for h in handles
            ]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []


def _text(answer: str | bytes) -> str:
    return answer if isinstance(answer, str) else answer.decode()  # bytes before pynvml 11.5


def _from_smi() -> list[tuple[str, str]]:
    command = ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.partition(",") for line in done.stdout.splitlines()]
    return [(uuid.strip(), name.strip()) for uuid, comma, name in rows if comma]
