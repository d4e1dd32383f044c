"""Torch's tensors and stream as CuPy takes them; CuPy is imported on first use.

Nothing here waits for the GPU, so launches join a CUDA graph that torch captures.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

#: CuPy has no bfloat16 and no 8-bit floats: their bits travel as unsigned integers.
_VIEWS = {
    torch.bfloat16: "uint16",
    torch.float16: "float16",
    torch.float32: "float32",
    torch.float8_e4m3fn: "uint8",
    torch.float8_e5m2: "uint8",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int32: "int32",
    torch.int64: "int64",
}


def missing_cupy() -> str:
    """Why CuPy cannot be imported, or ''."""
    try:
        importlib.import_module("cupy")
    except ImportError as error:
        return f"it needs CuPy ({str(error).strip().splitlines()[0]})"
    return ""


def view(tensor: Tensor) -> Any:
    """A CuPy array on a tensor's memory; the tensor must outlive its use.

    Not through DLPack, which would make CuPy's current stream wait for torch's: that wait breaks
    a capture.
    """
    import cupy

    item = tensor.element_size()
    strides = tuple(stride * item for stride in tensor.stride())
    extent = sum(s * (n - 1) for s, n in zip(strides, tensor.shape, strict=True)) + item
    memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), extent, tensor, tensor.device.index)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(tuple(tensor.shape), _VIEWS[tensor.dtype], pointer, strides=strides)


def optional_view(tensor: Tensor | None) -> Any:
    """:func:`view`; ``None`` of ``None``."""
    return None if tensor is None else view(tensor)


def stream(device: torch.device) -> Any:
    """Torch's current stream for CuPy."""
    import cupy

    current = torch.cuda.current_stream(device)
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(current, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(current)
    return cupy.cuda.ExternalStream(current.cuda_stream, current.device_index)
