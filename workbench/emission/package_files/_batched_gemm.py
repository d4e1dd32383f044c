"""Products matrix by matrix, as attention has them, registered as PyTorch operators."""

import math

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_operand, check_out, check_scale, check_sums, check_tensors
from ._operator import operator
from ._torch_device import NAMES, check_device, current, decodes, device_facts

KERNEL = "triton_batched_gemm"
UNALIGNED = "rows off multiples of 16 bytes, or matrices that do not follow each other"
RAGGED = "K is no multiple of the tuned depth of a tile, and b is stored (K, N)"
_LAYOUTS = layouts(KERNEL)


def batched_gemm(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
    *,
    recipe: str,
    second: str = "nk",
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``C[z] = A[z] · B[z]^T`` of the values ``code x scale``, for every matrix z; no derivative.

    Q·K^T has ``second="nk"``.  P·V has ``"kn"``: V is stored with its columns contiguous.

    Args:
        a: (batch, M, K) or (batch, heads, M, K) in the recipe's activation element, K contiguous;
            other strides as they come, so that heads may lie between tokens.
        b: (..., N, K) or (..., K, N) as ``second`` says, in the recipe's weight element, the last
            extent contiguous.
        a_scale, b_scale: fp32, (..., rows, columns) of each matrix' grid, any strides; b's on the
            grid of its (N, K) shape whatever ``second`` is.  ``None`` where the recipe has no
            scales.  A NaN scale makes every product of its block NaN.
        recipe: a recipe that the package was emitted with, for this ``second``.
        second: "nk" or "kn".
        out_dtype: element type of C, one that the package was emitted with.
        out: (..., M, N), ``out_dtype``, N contiguous: receives C when given.
    Returns:
        C (..., M, N), or ``out``.
    Raises:
        ValueError: unknown recipe, order or output, wrong shape, device or stride.
        TypeError: wrong dtype, or no tensor.
    """
    check_tensors("a", a=a, b=b, a_scale=a_scale, b_scale=b_scale, out=out)
    layout = _LAYOUTS.get((recipe, second, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(" ".join(formats) for formats in _LAYOUTS)
        raise ValueError(
            f"no batched product for recipe {recipe!r}, second {second!r} and output {out_dtype}: "
            f"there is {known}"
        )
    if a.ndim not in (3, 4) or b.ndim != a.ndim or a.shape[:-2] != b.shape[:-2]:
        raise ValueError(
            "batched_gemm takes a (batch, M, K) or (batch, heads, M, K) and b with as many "
            f"matrices, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    k, n = b.shape[-2:] if second == "kn" else b.shape[:-3:-1]
    if a.shape[-1] != k or 0 in (n, k):
        wanted = "(..., K, N)" if second == "kn" else "(..., N, K)"
        raise ValueError(
            f"batched_gemm takes a (..., M, K) and b {wanted}, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    check_sums(k, layout["max_k"])
    weight = (*b.shape[:-2], n, k)
    for name, operand, scale, shape in (("a", a, a_scale, a.shape), ("b", b, b_scale, weight)):
        check_operand(name, operand, layout[f"{name}_element"])
        check_scale(name, scale, shape, layout[f"{name}_block"])
        if operand.stride(-1) != 1:
            raise ValueError(f"{name} has strides {operand.stride()}: its rows must be contiguous")
    told = (a, b, a_scale, b_scale, recipe, second)
    if out is None:
        product: Tensor = _make(*told, out_dtype)
        return product
    check_out(out, _shape(a, b, second), out_dtype)
    if out.stride(-1) != 1:
        raise ValueError(f"out has strides {out.stride()}: its rows must be contiguous")
    _write(*told, out)
    return out


def _shape(a: Tensor, b: Tensor, second: str) -> tuple[int, ...]:
    return (*a.shape[:-1], b.shape[-1 if second == "kn" else -2])


def _empty(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    recipe: str,
    second: str,
    out_dtype: torch.dtype,
) -> Tensor:
    return a.new_empty(_shape(a, b, second), dtype=out_dtype)


def _launch(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    recipe: str,
    second: str,
    out: Tensor,
) -> None:
    check_device("a", a)
    if out.numel() == 0:
        return
    device, _ = device_facts(a.device)
    m, n, k = out.shape[-2], out.shape[-1], a.shape[-1]
    length, head = (k, n) if second == "kn" else (n, k)
    free = (math.prod(a.shape[:-2]), m, length)
    choice = choose(KERNEL, (recipe, second, NAMES[out.dtype]), (head,), free, device)
    run(fitting(choice, a, b), (a, b, a_scale, b_scale), out)


def fitting(choice: Choice, a: Tensor, b: Tensor) -> Choice:
    """The choice, or the default that runs where its descriptors cannot reach the operands."""
    if not choice.config["tma"]:
        return choice
    if not (_gapless(a) and _gapless(b)):
        return stand_in(choice, KERNEL, choice.m, UNALIGNED)
    if choice.file.layout["second"] == "kn" and a.shape[-1] % choice.config["block_k"]:
        return stand_in(choice, KERNEL, choice.m, RAGGED)
    return choice


def _gapless(tensor: Tensor) -> bool:
    """Whether one descriptor can address all matrices: aligned rows, one under the other."""
    pitch, rows = tensor.stride(-2), tensor.shape[-2]
    aligned = tensor.data_ptr() % 16 == 0 and pitch * tensor.element_size() % 16 == 0
    for extent, stride in zip(tensor.shape[-3::-1], tensor.stride()[-3::-1], strict=True):
        if extent > 1 and stride != rows * pitch:
            return False
        rows *= extent
    return aligned and pitch >= tensor.shape[-1]


def run(
    choice: Choice, operands: tuple[Tensor, Tensor, Tensor | None, Tensor | None], out: Tensor
) -> None:
    """Launch a configuration, whatever it was tuned for."""
    a, b, a_scale, b_scale = operands
    layout = choice.file.layout
    with current(a.device):
        template(choice).launch(
            a,
            b,
            out,
            a_scale,
            b_scale,
            second=layout["second"],
            a_block=layout["a_block"],
            b_block=layout["b_block"],
            config=choice.config,
            decode=decodes(a.device) if layout["decode"] is None else layout["decode"],
        )


_make, _write = operator(
    "batched_gemm",
    "Tensor a, Tensor b, Tensor? a_scale, Tensor? b_scale, str recipe, str second",
    "out",
    empty=_empty,
    launch=_launch,
    wanted="ScalarType out_dtype",
)
