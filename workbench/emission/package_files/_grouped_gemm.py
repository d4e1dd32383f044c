"""Grouped products, the experts of a mixture, registered as PyTorch operators."""

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_operand, check_out, check_sums, check_tensors
from ._operator import operator
from ._torch_device import NAMES, check_device, current, decodes, device_facts

KERNEL = "triton_grouped_gemm"
#: The CUDA C++ kernel: contiguous, padded and masked rows.
HOPPER = ("hopper_grouped_gemm",)
UNALIGNED = "rows of an operand do not start at multiples of 16 bytes"
UNFIT = f"{UNALIGNED}, or matrices do not follow each other"
_LAYOUTS = layouts(KERNEL)


def grouped_gemm(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
    *,
    recipe: str,
    offsets: Tensor | None = None,
    counts: Tensor | None = None,
    ids: Tensor | None = None,
    top_k: int = 1,
    expected_rows: int | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``C[r] = A[r] · B[e(r)]^T``: every row by its expert's weights; for inference only.

    Where rows lie is read on the device, so that a CUDA graph can be replayed with other routing:

    * contiguous (``offsets``): rows ``offsets[e]`` to ``offsets[e + 1]`` of A and C;
    * padded (``offsets`` and ``counts``): ``counts[e]`` rows from ``offsets[e]`` on;
    * masked (``counts``): A and C are (E, capacity, ...), ``counts[e]`` rows of each in use;
    * gathered (``offsets`` and ``ids``): entry i of ``ids``, sorted by expert, reads row
      ``ids[i] // top_k`` of A and writes row ``ids[i]`` of C.

    Rows of C that belong to no expert are not written: without ``out`` they hold anything.

    Args:
        a: (rows, K), masked (E, capacity, K), gathered (tokens, K); K contiguous.
        b: (E, N, K) weights, K contiguous.
        a_scale, b_scale: fp32, one scale a block on the recipe's grid, any strides; b's, and a's
            where masked, with the experts in front.  ``None`` where the recipe has no scales.
        recipe: a recipe that the package was emitted with, for this order of rows.
        offsets: (E + 1,) int64, ascending.
        counts: (E,) int32.
        ids: (entries,) int32 or int64, each in [0, tokens * top_k); they are not checked.
        top_k: experts that every gathered token goes to.
        expected_rows: rows in use that masked and padded operands are expected to have, by which
            the configuration is chosen; default: all that there are.
        out_dtype: element type of C, one that the package was emitted with.
        out: C, ``out_dtype``, N contiguous: receives the products when given.
    Returns:
        C, or ``out``.
    Raises:
        ValueError: unknown recipe, order or output, wrong shape, device or stride.
        TypeError: wrong dtype, or no tensor.
    """
    scales = {"a": a_scale, "b": b_scale}
    optional = {"offsets": offsets, "counts": counts, "ids": ids, "out": out}
    check_tensors("a", a=a, b=b, a_scale=a_scale, b_scale=b_scale, **optional)
    if offsets is None and counts is None:
        raise ValueError("give offsets (contiguous, gathered), counts (masked), or both (padded)")
    order = _order(offsets, counts, ids)
    layout = _LAYOUTS.get((recipe, order, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(f"{name} {rows} -> {plain}" for name, rows, plain in _LAYOUTS)
        raise ValueError(
            f"no grouped product for recipe {recipe!r}, {order} rows and output {out_dtype}: "
            f"there is {known}"
        )
    for name, number, least in (("top_k", top_k, 1), ("expected_rows", expected_rows, 0)):
        if number is not None and number < least:
            raise ValueError(f"{name} {number}: at least {least}")
    fits = b.ndim == 3 and a.ndim == (3 if order == "masked" else 2) and a.shape[-1] == b.shape[-1]
    if not fits or 0 in b.shape:
        raise ValueError(
            f"grouped_gemm takes a (..., K) and b (E, N, K), {order}: got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    for name, operand in (("a", a), ("b", b)):
        check_operand(name, operand, layout[f"{name}_element"])
        scaled = scales[name] is not None
        if scaled != (layout[f"{name}_block"] is not None):
            found = "is given" if scaled else "is missing"
            raise ValueError(f"{name}_scale {found}: see the recipe's scales")
    check_sums(a.shape[-1], layout["max_k"])
    told = (a, b, a_scale, b_scale, offsets, counts, ids, recipe, top_k, expected_rows or 0)
    if out is None:
        product: Tensor = _make(*told, out_dtype)
        return product
    check_out(out, _shape(a, b, ids, top_k), out_dtype)
    _write(*told, out)
    return out


def _order(offsets: Tensor | None, counts: Tensor | None, ids: Tensor | None) -> str:
    if ids is not None:
        return "gathered"
    if offsets is None:
        return "masked"
    return "contiguous" if counts is None else "padded"


def _shape(a: Tensor, b: Tensor, ids: Tensor | None, top_k: int) -> tuple[int, ...]:
    rows = a.shape[:-1] if ids is None else (a.shape[0] * top_k,)
    return (*rows, b.shape[1])


def _aligned(tensor: Tensor) -> bool:
    """Whether descriptors can address rows, and matrices one behind the other."""
    item = tensor.element_size()
    return tensor.data_ptr() % 16 == 0 and all(s * item % 16 == 0 for s in tensor.stride()[:-1])


def _fits_hopper(tensor: Tensor) -> bool:
    """Whether the CUDA C++ kernel takes a matrix, or matrices that follow each other."""
    *matrices, rows, cols = tensor.shape
    pitch = tensor.stride(-2)
    follow = not matrices or tensor.stride(0) == rows * pitch
    return follow and pitch >= cols and cols * tensor.element_size() % 16 == 0 and _aligned(tensor)


def _launch(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    offsets: Tensor | None,
    counts: Tensor | None,
    ids: Tensor | None,
    recipe: str,
    top_k: int,
    expected_rows: int,
    out: Tensor,
) -> None:
    check_device("a", a)
    rows = a.numel() // a.shape[-1] if ids is None else ids.shape[0]
    if rows == 0 or out.numel() == 0:
        return
    order = _order(offsets, counts, ids)
    size = {"masked": a.shape[-2], "gathered": top_k}.get(order, 1)
    if order in ("masked", "padded") and expected_rows:
        rows = expected_rows
    device, _ = device_facts(a.device)
    formats = (recipe, order, NAMES[out.dtype])
    choice = choose(KERNEL, formats, (b.shape[0], *b.shape[1:], size), rows, device, HOPPER)
    if choice.file.kernel in HOPPER:
        from . import _hopper_gemm  # ships with such entries only

        fits = all(_fits_hopper(tensor) for tensor in (a, b, out))
        if obstacle := _hopper_gemm.obstacle(a.device) if fits else UNFIT:
            choice = stand_in(choice, KERNEL, rows, obstacle)
    elif choice.config["tma"] and not (_aligned(a) and _aligned(b)):
        choice = stand_in(choice, KERNEL, rows, UNALIGNED)
    run(choice, (a, b, a_scale, b_scale), (offsets, counts, ids), out, top_k)


def run(
    choice: Choice,
    operands: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    routing: tuple[Tensor | None, Tensor | None, Tensor | None],
    out: Tensor,
    top_k: int,
) -> None:
    """Launch a configuration, whatever it was tuned for."""
    a, b, a_scale, b_scale = operands
    offsets, counts, ids = routing
    if choice.file.kernel in HOPPER:
        from . import _hopper_gemm

        _hopper_gemm.launch(choice, *operands, out, offsets=offsets, counts=counts)
        return
    layout = choice.file.layout
    decode = decodes(a.device) if layout["decode"] is None else layout["decode"]
    _, num_sms = device_facts(a.device)
    with current(a.device):
        template(choice).launch(
            a,
            b,
            out,
            a_scale,
            b_scale,
            offsets=offsets,
            counts=counts,
            ids=ids,
            top_k=top_k,
            a_block=layout["a_block"],
            b_block=layout["b_block"],
            config=choice.config,
            decode=decode,
            num_sms=num_sms,
        )


def _empty(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    offsets: Tensor | None,
    counts: Tensor | None,
    ids: Tensor | None,
    recipe: str,
    top_k: int,
    expected_rows: int,
    out_dtype: torch.dtype,
) -> Tensor:
    return a.new_empty(_shape(a, b, ids, top_k), dtype=out_dtype)


_make, _write = operator(
    "grouped_gemm",
    "Tensor a, Tensor b, Tensor? a_scale, Tensor? b_scale, Tensor? offsets, Tensor? counts, "
    "Tensor? ids, str recipe, int top_k, SymInt expected_rows",
    "out",
    empty=_empty,
    launch=_launch,
    wanted="ScalarType out_dtype",
)
