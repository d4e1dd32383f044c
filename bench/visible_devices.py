"""The GPUs of this host that a command was told to use."""

import os

__all__ = ["visible_devices"]


def visible_devices(gpus: int) -> list[str]:
    """So many, as ``CUDA_VISIBLE_DEVICES`` names them for a process each.

    Raises:
        ValueError: the variable names fewer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    devices = visible.split(",") if visible else [str(one) for one in range(gpus)]
    if len(devices) < gpus:
        raise ValueError(f"--gpus {gpus}: CUDA_VISIBLE_DEVICES names {len(devices)}: ask for fewer")
    return devices[:gpus]
