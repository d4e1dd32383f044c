"""Weights of linear layers as codes and scales: plain torch, the same bits on every device.

``scale = amax / largest element``, rounded to the format that it is stored in, and ``code =
round(x / scale)``, both IEEE fp32 divisions: the rule by which the package's kernels quantise
activations.  A matrix is worked on in bands of rows, so that its fp32 copy is never whole.
"""

import torch
from torch import Tensor

from ._operands import scale_grid
from ._torch_device import DTYPES

#: Largest number of an element; those of integers are whole.
LARGEST = {"int8": 127.0, "int4": 7.0, "e4m3fn": 448.0, "e5m2": 57344.0}
#: Formats that scales are rounded to.
STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: int4 is stored plus this, two codes a byte, the even column in the low half.
_INT4_ZERO = 8
_NAN_CODE = 0x7F
#: Elements of a band.
_BAND = 1 << 24
#: Scales of 1xB blocks have rows contiguous and padded to this, as activations have them.
_ROW_PADDING = 4


def quantize_weight(
    weight: Tensor, element: str, block: tuple[int, int], stored: str = "fp32"
) -> tuple[Tensor, Tensor]:
    """Quantise a weight matrix.

    An all-zero block has codes 0 and scale 1; a NaN or an infinity makes the scale of its block
    NaN.  Ragged last blocks take the values they have.

    Args:
        weight: (N, K) bf16, fp16 or fp32, any strides.
        element: one of :data:`LARGEST`.
        block: rows and columns under one scale, 0 for the whole extent.
        stored: format of the scales, one of :data:`STORED`.
    Returns:
        Codes (N, K) in the element's dtype, ``int4`` as (N, K / 2) packed bytes; and scales on the
        grid of the blocks, those of 1xB blocks with rows contiguous, all others row-major.
    """
    rows, cols = weight.shape
    high = block[0] or rows
    grid = scale_grid(rows, cols, block)
    per_row = block[0] == 1 and bool(block[1])
    padded = -(-grid[0] // _ROW_PADDING) * _ROW_PADDING
    scales = torch.empty_strided(
        grid,
        (1, padded) if per_row else (grid[1], 1),
        dtype=STORED[stored],
        device=weight.device,
    )
    dtype = torch.int8 if element == "int4" else DTYPES[element]
    codes = torch.empty((rows, cols), dtype=dtype, device=weight.device)
    step = max(1, _BAND // (cols * high)) * high
    for first in range(0, rows, step):
        band = weight[first : first + step].to(torch.float32)
        found, its = _band(band, element, (high, block[1] or cols), STORED[stored])
        codes[first : first + step] = found
        scales[first // high : first // high + its.shape[0]] = its
    return (_packed(codes) if element == "int4" else codes), scales


def _band(
    x: Tensor, element: str, block: tuple[int, int], stored: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Codes and scales of whole rows of blocks."""
    rows, cols = x.shape
    high, wide = block
    largest = LARGEST[element]
    blocks = torch.nn.functional.pad(x, (0, -cols % wide, 0, -rows % high))
    down, across = blocks.shape[0] // high, blocks.shape[1] // wide
    blocks = blocks.view(down, high, across, wide)
    peaks = blocks.abs().amax(dim=(1, 3))
    # A divisor on the device: CUDA torch turns division by a Python number into a product.
    scales = peaks / torch.full_like(peaks, largest)
    most = torch.finfo(stored).max
    scales = scales.clamp(max=most).to(stored).to(torch.float32)
    scales = scales.masked_fill((scales == 0) | (peaks == 0), 1.0)
    scales = scales.masked_fill(~peaks.isfinite(), torch.nan)
    ratios = blocks / scales[:, None, :, None]
    spoilt = ratios.isnan()
    ratios = ratios.clamp(-largest, largest)
    if element.startswith("int"):
        codes = ratios.round().masked_fill(spoilt, 0.0).to(torch.int8)
    else:
        codes = ratios.to(DTYPES[element])
        # A NaN's sign is no matter of the format: every one has the same code.
        codes = codes.view(torch.uint8).masked_fill(spoilt, _NAN_CODE).view(codes.dtype)
    whole = codes.view(torch.uint8).reshape(down * high, across * wide)[:rows, :cols]
    # Devices narrow a NaN to bits of their own; one that is filled in is the same everywhere.
    narrow = scales.to(stored)
    return whole.view(codes.dtype), narrow.masked_fill(narrow.isnan(), torch.nan)


def _packed(codes: Tensor) -> Tensor:
    """Signed 4-bit codes as bytes, two in each; an odd row ends with a half of zeros."""
    halves = (codes + _INT4_ZERO).to(torch.uint8)
    halves = torch.nn.functional.pad(halves, (0, codes.shape[1] % 2))
    return halves[:, ::2] | (halves[:, 1::2] << 4)
