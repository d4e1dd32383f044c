"""The workbench's quantisation rule as the GPU kernels are held to: codes and scales in torch.

What the rule leaves open, the bit pattern of a NaN's code, is fixed by the element formats for
every backend: int8 has no NaN and stores 0, the 8-bit floats store 0x7f whatever the NaN's sign.
"""

import torch

from tiles.formats import Scaling, TensorFormat
from tiles.formats.torch_codec import empty_scales, quantize_tensor

__all__ = ["quantize_torch", "stacked_scales"]


def quantize_torch(x: torch.Tensor, fmt: TensorFormat) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Quantise a matrix to the operands of a kernel.

    Args:
        x: (rows, cols) bf16, fp16 or fp32, any device.
    Returns:
        Codes (rows, cols), contiguous, in the dtype of ``CODE_DTYPES``; and fp32 scales on the
        format's grid, laid out as :func:`empty_scales` says, ``None`` for a format without scaling.
    Raises:
        ValueError: ``x`` is not a non-empty matrix, or codes and scales are not all there is to the
            format.
        TypeError: ``x`` is not bf16, fp16 or fp32.
    """
    if fmt.asymmetric or (fmt.scaling is not None and fmt.scaling.two_level):
        raise ValueError(f"{fmt} has more than codes and scales: take quantize_tensor")
    quantized = quantize_tensor(x, fmt)
    return quantized.codes, quantized.scales


def stacked_scales(
    count: int, rows: int, cols: int, scaling: Scaling, device: torch.device | str
) -> torch.Tensor:
    """Memory for the scales of ``count`` matrices, (count, grid rows, grid columns) fp32.

    Each matrix' grid is laid out as :func:`empty_scales` says, one behind the other.
    """
    one = empty_scales(rows, cols, scaling, "meta")
    step = max(stride * extent for stride, extent in zip(one.stride(), one.shape, strict=True))
    return torch.empty_strided((count, *one.shape), (step, *one.stride()), device=device)
