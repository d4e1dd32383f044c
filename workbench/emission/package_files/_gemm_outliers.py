"""int8 products whose activations have outliers apart, registered as PyTorch operators."""

import importlib
from typing import Any

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_operand, check_out, check_scale, check_sums, check_tensors
from ._operator import operator
from ._outlier_packing import KERNEL, OutlierActivations
from ._torch_device import NAMES, aligned_rows, check_device, current, device_facts

UNALIGNED = "rows of an operand do not start at multiples of 16 bytes"
_LAYOUTS = layouts(KERNEL)
#: Names of the tensors that hold outliers, in their order.
_PARTS = {
    "columns": ("a", "b", "count"),
    "blocks": ("codes", "scales", "columns", "offsets"),
}


def gemm_outliers(
    a: OutlierActivations,
    b: Tensor,
    b_scale: Tensor,
    *,
    recipe: str,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``C[M, N] = A[M, K] · B[N, K]^T`` of the values ``code x scale`` and of A's outliers.

    One launch; how many columns or blocks are outliers is read on the device, so a CUDA graph
    replays with others.  For inference only: the operator has no derivative.

    Args:
        a: what :func:`pack_outliers` made of the activations.
        b: (N, K) int8 weights, K contiguous.
        b_scale: fp32, one scale a block on the recipe's grid, any strides.
        recipe: a recipe that the package was emitted with, e.g. ``"llm-int8"``.
        out_dtype: element type of C, one that the package was emitted with.
        out: (M, N), ``out_dtype``, N contiguous: receives C when given.
    Returns:
        C (M, N), or ``out``.
    Raises:
        ValueError: unknown recipe or output, outliers of another recipe, wrong shape, device or
            stride; TypeError: wrong dtype, or no tensor.
    """
    if not isinstance(a, OutlierActivations):
        raise TypeError(f"a is {type(a).__name__}: make it with pack_outliers")
    codes, a_scale, parts = a
    layout = _LAYOUTS.get((recipe, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(f"{name} -> {plain}" for name, plain in _LAYOUTS)
        raise ValueError(
            f"no product with outliers for recipe {recipe!r} and output {out_dtype}: there is "
            f"{known}"
        )
    names = _PARTS[layout["outliers"]]
    if len(parts) != len(names):
        raise ValueError(f"a holds other outliers than recipe {recipe} has: {', '.join(names)}")
    named = {f"outliers.{name}": part for name, part in zip(names, parts, strict=True)}
    check_tensors("a", a=codes, b=b, a_scale=a_scale, b_scale=b_scale, **named, out=out)
    if codes.ndim != 2 or b.ndim != 2 or codes.shape[1] != b.shape[1] or 0 in b.shape:
        raise ValueError(
            f"gemm_outliers takes a (M, K) and b (N, K), got {tuple(codes.shape)} and "
            f"{tuple(b.shape)}"
        )
    check_sums(codes.shape[1], layout["max_k"])
    for name, operand, scale in (("a", codes, a_scale), ("b", b, b_scale)):
        check_operand(name, operand, layout[f"{name}_element"])
        check_scale(name, scale, operand.shape, layout[f"{name}_block"])
    if layout["outliers"] == "columns" and parts[1].shape[0] != b.shape[0]:
        raise ValueError(
            f"outliers.b has {parts[1].shape[0]} rows, b {b.shape[0]}: pack with b's own weights"
        )
    told = (codes, b, a_scale, b_scale, list(parts), recipe)
    if out is None:
        product: Tensor = _make(*told, out_dtype)
        return product
    check_out(out, (codes.shape[0], b.shape[0]), out_dtype)
    _write(*told, out)
    return out


def _launch(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    outliers: list[Tensor],
    recipe: str,
    out: Tensor,
) -> None:
    check_device("a", a)
    (m, k), n = a.shape, b.shape[0]
    if m == 0:
        return
    device, _ = device_facts(a.device)
    choice = choose(KERNEL, (recipe, NAMES[out.dtype]), (n, k), m, device)
    if choice.config["tma"] and not all(aligned_rows(tensor) for tensor in (a, b, out)):
        choice = stand_in(choice, KERNEL, m, UNALIGNED)
    run(choice, (a, b, a_scale, b_scale), outliers, out)


def run(
    choice: Choice,
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    outliers: list[Tensor],
    out: Tensor,
) -> None:
    """Launch a configuration, whatever it was tuned for."""
    a, b, a_scale, b_scale = operands
    layout = choice.file.layout
    held: Any = importlib.import_module(f"{__package__}.kernels.triton.outlier_operands")
    kind = held.KeptColumns if layout["outliers"] == "columns" else held.FallbackBlocks
    parts = kind(**dict(zip(_PARTS[layout["outliers"]], outliers, strict=True)))
    with current(a.device):
        template(choice).launch(
            a,
            b,
            out,
            a_scale,
            b_scale,
            parts,
            a_block=layout["a_block"],
            b_block=layout["b_block"],
            config=choice.config,
        )


_make, _write = operator(
    "gemm_outliers",
    "Tensor a, Tensor b, Tensor a_scale, Tensor b_scale, Tensor[] outliers, str recipe",
    "out",
    empty=lambda a, b, *told: a.new_empty((a.shape[0], b.shape[0]), dtype=told[-1]),
    launch=_launch,
    wanted="ScalarType out_dtype",
)
