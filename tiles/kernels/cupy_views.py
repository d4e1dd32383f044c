"""CuPy's view of torch tensors and of torch's stream."""

from typing import Any

import torch

__all__ = ["cupy_stream", "cupy_view"]

#: CuPy has no bf16 and no 8-bit floats: their bit patterns travel as unsigned integers.
_PATTERNS = {
    torch.bfloat16: "uint16",
    torch.float8_e4m3fn: "uint8",
    torch.float8_e5m2: "uint8",
}


def cupy_view(tensor: torch.Tensor) -> Any:
    """The same memory as a CuPy array, bf16 as uint16 and 8-bit floats as uint8.

    Not through DLPack, which would make CuPy's current stream wait for torch's: that wait breaks
    a capture.
    """
    import cupy

    dtype = _PATTERNS.get(tensor.dtype, str(tensor.dtype).removeprefix("torch."))
    item = tensor.element_size()
    strides = tuple(stride * item for stride in tensor.stride())
    reach = sum(s * (n - 1) for s, n in zip(strides, tensor.shape, strict=True)) + item
    extent = reach if tensor.numel() else 0
    memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), extent, tensor, tensor.device.index)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray(tuple(tensor.shape), dtype, pointer, strides=strides)


def cupy_stream(device: str) -> Any:
    """Torch's current stream for CuPy, so that launches join what torch captures into a graph."""
    import cupy

    stream = torch.cuda.current_stream(device)
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index)
