"""The GPU file and the limits of a CUDA device."""

from importlib.util import find_spec

import torch

from sim import Gpu, gpu_names, load_gpu
from tiles.kernels.base import Limits

__all__ = ["gpu_of", "limits_of"]


def gpu_of(device: torch.device) -> Gpu:
    """The GPU file that names a CUDA device.

    Raises:
        ValueError: there is no such device, no CuPy, or no GPU file for it.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch sees no CUDA device here; train on 'cpu'")
    if find_spec("cupy") is None:
        raise ValueError("cupy is missing: pip install 'tile-workbench[cuda]'")
    name = torch.cuda.get_device_name(device)
    for known in map(load_gpu, gpu_names()):
        if known.matches(name):
            return known
    raise ValueError(f"no GPU file names {name!r}: the known ones are {', '.join(gpu_names())}")


def limits_of(device: torch.device) -> Limits:
    """Limits of a CUDA device.

    Raises:
        ValueError: as :func:`gpu_of`.
    """
    return gpu_of(device).limits
