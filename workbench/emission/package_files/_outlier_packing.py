"""Activations with their outliers apart: which columns or blocks, and what their codes leave.

Plain torch, the same on every device; nothing waits for the GPU, because memory for outliers has a
fixed capacity and their number stays where it was counted.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._lookup import layouts
from ._operands import check_tensors, scale_grid
from ._torch_device import DTYPES

KERNEL = "triton_outlier_gemm"
#: Columns that memory for outlier columns is a multiple of.
COLUMN_STEP = 64
_SOURCES = (torch.bfloat16, torch.float16, torch.float32)
#: By recipe: how its outliers are told, the same for every output.
LAYOUTS = {formats[0]: layout for formats, layout in layouts(KERNEL).items()}


class OutlierActivations(NamedTuple):
    """What :func:`pack_outliers` returns."""

    codes: Tensor  #: (M, K) int8
    scales: Tensor  #: fp32, on the grid of the recipe's blocks
    #: Columns: (M, capacity) and (N, capacity) in 16 bits, their number (1,) int32.  Blocks: codes
    #: (capacity, rows, columns of a block), scales (capacity,), block columns (capacity,) int32,
    #: and where the entries of each block row begin (block rows + 1,) int32.
    outliers: tuple[Tensor, ...]


def pack_outliers(
    x: Tensor, weight: Tensor | None = None, *, recipe: str, capacity: int | None = None
) -> OutlierActivations:
    """Quantise activations to int8 with what is out of range kept apart.

    Columns (LLM.int8()): every K-column with some ``|x|`` above the recipe's threshold is zeros in
    the codes, and gathered with the same column of the weights in 16 bits.  An infinity makes its
    column one, a NaN does not.  More of them than ``capacity`` make all scales NaN.

    Blocks (fallback quantisation): the recipe's share of blocks with the largest magnitudes is
    stored twice, the second time what the first codes leave; of blocks with equal magnitudes at
    the limit none is.

    Args:
        x: (M, K) bf16, fp16 or fp32.
        weight: (N, K), as it was before it was quantised; for recipes with columns, and only them.
        recipe: a recipe that the package was emitted with, e.g. ``"llm-int8"``.
        capacity: columns that there is memory for, a multiple of 64; default: a 64th of K.
    Raises:
        ValueError: unknown recipe, wrong shape, device or capacity, weight missing or without
            need; TypeError: wrong dtype, or no tensor.
    """
    check_tensors("x", x=x, weight=weight)
    layout = LAYOUTS.get(recipe)
    if layout is None:
        known = ", ".join(LAYOUTS)
        raise ValueError(f"no outliers of recipe {recipe!r}: there is {known}")
    if x.ndim != 2 or x.numel() == 0:
        raise ValueError(f"pack_outliers takes a non-empty matrix (M, K), got {tuple(x.shape)}")
    for name, tensor in (("x", x), ("weight", weight)):
        if tensor is not None and tensor.dtype not in _SOURCES:
            wanted = ", ".join(map(str, _SOURCES))
            raise TypeError(f"{name} must be one of {wanted}, got {tensor.dtype}")
    columns = layout["outliers"] == "columns"
    if columns != (weight is not None):
        needed = "gathers columns of the weights: pass them" if columns else "takes no weight"
        raise ValueError(f"weight: recipe {recipe} {needed}")
    if not columns and capacity is not None:
        raise ValueError(f"capacity: that of recipe {recipe} is its share of the blocks")
    if weight is None:
        return _blocks_apart(x, layout)
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight must be (N, {x.shape[1]}), got {tuple(weight.shape)}")
    if capacity is None:
        capacity = -(-x.shape[1] // COLUMN_STEP**2) * COLUMN_STEP
    if capacity < 1 or capacity % COLUMN_STEP:
        raise ValueError(f"capacity {capacity}: it must be a positive multiple of {COLUMN_STEP}")
    return _columns_apart(x, weight, layout, capacity)


def _columns_apart(
    x: Tensor, weight: Tensor, layout: Mapping[str, Any], capacity: int
) -> OutlierActivations:
    wide = (x.abs() > layout["threshold"]).any(dim=0)
    count = wide.sum(dtype=torch.int32).view(1)
    codes, scales = _quantized(x.masked_fill(wide, 0), layout["a_block"])
    scales = scales.masked_fill(count > capacity, float("nan"))
    # A stable sort keeps the columns' order; what comes behind the outliers is not in use.
    order = torch.argsort(wide.to(torch.uint8), descending=True, stable=True)[:capacity]
    unused = torch.arange(order.shape[0], device=x.device) >= count
    kept = DTYPES[layout["kept"]]
    most = torch.finfo(kept).max
    gathered = []
    for matrix in (x, weight):
        some = matrix[:, order].masked_fill(unused, 0).to(torch.float32)
        some = torch.where(some.isinf(), some, some.clamp(-most, most)).to(kept)
        gathered.append(torch.nn.functional.pad(some, (0, capacity - order.shape[0])))
    return OutlierActivations(codes=codes, scales=scales, outliers=(*gathered, count))


def _blocks_apart(x: Tensor, layout: Mapping[str, Any]) -> OutlierActivations:
    high, wide = layout["a_block"]
    codes, scales = _quantized(x, layout["a_block"])
    blocks = _tiled(x.to(torch.float32), high, wide)
    peaks = blocks.abs().amax(dim=(1, 2))
    total, across = peaks.shape[0], scales.shape[1]
    capacity = math.ceil(layout["share"] * total)
    limit = peaks.new_zeros(())
    if capacity < total:
        limit = torch.sort(peaks).values[-capacity - 1]
    chosen = peaks > limit
    order = torch.argsort(chosen.to(torch.uint8), descending=True, stable=True)[:capacity]
    # fp64 holds code x scale exactly; what is left of it is rounded to fp32.
    stored = _tiled(codes, high, wide)[order].to(torch.float64)
    stored = stored * scales.flatten()[order].to(torch.float64)[:, None, None]
    rest = (blocks[order].to(torch.float64) - stored).to(torch.float32)
    second, second_scales = _quantized(rest.view(capacity * high, wide), (high, wide))
    starts = chosen.view(-1, across).sum(dim=1).cumsum(0)
    return OutlierActivations(
        codes=codes,
        scales=scales,
        outliers=(
            second.view(capacity, high, wide),
            second_scales.reshape(capacity).contiguous(),
            (order % across).to(torch.int32),
            torch.nn.functional.pad(starts, (1, 0)).to(torch.int32),
        ),
    )


def _tiled(x: Tensor, high: int, wide: int) -> Tensor:
    """The blocks of a matrix in row-major order, (blocks, rows, columns), zeros beyond edges."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % wide, 0, -x.shape[0] % high))
    down, across = padded.shape[0] // high, padded.shape[1] // wide
    return padded.view(down, high, across, wide).transpose(1, 2).reshape(-1, high, wide)


def _quantized(x: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """int8 codes and fp32 scales, rounded to even; a NaN or an infinity makes the scale NaN."""
    rows, cols = x.shape
    grid = scale_grid(rows, cols, block)
    high, wide = block[0] or max(rows, 1), block[1] or cols
    blocks = _tiled(x.to(torch.float32), high, wide)
    peaks = blocks.abs().amax(dim=(1, 2))
    # A divisor on the device: CUDA torch turns division by a Python number into a product.
    scales = _divide(peaks, torch.full_like(peaks, 127))
    scales = scales.masked_fill(scales == 0, 1.0).masked_fill(scales.isinf(), torch.nan)
    codes = _divide(blocks, scales[:, None, None]).round().clamp(-127, 127).nan_to_num(nan=0.0)
    turned = codes.to(torch.int8).view(*grid, high, wide).transpose(1, 2)
    whole = turned.reshape(grid[0] * high, grid[1] * wide)[:rows, :cols]
    return whole.contiguous(), scales.view(grid)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """The IEEE quotient of fp32 tensors; a compiler's own division is approximate."""
    if torch.compiler.is_compiling():
        return (x.double() / y.double()).float()
    return x / y
