"""The CUDA C++ products on torch tensors: CuPy's view of their memory, on torch's current stream.

CuPy is imported on first use.  Nothing here waits for the GPU, so launches join a CUDA graph that
torch captures.  Operands are never copied; scales are, where they lie otherwise than the kernel
reads them.
"""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from ._lookup import Choice, template
from ._torch_device import NAMES

#: The kernel whose scales have one shape on both sides.
BLOCKS = "hopper_block_gemm"
#: wgmma of this form exists on this capability alone.
CAPABILITY = (9, 0)
#: Columns of 1xB scales start at multiples of this many floats: 16 bytes.
_SCALE_UNIT = 4
#: CuPy has no bfloat16 and no 8-bit floats: their bits travel as unsigned integers.
_VIEWS = {
    torch.bfloat16: "uint16",
    torch.float16: "float16",
    torch.float32: "float32",
    torch.float8_e4m3fn: "uint8",
    torch.float8_e5m2: "uint8",
    torch.int8: "int8",
}


@functools.cache
def obstacle(device: torch.device) -> str:
    """Why the kernel cannot run on a device, or ''."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != CAPABILITY:
        return "it needs a GPU of capability 9.0"
    try:
        importlib.import_module("cupy")
    except ImportError as error:
        return f"it needs CuPy ({str(error).strip().splitlines()[0]})"
    return ""


def launch(
    choice: Choice,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    out: Tensor,
    out_scale: Tensor | None = None,
    out_format: str = "",
    seed: int = 0,
) -> None:
    """``out = (a · b^T) x scales`` with the chosen configuration; rows are aligned to 16 bytes.

    ``out_scale``, ``out_format`` and ``seed`` are for an output of codes.
    """
    scales = choice.file.layout["scales"]
    if a_scale is not None and b_scale is not None:
        # Scales of single rows: one kernel has them on A alone, the other on both sides.
        rows = scales.startswith("b1x")
        a_scale = _columns_aligned(a_scale) if rows else a_scale.contiguous()
        both = rows and choice.file.kernel == BLOCKS
        b_scale = _columns_aligned(b_scale) if both else b_scale.contiguous()
    coded = {} if out_scale is None else {"c_scale": _view(out_scale), "seed": seed}
    with torch.cuda.device(a.device):
        template(choice).launch(
            _view(a),
            _view(b),
            _view(out),
            None if a_scale is None else _view(a_scale),
            None if b_scale is None else _view(b_scale),
            element=choice.file.layout["a_element"],
            out=out_format or NAMES[out.dtype],
            scales=scales,
            **coded,
            config=choice.config,
            stream=_stream(a.device),
        )


def _columns_aligned(scale: Tensor) -> Tensor:
    """The scales with M contiguous and columns that start at multiples of 16 bytes."""
    rows, cols = scale.shape
    lead = scale.stride(1)
    if scale.stride(0) == 1 and lead >= rows and lead % _SCALE_UNIT == 0:
        if scale.data_ptr() % 16 == 0:
            return scale
    padded = -(-rows // _SCALE_UNIT) * _SCALE_UNIT
    copy = torch.empty_strided((rows, cols), (1, padded), dtype=scale.dtype, device=scale.device)
    return copy.copy_(scale)


def _view(tensor: Tensor) -> Any:
    """A CuPy array on the tensor's memory; the tensor must outlive its use.

    Not through DLPack, which would make CuPy's current stream wait for torch's: that wait breaks
    a capture.
    """
    import cupy

    item = tensor.element_size()
    rows, cols = tensor.shape
    down, right = (stride * item for stride in tensor.stride())
    extent = down * (rows - 1) + right * (cols - 1) + item
    memory = cupy.cuda.UnownedMemory(tensor.data_ptr(), extent, tensor, tensor.device.index)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    return cupy.ndarray((rows, cols), _VIEWS[tensor.dtype], pointer, strides=(down, right))


def _stream(device: torch.device) -> Any:
    """Torch's current stream for CuPy."""
    import cupy

    stream = torch.cuda.current_stream(device)
    if hasattr(cupy.cuda.Stream, "from_external") and hasattr(stream, "__cuda_stream__"):
        return cupy.cuda.Stream.from_external(stream)
    return cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index)
