"""What the operators between products read and write, and the checks of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._operands import scale_grid
from ._torch_device import DTYPES

#: 1xB scales have rows contiguous and padded to this, as ``torch._scaled_mm`` takes them.
_ROW_PADDING = 4


class DataflowResult(NamedTuple):
    """What :func:`dataflow` returns; ``None`` for what the operator does not write."""

    codes: Tensor  #: (rows, cols)
    scales: Tensor  #: fp32, one a block
    mean: Tensor | None = None  #: (rows,) fp32, of residual, layernorm and rmsnorm
    variance: Tensor | None = None  #: likewise
    d_gamma: Tensor | None = None  #: (cols,) fp32, of the norms' -bwd
    d_beta: Tensor | None = None  #: (cols,) fp32, of layernorm-bwd


def reads(op: str) -> frozenset[str]:
    """Names of what an operator reads beside x and its scales."""
    kind, _, way = op.partition("-")
    names: set[str] = set()
    if op == "residual" or way == "bwd":
        names |= {"other", "other_scales"}
    if kind in ("layernorm", "rmsnorm"):
        names.add("gamma")
        if way:
            names |= {"mean", "variance"}
        if kind == "layernorm" and way != "bwd":
            names.add("beta")
    return frozenset(names)


def writes(op: str) -> tuple[str, ...]:
    """Names of what an operator writes, in their order."""
    kind, _, way = op.partition("-")
    if way == "bwd" and kind in ("layernorm", "rmsnorm"):
        sums = ("d_gamma", "d_beta") if kind == "layernorm" else ("d_gamma",)
        return ("codes", "scales", *sums)
    if op in ("residual", "layernorm", "rmsnorm"):
        return ("codes", "scales", "mean", "variance")
    return ("codes", "scales")


def empty(x: Tensor, layout: Mapping[str, Any]) -> list[Tensor]:
    """Outputs of the right shapes, dtypes and strides, on x's device."""
    rows, cols = x.shape
    block = layout["block"]
    grid = scale_grid(rows, cols, block)
    padded = -(-grid[0] // _ROW_PADDING) * _ROW_PADDING
    strides = (1, padded) if block[0] == 1 else (grid[1], 1)
    made = [
        torch.empty((rows, cols), dtype=x.dtype, device=x.device),
        torch.empty_strided(grid, strides, dtype=torch.float32, device=x.device),
    ]
    for name in writes(layout["op"])[2:]:
        extent = cols if name.startswith("d_") else rows
        made.append(torch.empty(extent, dtype=torch.float32, device=x.device))
    return made


def check_operands(
    x: Tensor, x_scales: Tensor, given: Mapping[str, Tensor | None], layout: Mapping[str, Any]
) -> None:
    """Check tensors that lie on one device.

    Args:
        x: codes; x_scales: their scales.
        given: everything else that the call was given, by name.
        layout: of the configuration file.
    Raises:
        ValueError: missing or without need, wrong shape or strides; TypeError: wrong dtype.
    """
    op, element = layout["op"], DTYPES[layout["element"]]
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"dataflow takes a matrix of codes x, got {tuple(x.shape)}")
    needed = reads(op)
    for name, tensor in given.items():
        if (tensor is not None) != (name in needed):
            found = f"is missing: {op} reads it" if name in needed else f"is given: {op} takes none"
            raise ValueError(f"{name} {found}")
    other, other_scales = given["other"], given["other_scales"]
    sides = [("x", x, x_scales)] + ([] if other is None else [("other", other, other_scales)])
    for name, codes, scales in sides:
        if codes.dtype != element:
            raise TypeError(f"{name} must be {element} for this format, got {codes.dtype}")
        if codes.shape != x.shape or not codes.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous of shape {tuple(x.shape)}, got {tuple(codes.shape)} "
                f"of strides {codes.stride()}"
            )
        _check_scales(f"{name}_scales", scales, x, layout["block"])
    for name in ("mean", "variance", "gamma", "beta"):
        vector = given[name]
        if vector is None:
            continue
        extent = x.shape[0] if name in ("mean", "variance") else x.shape[1]
        if vector.dtype != torch.float32:
            raise TypeError(f"{name} must be torch.float32, got {vector.dtype}")
        if tuple(vector.shape) != (extent,) or not vector.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous of shape {(extent,)}, got {tuple(vector.shape)} of "
                f"strides {vector.stride()}"
            )


def _check_scales(name: str, scales: Tensor | None, x: Tensor, block: tuple[int, int]) -> None:
    assert scales is not None  # given where its codes are
    grid = scale_grid(x.shape[0], x.shape[1], block)
    if scales.dtype != torch.float32:
        raise TypeError(f"{name} must be torch.float32, got {scales.dtype}")
    if tuple(scales.shape) != grid:
        raise ValueError(f"{name} must be {grid}, got {tuple(scales.shape)}")
