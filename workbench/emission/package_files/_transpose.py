"""Transposition of 8-bit codes, registered as PyTorch operators."""

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_out, check_tensors
from ._operator import operator
from ._torch_device import NAMES, check_device, current, device_facts

KERNEL, CUDA = "triton_transpose", "cuda_transpose"
_LAYOUTS = layouts(KERNEL)


def transpose(codes: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The codes of a row-major matrix as a row-major matrix the other way round.

    Scales of square blocks need no kernel: their grid's transpose is a view.

    Args:
        codes: (rows, cols), contiguous, of an 8-bit type that the package was emitted with.
        out: (cols, rows), contiguous, apart from ``codes``: receives them when given.
    Returns:
        (cols, rows) of the same type, or ``out``.
    Raises:
        ValueError: wrong shape, device or stride; TypeError: wrong dtype, or no tensor.
    """
    check_tensors("codes", codes=codes, out=out)
    if (NAMES.get(codes.dtype, ""),) not in _LAYOUTS:
        known = ", ".join(element for (element,) in _LAYOUTS)
        raise TypeError(f"no transpose of {codes.dtype}: there is {known}")
    if codes.ndim != 2 or codes.shape[1] == 0 or not codes.is_contiguous():
        raise ValueError(
            f"transpose takes a contiguous matrix of codes, got {tuple(codes.shape)} of strides "
            f"{codes.stride()}"
        )
    if out is None:
        turned: Tensor = _make(codes)
        return turned
    check_out(out, (codes.shape[1], codes.shape[0]), codes.dtype, contiguous=True)
    _write(codes, out)
    return out


def _launch(codes: Tensor, out: Tensor) -> None:
    check_device("codes", codes)
    rows, cols = codes.shape
    if rows:
        device, _ = device_facts(codes.device)
        choice = choose(KERNEL, (NAMES[codes.dtype],), (cols,), rows, device, (CUDA,))
        if choice.file.kernel == CUDA and (why := obstacle(codes.device)):
            choice = stand_in(choice, KERNEL, rows, why)
        run(choice, codes, out)


def obstacle(device: torch.device) -> str:
    """Why the kernel in CUDA C++ cannot run on a device, or ''."""
    from ._cupy_views import missing_cupy  # ships with such entries only

    return "it needs an NVIDIA GPU" if device.type != "cuda" else missing_cupy()


def run(choice: Choice, codes: Tensor, out: Tensor) -> None:
    """Launch a configuration, whatever it was tuned for."""
    with current(codes.device):
        if choice.file.kernel == CUDA:
            from ._cupy_views import stream, view

            template(choice).launch(
                view(codes), view(out), config=choice.config, stream=stream(codes.device)
            )
            return
        template(choice).launch(codes, out, config=choice.config)


_make, _write = operator(
    "transpose",
    "Tensor codes",
    "out",
    empty=lambda codes: torch.empty(
        (codes.shape[1], codes.shape[0]), dtype=codes.dtype, device=codes.device
    ),
    launch=_launch,
)
