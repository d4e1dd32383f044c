"""Operands of products with outliers apart: which columns, which blocks, and what they leave.

The rules are those that the error tables use (``sim/error/outliers.py``), bit for bit.  Nothing
here waits for the device: memory has a capacity, and the count of outliers stays where it was
counted.  The same operands on every call and every device.
"""

import math
from dataclasses import dataclass, replace

import torch

from tiles.formats import ElementFormat, Scaling, TensorFormat
from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.formats.torch_scales import divide, divide_by
from tiles.kernels.triton.outlier_operands import COLUMN_STEP, FallbackBlocks, KeptColumns
from tiles.recipes import OutlierBlocks, OutlierColumns

__all__ = ["PackedActivations", "column_capacity", "pack_blocks", "pack_columns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedActivations:
    """Activations as the kernel takes them."""

    codes: torch.Tensor  #: (M, K) int8
    scales: torch.Tensor  #: fp32, laid out as ``empty_scales`` says
    outliers: KeptColumns | FallbackBlocks


def column_capacity(columns: int) -> int:
    """Memory for at least so many kept columns: the next multiple of ``COLUMN_STEP``."""
    return max(1, -(-columns // COLUMN_STEP)) * COLUMN_STEP


def pack_columns(
    x: torch.Tensor,
    weights: torch.Tensor,
    fmt: TensorFormat,
    outliers: OutlierColumns,
    capacity: int,
) -> PackedActivations:
    """Quantise activations but for their outlier columns, and gather these with the weights'.

    Columns with some ``|x| > threshold`` are zeros in the codes and have no part in the scales; an
    infinity makes its column one, a NaN does not and stays in the codes' scale.  They are gathered
    in ascending order.  Where there are more of them than ``capacity``, all scales are NaN, and so
    is the product: it would lack some.

    Args:
        x: (M, K) bf16, fp16 or fp32.
        weights: (N, K) on the same device, as they were before they were quantised.
        fmt: of the activations: int8 with one scale a tensor or row.
        outliers: the threshold and the 16-bit format.
        capacity: columns that there is memory for, a multiple of ``COLUMN_STEP``; that of K always
            suffices (:func:`column_capacity`).
    Raises:
        ValueError: the capacity is no positive multiple of ``COLUMN_STEP``, K differs, or the
            format is another.
    """
    if capacity < 1 or capacity % COLUMN_STEP:
        raise ValueError(f"capacity {capacity}: it must be a positive multiple of {COLUMN_STEP}")
    if x.shape[1] != weights.shape[1]:
        raise ValueError(
            f"activations have {x.shape[1]} columns and weights {weights.shape[1]}: "
            "they must be equal"
        )
    wide = (x.abs() > outliers.threshold).any(dim=0)
    count = wide.sum(dtype=torch.int32).view(1)
    codes, scales = _quantized(x.masked_fill(wide, 0), fmt)
    scales.masked_fill_(count > capacity, float("nan"))
    # A stable sort keeps the columns' order; what comes behind the outliers is not in use.
    order = torch.argsort(wide.to(torch.uint8), descending=True, stable=True)[:capacity]
    unused = torch.arange(len(order), device=x.device) >= count
    gathered = []
    for matrix in (x, weights):
        some = matrix[:, order].masked_fill_(unused, 0)
        values = _cast(some, outliers.kept)
        gathered.append(torch.nn.functional.pad(values, (0, capacity - len(order))))
    a, b = gathered
    return PackedActivations(
        codes=codes, scales=scales, outliers=KeptColumns(a=a, b=b, count=count)
    )


def pack_blocks(x: torch.Tensor, fmt: TensorFormat, outliers: OutlierBlocks) -> PackedActivations:
    """Quantise activations, and of the blocks with the largest amax what their codes leave.

    The share of blocks is rounded up, which is the capacity; of blocks with equal magnitudes at the
    limit none falls back, and none with a NaN, whose scale spoils what it touches anyway.  Entries
    are in row-major order of their blocks.

    Args:
        x: (M, K) bf16, fp16 or fp32.
        fmt: of the activations: int8 in blocks of several rows and columns.
        outliers: the share.
    Raises:
        ValueError: the format has no blocks, or is no plain int8.
    """
    scaling = fmt.scaling
    if scaling is None or scaling.rows is None or scaling.cols is None:
        raise ValueError(f"{fmt} has no blocks, so no block of it can fall back")
    codes, scales = _quantized(x, fmt)
    high, wide = scaling.rows, scaling.cols
    blocks = _blocks(x.to(torch.float32), scaling)
    grid_m, grid_k = scales.shape
    amax = blocks.abs().amax(dim=(1, 2))
    capacity = math.ceil(outliers.share * len(amax))
    limit = torch.sort(amax).values[-capacity - 1] if capacity < len(amax) else amax.new_zeros(())
    chosen = amax > limit
    order = torch.argsort(chosen.to(torch.uint8), descending=True, stable=True)[:capacity]
    # fp64 holds code x scale exactly; what is left of it is rounded to fp32, as in the tables.
    stored = _blocks(codes, scaling)[order].to(torch.float64)
    stored *= scales.flatten()[order].to(torch.float64)[:, None, None]
    rest = (blocks[order].to(torch.float64) - stored).to(torch.float32)
    second, second_scales = _quantized(rest.view(capacity * high, wide), fmt)
    rows = chosen.view(grid_m, grid_k).sum(dim=1)
    return PackedActivations(
        codes=codes,
        scales=scales,
        outliers=FallbackBlocks(
            codes=second.view(capacity, high, wide),
            scales=second_scales.reshape(capacity).contiguous(),
            columns=(order % grid_k).to(torch.int32),
            offsets=torch.nn.functional.pad(rows.cumsum(0), (1, 0)).to(torch.int32),
        ),
    )


def _blocks(x: torch.Tensor, scaling: Scaling) -> torch.Tensor:
    """The blocks of a matrix in row-major order, (blocks, rows, cols), zeros beyond its edges."""
    assert scaling.rows is not None
    assert scaling.cols is not None
    high, wide = scaling.rows, scaling.cols
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % wide, 0, -x.shape[0] % high))
    grid = padded.view(padded.shape[0] // high, high, padded.shape[1] // wide, wide)
    return grid.transpose(1, 2).reshape(-1, high, wide)


def _quantized(x: torch.Tensor, fmt: TensorFormat) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes and fp32 scales as the codec makes them, which looks at its scales on the host.

    Raises:
        ValueError: not plain int8 with scales.
    """
    if fmt.scaling is None or fmt.element.name != "int8" or not fmt.plain:
        raise ValueError(f"{fmt}: outliers stand beside int8 with fp32 absmax scales, to even")
    rows, cols = x.shape
    whole = replace(fmt.scaling, rows=fmt.scaling.rows or rows, cols=fmt.scaling.cols or cols)
    grid = empty_scales(rows, cols, fmt.scaling, x.device)
    blocks = _blocks(x.to(torch.float32), whole)
    scales = divide_by(blocks.abs().amax(dim=(1, 2)), 127)
    scales.masked_fill_(scales == 0, 1.0).masked_fill_(scales.isinf(), torch.nan)
    codes = divide(blocks, scales[:, None, None]).round_()
    codes.clamp_(-127, 127).nan_to_num_(nan=0.0)
    grid.copy_(scales.view(grid.shape))
    return _matrix(codes.to(torch.int8), whole, rows, cols), grid


def _cast(x: torch.Tensor, kept: ElementFormat) -> torch.Tensor:
    """Values in 16 bits; finite ones beyond the largest saturate."""
    dtype = CODE_DTYPES[kept.name]
    most = torch.finfo(dtype).max
    x = x.to(torch.float32)
    return torch.where(x.isinf(), x, x.clamp(-most, most)).to(dtype)


def _matrix(blocks: torch.Tensor, scaling: Scaling, rows: int, cols: int) -> torch.Tensor:
    """What :func:`_blocks` took apart."""
    assert scaling.rows is not None
    assert scaling.cols is not None
    high, wide = scaling.rows, scaling.cols
    grid = blocks.view(-(-rows // high), -(-cols // wide), high, wide).transpose(1, 2)
    return grid.reshape(grid.shape[0] * high, grid.shape[2] * wide)[:rows, :cols].contiguous()
