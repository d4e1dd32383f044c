"""Scaled matrix products on torch tensors, registered as PyTorch operators."""

import importlib
from typing import Any

import torch
from torch import Tensor

from ._lookup import choose, layouts, stand_in, template
from ._operands import check_operand, check_out, check_scale, check_sums, check_tensors
from ._operator import operator
from ._torch_device import NAMES, aligned_rows, check_device, current, decodes, device_facts
from ._workspace import zeroed_words

KERNEL = "triton_gemm"
#: The CUDA C++ kernels; they have the fastest configurations of some shapes.
HOPPER = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")
#: Tiles from which a GPU is full without split-K; the search splits fewer only.
FULL_TILES = 512
UNALIGNED = "rows of an operand do not start at multiples of 16 bytes"
_LAYOUTS = layouts(KERNEL)


def gemm(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
    *,
    recipe: str,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``C[M, N] = A[M, K] · B[N, K]^T`` of the values ``code x scale``; for inference only.

    The operator has no derivative: the product of operands that require gradients cannot be
    differentiated.

    Args:
        a: (M, K) activations, K contiguous, in the recipe's activation element.
        b: (N, K) weights, K contiguous, in the recipe's weight element.
        a_scale, b_scale: fp32, one scale a block on the recipe's grid, any strides; ``None`` where
            the recipe has no scales.  A NaN scale makes every product of its block NaN.
        recipe: a recipe that the package was emitted with, e.g. ``"deepseek-fp8"``.
        out_dtype: element type of C, one that the package was emitted with.
        out: (M, N), ``out_dtype``, N contiguous: receives C when given; any content is overwritten.
    Returns:
        C (M, N), or ``out``.
    Raises:
        ValueError: unknown recipe or output, wrong shape, device or stride.
        TypeError: wrong dtype, or no tensor.
    """
    check_tensors("a", a=a, b=b, a_scale=a_scale, b_scale=b_scale, out=out)
    layout = _LAYOUTS.get((recipe, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(f"{name} -> {plain}" for name, plain in _LAYOUTS)
        raise ValueError(f"no gemm for recipe {recipe!r} and output {out_dtype}: there is {known}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or b.shape[0] == 0 or b.shape[1] == 0:
        raise ValueError(
            f"gemm takes a (M, K) and b (N, K), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    check_sums(a.shape[1], layout["max_k"])
    for name, operand, scale in (("a", a, a_scale), ("b", b, b_scale)):
        check_operand(name, operand, layout[f"{name}_element"])
        check_scale(name, scale, operand.shape, layout[f"{name}_block"])
    if out is None:
        product: Tensor = _make(a, b, a_scale, b_scale, recipe, out_dtype)
        return product
    check_out(out, (a.shape[0], b.shape[0]), out_dtype)
    _write(a, b, a_scale, b_scale, recipe, out)
    return out


def _empty(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    recipe: str,
    out_dtype: torch.dtype,
) -> Tensor:
    return a.new_empty((a.shape[0], b.shape[0]), dtype=out_dtype)


def _launch(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    recipe: str,
    out: Tensor,
) -> None:
    check_device("a", a)
    m, k = a.shape
    n = b.shape[0]
    if m == 0:
        return
    device, num_sms = device_facts(a.device)
    choice = choose(KERNEL, (recipe, NAMES[out.dtype]), (n, k), m, device, HOPPER)
    aligned = all(aligned_rows(tensor) for tensor in (a, b, out))
    if choice.file.kernel in HOPPER:
        from . import _hopper_gemm  # ships with such entries only

        if aligned and not (obstacle := _hopper_gemm.obstacle(a.device)):
            _hopper_gemm.launch(choice, a, b, a_scale, b_scale, out)
            return
        choice = stand_in(choice, KERNEL, m, obstacle if aligned else UNALIGNED)
    elif choice.config["tma"] and not aligned:
        choice = stand_in(choice, KERNEL, m, UNALIGNED)
    layout = choice.file.layout
    # The default for any GPU leaves the numeric path open.
    decode = decodes(a.device) if layout["decode"] is None else layout["decode"]
    config, workspace = _shared(choice.config, (m, n, k), a.device, num_sms)
    with current(a.device):
        template(choice).launch(
            a,
            b,
            out,
            a_scale,
            b_scale,
            a_block=layout["a_block"],
            b_block=layout["b_block"],
            config=config,
            decode=decode,
            num_sms=num_sms,
            workspace=workspace,
        )


def _shared(
    config: "dict[str, int | bool]", shape: tuple[int, int, int], device: torch.device, num_sms: int
) -> "tuple[dict[str, int | bool], Tensor | None]":
    """A configuration, and the workspace of one whose programs share K.

    Args:
        shape: (M, N, K).
    """
    if config.get("split_k", 1) == 1 and not config.get("stream_k", False):
        return config, None
    sizes: Any = importlib.import_module(f"{__package__}.kernels.triton.split_workspace")
    m, n, _ = shape
    tiles = -(-m // int(config["block_m"])) * -(-n // int(config["block_n"]))
    if config.get("split_k", 1) > 1 and tiles >= FULL_TILES:
        # Tuned for far fewer rows than the call has: its partial sums would take gigabytes.
        return {**config, "split_k": 1}, None
    words = sizes.workspace_words(config, *shape, num_sms)
    return config, zeroed_words(words, sizes.MAX_SPLIT_TILES, device)


_make, _write = operator(
    "gemm",
    "Tensor a, Tensor b, Tensor? a_scale, Tensor? b_scale, str recipe",
    "out",
    empty=_empty,
    launch=_launch,
    wanted="ScalarType out_dtype",
)
