"""Quantisation of torch tensors in blocks, registered as PyTorch operators."""

import torch
from torch import Tensor

from ._lookup import choose, layouts, template
from ._torch_device import DTYPES, NAMES, check_device, check_tensor, current, device_facts

KERNEL = "triton_quantize"
_LAYOUTS = layouts(KERNEL)
_NAMESPACE = str(__package__).replace(".", "_")

#: 1xB scales have rows contiguous and padded to this, as ``torch._scaled_mm`` takes them.
_ROW_PADDING = 4


def quantize(
    x: Tensor, format: str, *, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Quantise a matrix: ``scale = amax / largest element``, ``code = round(x / scale)``.

    Rounds to nearest even and saturates.  An all-zero block has codes 0 and scale 1; a NaN or an
    infinity makes the scale of its block NaN.  Ragged last blocks take the values they have.  For
    inference only: the operator has no derivative.

    Args:
        x: (rows, cols), columns contiguous, in a source type that the package was emitted with.
        format: a target format that the package was emitted with, e.g. ``"e4m3fn.b1x128"``.
        out: codes and scales to write into, shaped as below; any content is overwritten.
    Returns:
        Codes (rows, cols) and fp32 scales on the format's grid.  Scales of 1xB blocks are stored
        with rows contiguous, all others row-major.
    Raises:
        ValueError: unknown format, wrong shape, device or stride.
        TypeError: wrong dtype, no tensor, or ``out`` is no pair of them.
    """
    check_tensor("x", x)
    layout = _LAYOUTS.get((format, NAMES.get(x.dtype, "")))
    if layout is None:
        known = ", ".join(f"{source} -> {target}" for target, source in _LAYOUTS)
        raise ValueError(f"no quantize from {x.dtype} to {format!r}: there is {known}")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"quantize takes a matrix (rows, cols), got {tuple(x.shape)}")
    if out is None:
        codes, scales = _quantize_op(x, format)
        return codes, scales
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise TypeError(f"out is {type(out).__name__}: it must be a pair (codes, scales)")
    codes, scales = out
    check_tensor("codes of out", codes)
    check_tensor("scales of out", scales)
    grid = _grid(x, layout["block"])
    if codes.shape != x.shape or tuple(scales.shape) != grid:
        raise ValueError(
            f"out must be codes {tuple(x.shape)} and scales {grid}, "
            f"got {tuple(codes.shape)} and {tuple(scales.shape)}"
        )
    if codes.device != x.device or scales.device != x.device:
        raise ValueError(f"x lies on {x.device}, out on {codes.device} and {scales.device}")
    if codes.dtype != DTYPES[layout["element"]] or scales.dtype != torch.float32:
        raise TypeError(
            f"out must be {DTYPES[layout['element']]} and torch.float32, "
            f"got {codes.dtype} and {scales.dtype}"
        )
    _quantize_out_op(x, codes, scales, format)
    return codes, scales


def _grid(x: Tensor, block: tuple[int, int]) -> tuple[int, int]:
    rows, cols = x.shape
    return (
        -(-rows // block[0]) if block[0] else 1,
        -(-cols // block[1]) if block[1] else 1,
    )


def _empty(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    layout = _LAYOUTS[format, NAMES[x.dtype]]
    block = layout["block"]
    grid = _grid(x, block)
    padded = -(-grid[0] // _ROW_PADDING) * _ROW_PADDING
    strides = (1, padded) if block[0] == 1 and block[1] else (grid[1], 1)
    codes = torch.empty(x.shape, dtype=DTYPES[layout["element"]], device=x.device)
    scales = torch.empty_strided(grid, strides, dtype=torch.float32, device=x.device)
    return codes, scales


def _launch(x: Tensor, codes: Tensor, scales: Tensor, format: str) -> None:
    check_device("x", x)
    rows, cols = x.shape
    if rows == 0:
        return
    device, _ = device_facts(x.device)
    choice = choose(KERNEL, (format, NAMES[x.dtype]), (cols,), rows, device)
    with current(x.device):
        template(choice).launch(
            x, codes, scales, block=choice.file.layout["block"], config=choice.config
        )


@torch.library.custom_op(
    f"{_NAMESPACE}::quantize", mutates_args=(), schema="(Tensor x, str format) -> (Tensor, Tensor)"
)
def _quantize_op(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    codes, scales = _empty(x, format)
    _launch(x, codes, scales, format)
    return codes, scales


@_quantize_op.register_fake
def _(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    return _empty(x, format)


@torch.library.custom_op(
    f"{_NAMESPACE}::quantize_out",
    mutates_args=("codes", "scales"),
    schema="(Tensor x, Tensor(a!) codes, Tensor(b!) scales, str format) -> ()",
)
def _quantize_out_op(x: Tensor, codes: Tensor, scales: Tensor, format: str) -> None:
    _launch(x, codes, scales, format)


@_quantize_out_op.register_fake
def _(x: Tensor, codes: Tensor, scales: Tensor, format: str) -> None:
    return None
