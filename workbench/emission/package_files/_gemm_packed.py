"""Products of packed codes (MX, NVFP4, posits and others), registered as PyTorch operators."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_out, check_tensors
from ._operator import operator
from ._packed_operand import check_side, item_bits, powers, scale_bits
from ._torch_device import (
    NAMES,
    aligned_rows,
    check_capability,
    check_device,
    current,
    device_facts,
)

KERNEL = "triton_decoded_gemm"
#: The CUDA C++ kernels: MX formats of 8 bits, undecoded.  That for few rows, and that which aligns
#: scales in a workspace, read them as bytes.
SKINNY, ALIGNED = "hopper_skinny_gemm", "hopper_aligned_gemm"
HOPPER = ("hopper_block_gemm", SKINNY, ALIGNED)
UNALIGNED = "rows of an operand do not start at multiples of 16 bytes"
_LAYOUTS = layouts(KERNEL)
#: What the CUDA C++ kernel takes a byte of codes for.
_CODES = {"e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "mxint8": torch.int8}


def gemm_packed(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None = None,
    b_scale: Tensor | None = None,
    *,
    recipe: str,
    columns: int | None = None,
    a_tensor_scale: Tensor | None = None,
    b_tensor_scale: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``C[M, N] = A[M, K] · B[N, K]^T`` of the values ``code x scale``; for inference only.

    Args:
        a: (M, bytes of a row) activations, contiguous: uint8, or 8-bit codes in their own dtype;
            4-bit codes two a byte, the even column low, 6-bit ones four in three bytes.  A recipe
            with plain activations takes (M, K) bf16 or fp16.
        b: (N, bytes of a row) weights, likewise.
        a_scale, b_scale: one a block on the recipe's grid: fp32, or the bits of E8M0 and e4m3fn
            scales as uint8 or in torch's dtypes.  E8M0 scales may be given as the fp32 powers of
            two that they stand for, M (N) contiguous and padded to 4: so one of the CUDA C++
            kernels takes them, and the others take bytes, row-major; what is given otherwise is
            converted on each call.  A NaN scale makes every product of its block NaN.
        recipe: a recipe that the package was emitted with, e.g. ``"mxfp8-e4m3"``.
        columns: K; default: as many as the bytes of ``a`` hold.
        a_tensor_scale, b_tensor_scale: (1,) fp32, the second level of NVFP4.
        out_dtype: element type of C, one that the package was emitted with.
        out: (M, N), ``out_dtype``, contiguous: receives C when given.
    Returns:
        C (M, N), or ``out``.
    Raises:
        ValueError: unknown recipe or output, wrong shape, device or stride, or a GPU that cannot
            decode.
        TypeError: wrong dtype, or no tensor.
    """
    scales = {"a_scale": a_scale, "b_scale": b_scale}
    outer = {"a_tensor_scale": a_tensor_scale, "b_tensor_scale": b_tensor_scale}
    check_tensors("a", a=a, b=b, **scales, **outer, out=out)
    layout = _LAYOUTS.get((recipe, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(f"{name} -> {plain}" for name, plain in _LAYOUTS)
        raise ValueError(
            f"no packed product for recipe {recipe!r} and output {out_dtype}: there is {known}"
        )
    if a.ndim != 2 or b.ndim != 2 or b.numel() == 0 or a.shape[1] == 0:
        raise ValueError(
            f"gemm_packed takes matrices of codes, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if columns is None:
        columns = a.shape[1] * item_bits(layout["a"]) // layout["a"]["bits"]
    sides = (
        ("a", a, a_scale, a_tensor_scale),
        ("b", b, b_scale, b_tensor_scale),
    )
    for name, codes, scale, second in sides:
        check_side(name, codes, scale, second, layout[name], columns)
    told = (a, b, *scales.values(), *outer.values(), recipe, columns)
    if out is None:
        product: Tensor = _make(*told, out_dtype)
        return product
    check_out(out, (a.shape[0], b.shape[0]), out_dtype, contiguous=True)
    _write(*told, out)
    return out


Operands = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _launch(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor | None,
    b_scale: Tensor | None,
    a_tensor_scale: Tensor | None,
    b_tensor_scale: Tensor | None,
    recipe: str,
    columns: int,
    out: Tensor,
) -> None:
    check_device("a", a)
    check_capability("codes are decoded by instructions of", a.device)
    (m, n), formats = out.shape, (recipe, NAMES[out.dtype])
    if m == 0:
        return
    device, _ = device_facts(a.device)
    choice = choose(KERNEL, formats, (n, columns), m, device, HOPPER)
    if choice.file.kernel in HOPPER:
        from . import _hopper_gemm  # ships with such entries only

        aligned = all(aligned_rows(tensor) for tensor in (a, b, out))
        if obstacle := _hopper_gemm.obstacle(a.device) if aligned else UNALIGNED:
            choice = stand_in(choice, KERNEL, m, obstacle)
    operands = (a, b, a_scale, b_scale, a_tensor_scale, b_tensor_scale)
    run(choice, operands, out, columns)


def run(choice: Choice, operands: Operands, out: Tensor, columns: int) -> None:
    """Launch a configuration, whatever it was tuned for."""
    a, b, a_scale, b_scale, a_outer, b_outer = operands
    layout = choice.file.layout
    if choice.file.kernel in HOPPER:
        from . import _hopper_gemm

        assert a_scale is not None
        assert b_scale is not None
        codes = _CODES[layout["a_element"]]
        scales: Any = (powers(a_scale), powers(b_scale))
        if choice.file.kernel in (SKINNY, ALIGNED):
            scales = (scale_bits(a_scale, "e8m0fnu"), scale_bits(b_scale, "e8m0fnu"))
        rest: dict[str, Any] = {}
        if choice.file.kernel == ALIGNED:
            words = template(choice).workspace_bytes(*out.shape, columns)
            rest["workspace"] = torch.empty(words, dtype=torch.uint8, device=a.device)
        _hopper_gemm.launch(choice, a.view(codes), b.view(codes), scales[0], scales[1], out, **rest)
        return
    module = template(choice)
    operand: Any = importlib.import_module(f"{__package__}.kernels.triton.decoded_operand")
    sizes: Any = importlib.import_module(f"{__package__}.kernels.triton.decoded_arguments")

    def stored(
        codes: Tensor, scale: Tensor | None, outer: Tensor | None, facts: Mapping[str, Any]
    ) -> Any:
        plain = facts["kind"] == "plain"
        names = ("kind", "bits", "mantissa", "bias", "specials", "offset")
        return operand.StoredMatrix(
            codes=codes if plain else codes.view(torch.uint8),
            columns=columns,
            element=operand.Element(**{name: facts[name] for name in names}),
            scales=scale_bits(scale, facts["stored"]),
            block=tuple(facts["block"] or (0, 0)),
            stored=facts["stored"] or "fp32",
            tensor_scale=outer,
        )

    words = sizes.workspace_bytes(choice.config, *out.shape, columns)
    workspace = torch.empty(words, dtype=torch.uint8, device=a.device) if words else None
    _, num_sms = device_facts(a.device)
    with current(a.device):
        module.launch(
            stored(a, a_scale, a_outer, layout["a"]),
            stored(b, b_scale, b_outer, layout["b"]),
            out,
            config=choice.config,
            workspace=workspace,
            num_sms=num_sms,
        )


_make, _write = operator(
    "gemm_packed",
    "Tensor a, Tensor b, Tensor? a_scale, Tensor? b_scale, Tensor? a_tensor_scale, "
    "Tensor? b_tensor_scale, str recipe, SymInt columns",
    "out",
    empty=lambda a, b, *told: a.new_empty((a.shape[0], b.shape[0]), dtype=told[-1]),
    launch=_launch,
    wanted="ScalarType out_dtype",
)
