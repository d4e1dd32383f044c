"""Which GPU a launch compiles for."""

import torch
import triton

__all__ = ["capability_of"]


def capability_of(device: torch.device) -> int:
    """Capability of an NVIDIA GPU, times ten; 0 for Triton's interpreter."""
    if device.type == "cpu":
        return 0
    if device.type == "meta":
        # Nothing lies there: the GPU that Triton was told to compile for.
        return int(triton.runtime.driver.active.get_current_target().arch)
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
