"""The workbench's quantisation rule in plain torch: the reference the GPU kernels are held to.

Bit-identical to :mod:`tiles.formats.codec`, on the CPU and on CUDA, and fast enough for tensors of
real layers.  What the codec leaves open, the bit pattern of a NaN's code, is fixed here for every
backend: int8 has no NaN and stores 0, the 8-bit floats store 0x7f whatever the NaN's sign.
"""

import torch

from tiles.formats import FloatElement, IntElement, Scaling, TensorFormat

__all__ = ["CODE_DTYPES", "empty_scales", "quantize_torch"]

#: Storage of each element format.
CODE_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
    "int8": torch.int8,
}
#: The code that a NaN takes in e4m3fn and in e5m2.
NAN_CODE = 0x7F
#: Rows that 1xB scales are padded to, as ``torch._scaled_mm`` and DeepGEMM expect.
SCALE_ROW_PADDING = 4


def empty_scales(
    rows: int, cols: int, scaling: Scaling, device: torch.device | str
) -> torch.Tensor:
    """Scale tensor of a ``rows`` x ``cols`` matrix, filled with zeros, in its conventional layout.

    Returns:
        fp32, shape ``scaling.grid(rows, cols)``; row-major, except that scales of 1xB blocks are
        stored with rows contiguous and a leading dimension padded to a multiple of 4.
    """
    grid = scaling.grid(rows, cols)
    if scaling.rows != 1 or scaling.cols is None:
        return torch.zeros(grid, dtype=torch.float32, device=device)
    padded = -(-grid[0] // SCALE_ROW_PADDING) * SCALE_ROW_PADDING
    return torch.zeros((grid[1], padded), dtype=torch.float32, device=device).t()[: grid[0]]


def quantize_torch(x: torch.Tensor, fmt: TensorFormat) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Quantise a matrix under the workbench's rule.

    Args:
        x: (rows, cols) bf16, fp16 or fp32, any device.
    Returns:
        Codes (rows, cols), contiguous, in the dtype of ``CODE_DTYPES``; and fp32 scales on the
        format's grid, laid out as :func:`empty_scales` says, ``None`` for a format without scaling.
    Raises:
        ValueError: ``x`` is not a non-empty matrix.
        TypeError: ``x`` is not bf16, fp16 or fp32.
    """
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(
            f"quantize_torch takes a non-empty matrix, got shape {tuple(x.shape)}: reshape it first"
        )
    if x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(f"quantize_torch takes bf16, fp16 or fp32, got {x.dtype}: cast it first")
    if fmt.scaling is None:
        return _round(x.float(), fmt), None
    rows, cols = x.shape
    block_rows = rows if fmt.scaling.rows is None else fmt.scaling.rows
    block_cols = cols if fmt.scaling.cols is None else fmt.scaling.cols
    grid = fmt.scaling.grid(rows, cols)
    # Zeros beyond the edge leave the amax of a ragged last block as it is.
    padding = (0, grid[1] * block_cols - cols, 0, grid[0] * block_rows - rows)
    padded = torch.nn.functional.pad(x, padding) if any(padding) else x.contiguous()
    blocks = padded.view(grid[0], block_rows, grid[1], block_cols)
    amax = blocks.abs().amax(dim=(1, 3)).float()
    # A divisor on the device: CUDA torch turns division by a Python number into a product.
    scale = amax / torch.full_like(amax, fmt.element.max)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    scale = torch.where(torch.isfinite(amax), scale, torch.full_like(scale, torch.nan))
    ratio = blocks.float() / scale[:, None, :, None]
    ratio = ratio.view(padded.shape)[:rows, :cols]
    scales = empty_scales(rows, cols, fmt.scaling, x.device)
    scales.copy_(scale)
    return _round(ratio, fmt), scales


def _round(ratio: torch.Tensor, fmt: TensorFormat) -> torch.Tensor:
    """Round fp32 to the element format: nearest even, saturating, NaN as the module says."""
    element = fmt.element
    dtype = CODE_DTYPES[element.name]
    if isinstance(element, IntElement):
        codes = torch.nan_to_num(
            torch.round(ratio), nan=0.0, posinf=element.max, neginf=-element.max
        )
        return codes.clamp_(-element.max, element.max).to(dtype).contiguous()
    if element.bits == 32:
        return ratio.contiguous().clone()
    # Clamped first: not every torch release saturates in the cast to an 8-bit float.
    codes = ratio.clamp(-element.max, element.max).to(dtype).contiguous()
    if isinstance(element, FloatElement) and element.bits == 8:
        codes.view(torch.uint8).masked_fill_(ratio.isnan(), NAN_CODE)
    return codes
