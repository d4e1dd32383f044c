"""Quantisation of torch tensors in blocks, registered as PyTorch operators.

In Triton, and in CUDA C++ where that was faster and CuPy is there.
"""

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_out, check_tensor, check_tensors, scale_grid
from ._operator import operator
from ._torch_device import DTYPES, NAMES, check_device, current, device_facts

KERNEL, CUDA = "triton_quantize", "cuda_quantize"
_LAYOUTS = layouts(KERNEL)

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
        x: (rows, cols), contiguous, in a source type that the package was emitted with.
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
        codes, scales = _make(x, format)
        return codes, scales
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise TypeError(f"out is {type(out).__name__}: it must be a pair (codes, scales)")
    codes, scales = out
    parts = {"codes of out": codes, "scales of out": scales}
    for name, part in parts.items():
        check_tensor(name, part)
    check_tensors("x", x=x, **parts)
    element, grid = DTYPES[layout["element"]], scale_grid(x.shape[0], x.shape[1], layout["block"])
    check_out(codes, x.shape, element, name="codes of out")
    check_out(scales, grid, torch.float32, name="scales of out")
    _write(x, format, codes, scales)
    return codes, scales


def _empty(x: Tensor, format: str) -> tuple[Tensor, Tensor]:
    layout = _LAYOUTS[format, NAMES[x.dtype]]
    block = layout["block"]
    grid = scale_grid(x.shape[0], x.shape[1], block)
    padded = -(-grid[0] // _ROW_PADDING) * _ROW_PADDING
    strides = (1, padded) if block[0] == 1 and block[1] else (grid[1], 1)
    codes = torch.empty(x.shape, dtype=DTYPES[layout["element"]], device=x.device)
    scales = torch.empty_strided(grid, strides, dtype=torch.float32, device=x.device)
    return codes, scales


def _launch(x: Tensor, format: str, codes: Tensor, scales: Tensor) -> None:
    check_device("x", x)
    rows, cols = x.shape
    if rows == 0:
        return
    device, _ = device_facts(x.device)
    choice = choose(KERNEL, (format, NAMES[x.dtype]), (cols,), rows, device, (CUDA,))
    if choice.file.kernel == CUDA and (why := obstacle(x.device)):
        choice = stand_in(choice, KERNEL, rows, why)
    run(choice, x, codes, scales)


def obstacle(device: torch.device) -> str:
    """Why the kernel in CUDA C++ cannot run on a device, or ''."""
    from ._cupy_views import missing_cupy  # ships with such entries only

    return "it needs an NVIDIA GPU" if device.type != "cuda" else missing_cupy()


def run(choice: Choice, x: Tensor, codes: Tensor, scales: Tensor) -> None:
    """Launch a configuration, whatever it was tuned for."""
    layout = choice.file.layout
    with current(x.device):
        if choice.file.kernel == CUDA:
            from ._cupy_views import stream, view

            template(choice).launch(
                view(x),
                view(codes),
                view(scales),
                source=NAMES[x.dtype],
                target=layout["element"],
                block=layout["block"],
                config=choice.config,
                stream=stream(x.device),
            )
            return
        template(choice).launch(x, codes, scales, block=layout["block"], config=choice.config)


_make, _write = operator(
    "quantize", "Tensor x, str format", "codes, scales", empty=_empty, launch=_launch
)
