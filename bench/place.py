"""Where a command of bench measures: the device, which must be the GPU that is predicted."""

from typing import Any

from sim import Gpu

__all__ = ["place"]


def place(gpu: Gpu, without: str) -> dict[str, Any]:
    """The environment of this process's CUDA device, JSON-ready.

    Args:
        without: what to do where there is none, for the message.

    Raises:
        ValueError: there is no such device, or it is another GPU.
    """
    import torch

    from tuning.environment import read_environment

    if not torch.cuda.is_available():
        raise ValueError(f"torch finds no CUDA device: {without}")
    environment = read_environment("cuda")
    if not gpu.matches(environment.gpu):
        raise ValueError(
            f"the device is {environment.gpu!r}, not a {gpu.name}: name the right GPU with --gpu"
        )
    return environment.to_dict()
