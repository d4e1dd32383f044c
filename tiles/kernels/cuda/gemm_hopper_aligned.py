"""Launch the Hopper product of MX operands whose scales are aligned first; no torch needed.

One kernel brings codes and scales of both operands to one scale for every 128 of K, into a
workspace (``align_mx_scales.py`` tells what that costs); ``gemm_hopper.cu`` multiplies what lies
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import align_mx_scales, gemm_hopper
from .align_mx_scales import ERRORS, Side
from .compiler_options import check_choices, check_fields
from .gemm_hopper import Place
from .hopper_formats import BOTH, MX, QUANT
from .hopper_operands import check_operands
from .launches import functions
from .overlap import check_apart
from .tensor_maps import row_pitch

__all__ = [
    "FIELDS",
    "SCALES",
    "THREADS",
    "launch",
    "options",
    "precompile",
    "smem_bytes",
    "workspace_bytes",
]

FIELDS = ("block_m", "block_n", "stages", "cluster", "group_m", "store_buffers")
#: Scale modes: E8M0 for every 32 of K on both sides.
SCALES = (MX,)
THREADS = gemm_hopper.THREADS
#: Bytes of the workspace's boundary, which the copy engine asks for, and between parts' beginnings.
BOUNDARY, UNIT = 16, 256


def _product(config: Mapping[str, int | bool]) -> dict[str, int | bool]:
    """The configuration of the product behind the alignment."""
    check_fields(config, FIELDS)
    return {**config, "pingpong": False, "chained": True}


def options(
    *, element: str, out: str, scales: str, config: Mapping[str, int | bool]
) -> tuple[str, ...]:
    """Compiler options of the product for formats and a configuration.

    Raises:
        ValueError: an unknown format, or a configuration that the kernel does not have.
    """
    check_choices({"element": (element, ERRORS), "scales": (scales, SCALES)})
    return gemm_hopper.options(element=element, out=out, scales=BOTH, config=_product(config))


def smem_bytes(*, scales: str, config: Mapping[str, int | bool]) -> int:
    """Dynamic shared memory of a CTA of the product."""
    return gemm_hopper.smem_bytes(scales=BOTH, config=_product(config))


def _parts(m: int, n: int, k: int) -> tuple[list[int], list[int], int]:
    """Where codes and scales of A, then those of B begin, scales a column, and all bytes."""
    apart = [-(-rows // 4) * 4 for rows in (m, n)]
    sizes = [size for rows, a in zip((m, n), apart, strict=True) for size in (rows * k, 4 * a)]
    sizes[1::2] = [size * -(-k // QUANT) for size in sizes[1::2]]
    places = [0]
    for size in sizes:
        places.append(-(-(places[-1] + size) // UNIT) * UNIT)
    return places[:4], apart, places[4]


def workspace_bytes(m: int, n: int, k: int) -> int:
    """Bytes of the memory that a launch works in: what it holds before does not matter."""
    return _parts(m, n, k)[2]


def launch(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any,
    b_scale: Any,
    *,
    workspace: Any,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """``c = (a x scales) · (b x scales)^T`` on the current CuPy stream, or on ``stream``.

    Args:
        a: (M, K), b: (N, K) uint8 CuPy arrays of 8-bit floats; rows are contiguous and start at
            multiples of 16 bytes.
        c: (M, N) in ``out``, bf16 as a uint16 view, rows as those of A; written.
        a_scale, b_scale: (M, ceil(K / 32)) and (N, ceil(K / 32)) uint8, E8M0, row-major.
        workspace: uint8, one-dimensional and contiguous, of at least :func:`workspace_bytes`, at a
            multiple of 16 bytes; written.  Launches that may overlap take one each.
        scales: ``mx``.
        config: the fields of ``HopperAlignedConfig``.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    m, n, k = _check(a, b, c, a_scale, b_scale, workspace, element=element, out=out, scales=scales)
    product = _product(config)
    parts, apart, _ = _parts(m, n, k)
    places = [workspace.data.ptr + part for part in parts]
    sides = [
        Side(x.data.ptr, s.data.ptr, codes, columns, row_pitch(x), k, step, x.shape[0])
        for x, s, codes, columns, step in (
            (a, a_scale, places[0], places[1], apart[0]),
            (b, b_scale, places[2], places[3], apart[1]),
        )
    ]
    with a.device:
        device = a.device.id
        align_mx_scales.launch(device, sides, k, element=element, stream=stream)
        gemm_hopper.launch_at(
            device,
            (m, n, k),
            (
                *(Place(side.out, k) for side in sides),
                Place(c.data.ptr, row_pitch(c)),
                *(Place(side.out_scales, 4 * side.apart) for side in sides),
            ),
            element=element,
            out=out,
            scales=BOTH,
            config=product,
            stream=stream,
        )


def _check(
    a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, workspace: Any, **formats: str
) -> tuple[int, int, int]:
    """M, N and K of operands that fit.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    check_choices({"element": (formats["element"], ERRORS)})
    m, n, k = check_operands(a, b, c, a_scale, b_scale, **formats, modes=SCALES)
    least = workspace_bytes(m, n, k)
    if not hasattr(workspace, "data") or not hasattr(workspace.data, "ptr"):
        raise TypeError(f"workspace is {type(workspace).__name__}: it must be a CuPy array")
    if workspace.dtype.name != "uint8":
        raise TypeError(f"workspace has dtype {workspace.dtype}: it must be uint8")
    flat = workspace.ndim == 1 and workspace.flags.c_contiguous
    if not flat or workspace.shape[0] < least or workspace.data.ptr % BOUNDARY:
        raise ValueError(
            f"workspace of shape {tuple(workspace.shape)} at {workspace.data.ptr:#x}: it must be "
            f"one-dimensional and contiguous, of {least} bytes, at a multiple of {BOUNDARY}"
        )
    if workspace.device != a.device:
        raise ValueError(
            f"workspace on {workspace.device}, a on {a.device}: they must share one device"
        )
    read = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale}
    check_apart({"workspace": workspace, "c": c}, read)
    return m, n, k


def precompile(
    a: Any, *operands: Any, config: Mapping[str, int | bool], element: str, out: str, **rest: Any
) -> None:
    """Compile what :func:`launch` would run for the same arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    _check(a, *operands, element=element, out=out, **rest)
    items = tuple(_product(config).items())
    chosen = align_mx_scales.options(element)
    with a.device:
        functions(a.device.id, align_mx_scales.SOURCE, chosen, ("align_mx_scales",))
        gemm_hopper.compiled_kernel(a.device.id, element, out, BOTH, items)
