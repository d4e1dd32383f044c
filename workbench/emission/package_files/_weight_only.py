"""Products of 16-bit activations with packed low-bit weights, registered as PyTorch operators."""

import functools
import importlib
from typing import Any

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_operand, check_out, check_tensor, check_tensors
from ._operator import operator
from ._packed_weight import PackedWeight
from ._torch_device import NAMES, check_capability, check_device, current, device_facts
from ._workspace import zeroed_words

KERNEL = "triton_weight_only"
#: The CUDA C++ kernels: of few rows, and of many.
SKINNY, PREFILL = "hopper_weight_only", "hopper_weight_prefill"
HOPPER = (SKINNY, PREFILL)
#: Rows that the first is for: beyond, it decodes weights over and over.
HOPPER_ROWS = 256
UNALIGNED = "rows of x do not start at multiples of 16 bytes"
_LAYOUTS = layouts(KERNEL)


def linear_weight_only(
    x: Tensor,
    weight: PackedWeight,
    *,
    out_dtype: torch.dtype | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``Y[..., N] = X[..., K] · W[N, K]^T``; for inference only, the operator has no derivative.

    Args:
        x: (..., K) in the recipe's activation type, K contiguous.
        weight: what :func:`pack_weight` made, on x's device.
        out_dtype: element type of Y, one that the package was emitted with; default: x's.
        out: (..., N), ``out_dtype``, contiguous: receives Y when given.
    Returns:
        Y (..., N), or ``out``.
    Raises:
        ValueError: an output that the package lacks, wrong shape, device or stride, or a GPU that
            cannot decode.
        TypeError: wrong dtype, no tensor, or no packed weight.
    """
    check_tensor("x", x)
    if not isinstance(weight, PackedWeight):
        raise TypeError(f"weight is {type(weight).__name__}: make it with pack_weight")
    if weight.codes is None or weight.row_scale is None:
        raise ValueError("weight is empty: load its state, or make it with pack_weight")
    out_dtype = x.dtype if out_dtype is None else out_dtype
    layout = _LAYOUTS.get((weight.recipe, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(f"{name} -> {plain}" for name, plain in _LAYOUTS)
        raise ValueError(
            f"no weight-only product {weight.recipe} with output {out_dtype}: there is {known}"
        )
    check_operand("x", x, layout["activation"])
    if x.ndim == 0 or x.shape[-1] != weight.columns:
        raise ValueError(f"x must be (..., {weight.columns}), got {tuple(x.shape)}")
    check_tensors("x", x=x, weight=weight.codes, out=out)
    parts = (weight.codes, weight.scale, weight.zero, weight.row_scale)
    rows, shape = x.reshape(-1, weight.columns), (*x.shape[:-1], weight.rows)
    if out is None:
        product: Tensor = _make(rows, *parts, weight.recipe, weight.columns, out_dtype)
        return product.view(shape)
    check_out(out, shape, out_dtype, contiguous=True)
    into = out.view(-1, weight.rows)
    _write(rows, *parts, weight.recipe, weight.columns, into)
    return out


@functools.cache
def _panel_columns(element: str) -> int:
    packing: Any = importlib.import_module(f"{__package__}.kernels.triton.weight_layout")
    columns: int = packing.panel_columns(element)
    return columns


def _whole_shares(split_k: int, columns: int, element: str) -> int:
    """As many shares of K as have something to add up; a default was made for another K."""
    panels = -(-columns // _panel_columns(element))
    return -(-panels // -(-panels // split_k))


def _launch(
    x: Tensor,
    codes: Tensor,
    scale: Tensor | None,
    zero: Tensor | None,
    row_scale: Tensor,
    recipe: str,
    columns: int,
    out: Tensor,
) -> None:
    check_device("x", x)
    check_capability("weights are decoded by instructions of", x.device)
    if x.shape[0] == 0:
        return
    device, _ = device_facts(x.device)
    formats = (recipe, NAMES[out.dtype])
    m = x.shape[0]
    others = HOPPER if m <= HOPPER_ROWS else (PREFILL,)
    choice = choose(KERNEL, formats, (out.shape[1], columns), m, device, others)
    if choice.file.kernel in HOPPER:
        from . import _hopper_weight_only  # ships with such entries only

        if why := _hopper_weight_only.obstacle(x, (codes, scale, zero, row_scale), out):
            choice = stand_in(choice, KERNEL, m, why)
    elif choice.config["tma"] and (x.data_ptr() % 16 or x.stride(0) * x.element_size() % 16):
        choice = stand_in(choice, KERNEL, m, UNALIGNED)
    run(choice, x, (codes, scale, zero, row_scale), out, columns)


def run(
    choice: Choice,
    x: Tensor,
    parts: tuple[Tensor, Tensor | None, Tensor | None, Tensor],
    out: Tensor,
    columns: int,
) -> None:
    """Launch a configuration, whatever it was tuned for."""
    if choice.file.kernel in HOPPER:
        from . import _hopper_weight_only

        _hopper_weight_only.launch(choice, x, parts, out)
        return
    layout, module = choice.file.layout, template(choice)
    codes, scale, zero, row_scale = parts
    group = layout["block"][1]
    weight = module.PackedWeight(
        codes=codes,
        scale=scale,
        zero=zero,
        row_scale=row_scale,
        element=layout["element"],
        scale_format=layout["stored"] if group else "",
        group=group,
        columns=columns,
    )
    (rows, cols), config = out.shape, choice.config
    block_m, block_n = int(config["block_m"]), int(config["block_n"])
    tiles = -(-rows // block_m) * -(-cols // block_n)
    split = _whole_shares(int(config["split_k"]), columns, layout["element"])
    workspace = None
    if split > 1:
        sizes: Any = importlib.import_module(f"{__package__}.kernels.triton.weight_arguments")
        if tiles > sizes.MAX_SPLIT_TILES:
            split = 1  # tuned for far fewer rows than the call has, and no longer counted
    config = {**config, "split_k": split}
    if split > 1:
        words = sizes.workspace_words(config, rows, cols)
        workspace = zeroed_words(words, words - tiles * split * block_m * block_n, x.device)
    with current(x.device):
        module.launch(x, weight, out, config=config, workspace=workspace)


_make, _write = operator(
    "linear_weight_only",
    "Tensor x, Tensor codes, Tensor? scale, Tensor? zero, Tensor row_scale, str recipe, "
    "SymInt columns",
    "out",
    empty=lambda x, codes, *told: x.new_empty((x.shape[0], codes.shape[1]), dtype=told[-1]),
    launch=_launch,
    wanted="ScalarType out_dtype",
)
