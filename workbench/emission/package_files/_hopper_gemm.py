"""The CUDA C++ products on torch tensors: CuPy's view of their memory, on torch's current stream.

CuPy is imported on first use.  Nothing here waits for the GPU, so launches join a CUDA graph that
torch captures.  Operands are never copied; scales are, where they lie otherwise than the kernel
reads them.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from ._cupy_views import missing_cupy, optional_view, stream, view
from ._lookup import Choice, template
from ._torch_device import NAMES

#: The kernel whose scales have one shape on both sides.
BLOCKS = "hopper_block_gemm"
#: wgmma of this form exists on this capability alone.
CAPABILITY = (9, 0)
#: Columns of 1xB scales start at multiples of this many floats: 16 bytes.
_SCALE_UNIT = 4


@functools.cache
def obstacle(device: torch.device) -> str:
    """Why the kernel cannot run on a device, or ''."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) != CAPABILITY:
        return "it needs a GPU of capability 9.0"
    return missing_cupy()


def launch(
    choice: Choice,
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    out: Tensor,
    out_format: str = "",
    **rest: Any,
) -> None:
    """``out = (a · b^T) x scales`` with the chosen configuration; rows are aligned to 16 bytes.

    ``out_format`` is that of codes, and ``rest`` what only some launchers take: the scales and the
    seed of codes, offsets and counts of experts.
    """
    scales = choice.file.layout["scales"]
    if a_scale is not None and b_scale is not None:
        # Scales of single rows: one kernel has them on A alone, the other on both sides.
        rows = scales.startswith("b1x")
        a_scale = columns_aligned(a_scale) if rows else a_scale.contiguous()
        both = rows and choice.file.kernel == BLOCKS
        b_scale = columns_aligned(b_scale) if both else b_scale.contiguous()
    with torch.cuda.device(a.device):
        template(choice).launch(
            view(a),
            view(b),
            view(out),
            optional_view(a_scale),
            optional_view(b_scale),
            element=choice.file.layout["a_element"],
            out=out_format or NAMES[out.dtype],
            scales=scales,
            **{name: view(x) if isinstance(x, Tensor) else x for name, x in rest.items()},
            config=choice.config,
            stream=stream(a.device),
        )


def columns_aligned(scale: Tensor) -> Tensor:
    """The scales with rows contiguous and columns that start at multiples of 16 bytes.

    Args:
        scale: (rows, columns), or (matrices, rows, columns): these then follow each other.
    """
    *matrices, rows, cols = scale.shape
    apart = scale.stride(-1)
    follow = not matrices or scale.stride(0) == cols * apart
    if scale.stride(-2) == 1 and apart >= rows and apart % _SCALE_UNIT == 0 and follow:
        if scale.data_ptr() % 16 == 0:
            return scale
    padded = -(-rows // _SCALE_UNIT) * _SCALE_UNIT
    strides = (*(cols * padded for _ in matrices), 1, padded)
    copy = torch.empty_strided(scale.shape, strides, dtype=scale.dtype, device=scale.device)
    return copy.copy_(scale)
