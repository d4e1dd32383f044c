"""Quantisation of CuPy arrays in blocks; needs NumPy and CuPy, never torch."""

from typing import Any

import cupy
import numpy as np

from ._lookup import choose, layouts, template

__all__ = ["quantize"]

KERNEL = "cuda_quantize"
#: Random bits and transposed copies are those of ``quantize_packed``.
_LAYOUTS = {
    formats: layout for formats, layout in layouts(KERNEL).items() if "stochastic" not in layout
}
#: CuPy has no bfloat16: its bits travel as uint16.
_SOURCES = {"uint16": "bf16", "float16": "fp16", "float32": "fp32"}

_device_names: dict[int, str] = {}


def quantize(
    x: Any, format: str, *, out: tuple[Any, Any] | None = None, stream: Any = None
) -> tuple[Any, Any]:
    """Quantise a matrix: ``scale = amax / largest element``, ``code = round(x / scale)``.

    Rounds to nearest even and saturates.  An all-zero block has codes 0 and scale 1; a NaN or an
    infinity makes the scale of its block NaN.  Ragged last blocks take the values they have.

    Args:
        x: (rows, cols) CuPy array, C order: float32, float16, or bfloat16 bits as uint16.
        format: a target format that the package was emitted with, e.g. ``"int8.b32x32"``.
        out: codes and scales to write into, shaped as below; any content is overwritten.
        stream: CuPy stream; default the current one.
    Returns:
        Codes (rows, cols), int8 or the bits of an 8-bit float as uint8, and float32 scales on the
        format's grid, row-major.
    Raises:
        ValueError: unknown format or wrong shape.
        TypeError: wrong dtype, no CuPy array, or ``out`` is no pair of them.
    """
    if not isinstance(x, cupy.ndarray):
        raise TypeError(f"x is {type(x).__name__}: it must be a CuPy array")
    source = _SOURCES.get(str(x.dtype), "")
    layout = _LAYOUTS.get((format, source))
    if layout is None:
        known = ", ".join(f"{plain} -> {target}" for target, plain in _LAYOUTS)
        raise ValueError(f"no quantize from {x.dtype} to {format!r}: there is {known}")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"quantize takes a matrix (rows, cols), got {tuple(x.shape)}")
    rows, cols = x.shape
    block = layout["block"]
    grid = (-(-rows // block[0]) if block[0] else 1, -(-cols // block[1]) if block[1] else 1)
    dtype = np.dtype(np.int8 if layout["element"] == "int8" else np.uint8)
    with x.device:
        if out is None:
            out = (cupy.empty(x.shape, dtype), cupy.empty(grid, np.float32))
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise TypeError(f"out is {type(out).__name__}: it must be a pair (codes, scales)")
        codes, scales = out
        for name, array in (("codes", codes), ("scales", scales)):
            if not isinstance(array, cupy.ndarray):
                raise TypeError(f"{name} of out is {type(array).__name__}: it must be a CuPy array")
        if codes.shape != x.shape or scales.shape != grid:
            raise ValueError(
                f"out must be codes {tuple(x.shape)} and scales {grid}, "
                f"got {codes.shape} and {scales.shape}"
            )
        if codes.dtype != dtype or scales.dtype != np.float32:
            raise TypeError(
                f"out must be {dtype} and float32, got {codes.dtype} and {scales.dtype}"
            )
        if rows:
            choice = choose(KERNEL, (format, source), (cols,), rows, _device_name(x.device.id))
            template(choice).launch(
                x,
                codes,
                scales,
                source=source,
                target=layout["element"],
                block=block,
                config=choice.config,
                stream=stream,
            )
    return codes, scales


def _device_name(device: int) -> str:
    name = _device_names.get(device)
    if name is None:
        properties = cupy.cuda.runtime.getDeviceProperties(device)
        name = _device_names[device] = properties["name"].decode()
    return name
