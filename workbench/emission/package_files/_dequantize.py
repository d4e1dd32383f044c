"""Dequantisation of codes and block scales, registered as PyTorch operators."""

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, template
from ._operands import check_out, check_tensors, scale_grid
from ._operator import operator
from ._torch_device import DTYPES, NAMES, check_device, current, device_facts

KERNEL = "triton_dequantize"
_LAYOUTS = layouts(KERNEL)
#: Dtypes in which scales of a stored format are taken; the kernel reads those of one byte as bits.
_STORED = {
    "fp32": (torch.float32,),
    "fp16": (torch.float16,),
    "bf16": (torch.bfloat16,),
    "e8m0fnu": (torch.uint8, torch.float8_e8m0fnu),
    "e4m3fn": (torch.uint8, torch.float8_e4m3fn),
}


def dequantize(
    codes: Tensor,
    scales: Tensor,
    format: str,
    *,
    columns: int | None = None,
    tensor_scale: Tensor | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    out: Tensor | None = None,
) -> Tensor:
    """``code x scale``, rounded to fp32 and from there to the output; no derivative.

    A NaN scale (E8M0: 0xff) makes its block NaN.

    Args:
        codes: (rows, bytes of a row), contiguous: 8-bit codes in their own dtype or as uint8,
            4-bit codes two a byte, the even column low, 6-bit ones four in three bytes.
        scales: one a block on the format's grid, any strides: fp32, fp16 or bf16 as the format
            stores them, E8M0 and e4m3fn as uint8 or in torch's dtypes.
        format: a format that the package was emitted with, e.g. ``"int8.b32x32"``.
        columns: of the matrix; default: as many as the bytes of a row hold.
        tensor_scale: (1,) fp32, the second level of NVFP4.
        out_dtype: of the output, one that the package was emitted with.
        out: (rows, columns), ``out_dtype``, contiguous: receives the values when given.
    Returns:
        (rows, columns), or ``out``.
    Raises:
        ValueError: unknown format or output, wrong shape, device or stride, a second level missing
            or without need; TypeError: wrong dtype, or no tensor.
    """
    given = {"codes": codes, "scales": scales, "tensor_scale": tensor_scale, "out": out}
    check_tensors("codes", **given)
    layout = _LAYOUTS.get((format, NAMES.get(out_dtype, "")))
    if layout is None:
        known = ", ".join(f"{source} -> {plain}" for source, plain in _LAYOUTS)
        raise ValueError(f"no dequantize from {format!r} to {out_dtype}: there is {known}")
    taken = (torch.uint8, DTYPES.get(layout["element"], torch.uint8))
    if codes.dtype not in taken:
        known = " or ".join(str(dtype) for dtype in dict.fromkeys(taken))
        raise TypeError(f"codes hold {codes.dtype}: {format} takes codes as {known}")
    if codes.ndim != 2 or codes.shape[1] == 0 or not codes.is_contiguous():
        raise ValueError(
            f"dequantize takes a contiguous matrix of codes, got {tuple(codes.shape)} of strides "
            f"{codes.stride()}"
        )
    columns = codes.shape[1] * 8 // layout["bits"] if columns is None else columns
    row_bytes = -(-columns * layout["bits"] // 8)
    if columns < 1 or codes.shape[1] != row_bytes:
        raise ValueError(
            f"codes have {codes.shape[1]} bytes a row: {columns} columns of {layout['bits']} bits "
            f"take {row_bytes}"
        )
    wanted = _STORED[layout["stored"]]
    if scales.dtype not in wanted:
        raise TypeError(f"scales must be {' or '.join(map(str, wanted))}, got {scales.dtype}")
    grid = scale_grid(codes.shape[0], columns, layout["block"])
    if tuple(scales.shape) != grid:
        raise ValueError(f"scales must be {grid}, got {tuple(scales.shape)}")
    if layout["two_level"] != (tensor_scale is not None):
        needed = "needs" if layout["two_level"] else "has no"
        raise ValueError(f"tensor_scale: {format} {needed} a second level of scales")
    if tensor_scale is not None:
        check_out(tensor_scale, (1,), torch.float32, name="tensor_scale")
    told = (codes, scales, tensor_scale, format, columns)
    if out is None:
        values: Tensor = _make(*told, out_dtype)
        return values
    check_out(out, (codes.shape[0], columns), out_dtype, contiguous=True)
    _write(*told, out)
    return out


def _launch(
    codes: Tensor,
    scales: Tensor,
    tensor_scale: Tensor | None,
    format: str,
    columns: int,
    out: Tensor,
) -> None:
    check_device("codes", codes)
    if codes.shape[0]:
        device, _ = device_facts(codes.device)
        formats = (format, NAMES[out.dtype])
        choice = choose(KERNEL, formats, (columns,), codes.shape[0], device)
        run(choice, codes, scales, tensor_scale, out)


def run(
    choice: Choice, codes: Tensor, scales: Tensor, tensor_scale: Tensor | None, out: Tensor
) -> None:
    """Launch a configuration, whatever it was tuned for."""
    layout = choice.file.layout
    with current(codes.device):
        template(choice).launch(
            codes.view(torch.uint8),
            scales.view(torch.uint8) if scales.element_size() == 1 else scales,
            out,
            element=layout["element"],
            block=layout["block"],
            stored=layout["stored"],
            tensor_scale=tensor_scale,
            config=choice.config,
        )


_make, _write = operator(
    "dequantize",
    "Tensor codes, Tensor scales, Tensor? tensor_scale, str format, SymInt columns",
    "out",
    empty=lambda codes, *told: torch.empty(
        (codes.shape[0], told[-2]), dtype=told[-1], device=codes.device
    ),
    launch=_launch,
    wanted="ScalarType out_dtype",
)
