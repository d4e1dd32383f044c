"""What the torch functions ask of a device: each question once, and none waits for the GPU."""

import contextlib
import functools

import torch
import triton
from torch import Tensor

#: Multiprocessors that a persistent kernel counts on under Triton's interpreter.
INTERPRETED_SMS = 4

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

#: First capability whose tensor cores multiply 8-bit floats.
FP8_CAPABILITY = (8, 9)

_facts: dict[torch.device, tuple[str, int]] = {}
_decodes: dict[torch.device, bool] = {}


def check_device(name: str, tensor: Tensor) -> None:
    """Raises ValueError for a tensor that Triton cannot run on."""
    if tensor.device.type != "cuda" and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"{name} lies on {tensor.device}: move it to a GPU, or set TRITON_INTERPRET=1 before "
            "Python starts and Triton's interpreter runs small shapes"
        )


def aligned_rows(tensor: Tensor) -> bool:
    """Whether tensor-memory-access descriptors can address a matrix: 16-byte rows, one by one."""
    row_bytes = tensor.stride(0) * tensor.element_size()
    apart = tensor.stride(0) >= tensor.shape[1]
    return apart and tensor.data_ptr() % 16 == 0 and row_bytes % 16 == 0


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    """(0, 0) where the device is no NVIDIA GPU."""
    if device.type != "cuda" or torch.version.hip is not None:
        return (0, 0)
    return torch.cuda.get_device_capability(device)


def check_capability(why: str, device: torch.device, least: tuple[int, int] = (8, 0)) -> None:
    """Raises ValueError on GPUs that are none of NVIDIA's of a capability; not when interpreted.

    Args:
        why: begins the message, e.g. "weights are decoded by instructions of".
        device: the operands'.
        least: the first capability that will do.
    """
    if device.type == "cuda" and _capability(device) < least:
        raise ValueError(
            f"{why} NVIDIA's GPUs of capability {least[0]}.{least[1]} and up: "
            f"{device_facts(device)[0]} is none"
        )


def device_facts(device: torch.device) -> tuple[str, int]:
    """Name and number of multiprocessors; ("cpu", a constant) under Triton's interpreter."""
    if device.type != "cuda":
        return "cpu", INTERPRETED_SMS
    facts = _facts.get(device)
    if facts is None:
        properties = torch.cuda.get_device_properties(device)
        facts = _facts[device] = (properties.name, properties.multi_processor_count)
    return facts


def decodes(device: torch.device) -> bool:
    """Whether 8-bit floats are multiplied as fp16: GPUs before capability 8.9, and only those."""
    found = _decodes.get(device)
    if found is None:
        found = device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY
        _decodes[device] = found
    return found


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes ``device`` current while a kernel is launched on it."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
