"""Launch the grouped product of ``gemm_hopper.cu`` on CuPy arrays; no torch needed.

Rows of A belong to experts with weights of their own.  Where the rows of each lie is read on the
device: contiguous (``offsets``), padded (``offsets`` and ``counts``) or masked (``counts`` alone, A
in (E, capacity, K)).  Nothing else depends on them, so a CUDA graph can be replayed with others.
Offsets and counts outside the tensors are clamped to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .gemm_hopper import THREADS, compiled_kernel, options, scale_rows, smem_bytes
from .hopper_formats import ELEMENT_BYTES, ROW_BYTES
from .hopper_grid import check_extents, cluster_sides, persistent_grid
from .hopper_operands import (
    check_dimensions,
    check_formats,
    check_int32_sums,
    check_matrix,
    check_memory,
    check_rows,
    check_scales,
)
from .launches import run
from .tensor_maps import column_pitch, row_pitch, tensor_map

__all__ = ["MAX_GROUPS", "SCALES", "launch", "options", "precompile", "smem_bytes"]

#: Scale modes that groups have: blocks of rows, or one scale for all, would straddle experts.
SCALES = ("none", "row", "b1x128")
#: Groups whose table, 12 bytes each, is kept in shared memory.
MAX_GROUPS = 1024
#: The struct ``Groups`` of the source.
_GROUPS = np.dtype(
    [
        ("offsets", np.uint64),
        ("counts", np.uint64),
        ("c", np.uint64),
        ("c_pitch", np.int64),
        ("capacity", np.int32),
        ("scale_rows", np.int32),
    ]
)


def _check_index(name: str, array: Any, dtype: str, entries: tuple[int, ...]) -> None:
    if array is None:
        return
    if not hasattr(array, "data") or not hasattr(array.data, "ptr"):
        raise TypeError(f"{name} is {type(array).__name__}: it must be a CuPy array")
    if array.dtype != np.dtype(dtype):
        raise TypeError(f"{name} has dtype {array.dtype}: it must be {dtype}")
    if array.ndim != 1 or array.shape[0] not in entries or not array.flags.c_contiguous:
        wanted = " or ".join(map(str, entries))
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}: it must be contiguous with {wanted} entries"
        )


def _check_operands(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    offsets: Any = None,
    counts: Any = None,
    element: str,
    out: str,
    scales: str,
) -> None:
    """Refuse operands that :func:`launch` does not take.

    Raises:
        ValueError, TypeError: names the operand and the rule.
    """
    check_formats(element, out, scales)
    if scales not in SCALES:
        raise ValueError(f"scales {scales!r}: groups take one of {', '.join(SCALES)}")
    if offsets is None and counts is None:
        raise ValueError("give offsets, counts (masked), or both (padded)")
    masked = offsets is None
    for name, array, dimensions in (("a", a, 2 + masked), ("b", b, 3), ("c", c, 2 + masked)):
        check_dimensions(name, array, dimensions)
    experts, n, k = b.shape
    if experts > MAX_GROUPS:
        raise ValueError(f"b has {experts} experts: at most {MAX_GROUPS}")
    rows = (experts, a.shape[1]) if masked else (a.shape[0],)
    for name, array, item, shape in (
        ("a", a, element, (*rows, k)),
        ("b", b, element, (experts, n, k)),
        ("c", c, out, (*rows, n)),
    ):
        check_matrix(name, array, item, shape)
        check_rows(name, array, item)
    if (n * ELEMENT_BYTES[out]) % 16:
        raise ValueError(
            f"N = {n}: rows of C take {n * ELEMENT_BYTES[out]} bytes, no multiple of 16"
        )
    check_int32_sums(element, scales, k)
    check_scales(a, b, a_scale, b_scale, scales)
    extents = {"N": n, "K": k, "experts x N": experts * n}
    extents["experts x capacity" if masked else "M"] = math.prod(rows)
    pitches = {name: row_pitch(array) for name, array in (("a", a), ("b", b), ("c", c))}
    if scales == "b1x128":
        pitches["a_scale"] = column_pitch(a_scale)
        if masked:
            extents["experts x columns of a_scale"] = experts * int(a_scale.shape[-1])
    check_extents(extents, pitches)
    least = (experts + 1,) if counts is None else (experts, experts + 1)
    _check_index("offsets", offsets, "int64", least)
    _check_index("counts", counts, "int32", (experts,))
    read = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale}
    check_memory({"c": c}, {**read, "offsets": offsets, "counts": counts})


def launch(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    offsets: Any = None,
    counts: Any = None,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """Multiply every row by its expert's weights, on the current CuPy stream or on ``stream``.

    Args:
        a: (M, K), masked (E, capacity, K), and b: (E, N, K), CuPy arrays in the view dtypes of
            ``hopper_formats.DTYPES``; rows start at multiples of 16 bytes, matrices follow each
            other.
        c: (M, N), masked (E, capacity, N), in ``out``.  Rows of no expert are left as they are.
        a_scale, b_scale: float32; ``row``: (..., 1); ``b1x128``: (..., ceil(K / 128)) with M
            contiguous, in each expert where masked, and (E, ceil(N / 128), ceil(K / 128)).
        offsets: (E + 1,) int64, ascending; with ``counts``, E entries are enough.
        counts: (E,) int32.  Alone, it makes the layout masked.
        config: the fields of ``HopperGemmConfig``.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    _check_operands(
        *(a, b, c, a_scale, b_scale),
        offsets=offsets,
        counts=counts,
        element=element,
        out=out,
        scales=scales,
    )
    experts, n, k = b.shape
    masked = offsets is None
    capacity = int(a.shape[-2])
    rows = experts * capacity if masked else capacity
    with a.device:
        kernel = compiled_kernel(a.device.id, element, out, scales, tuple(config.items()), experts)
        block_m, block_n = int(config["block_m"]), int(config["block_n"])
        down, across = cluster_sides(config)
        item, out_item = ELEMENT_BYTES[element], ELEMENT_BYTES[out]
        width = ROW_BYTES // item
        a_pitch, b_pitch, c_pitch = map(row_pitch, (a, b, c))
        map_a = tensor_map(a.data.ptr, item, k, rows, a_pitch, (width, block_m // across))
        map_b = tensor_map(b.data.ptr, item, k, experts * n, b_pitch, (width, block_n // down))
        map_scale, own_rows = map_a, 0  # not looked at
        if scales == "b1x128":
            columns = int(a_scale.shape[-1])
            own_rows = columns if masked else 0
            map_scale = tensor_map(
                a_scale.data.ptr,
                4,
                capacity,
                columns * (experts if masked else 1),
                column_pitch(a_scale),
                (scale_rows(block_m, experts), 1),
            )
        map_c = tensor_map(c.data.ptr, out_item, n, rows, c_pitch, (ROW_BYTES // out_item, 64))
        groups = np.zeros(1, _GROUPS)
        groups["offsets"] = 0 if offsets is None else offsets.data.ptr
        groups["counts"] = 0 if counts is None else counts.data.ptr
        groups["c"], groups["c_pitch"] = c.data.ptr, c_pitch
        groups["capacity"], groups["scale_rows"] = capacity, own_rows
        # Every group with rows adds at most one ragged row of tiles.
        height = block_m * down
        if masked:
            most = experts * -(-capacity // height)
        else:
            most = rows // height + min(experts, rows)
        grid = persistent_grid(a.device.id, most, n, config, across=across)
        arguments = (
            *(map_a, map_b, map_scale, map_c),
            *(np.uint64(0 if s is None else s.data.ptr) for s in (a_scale, b_scale)),
            *map(np.int32, (rows, n, k)),
            groups[0],
        )
        smem = smem_bytes(scales=scales, config=config, groups=experts)
        run(kernel, grid, THREADS, arguments, smem_bytes=smem, stream=stream)


def precompile(
    a: Any, b: Any, *operands: Any, config: Mapping[str, int | bool], **rest: Any
) -> None:
    """Compile what :func:`launch` would run for the same arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    _check_operands(a, b, *operands, **rest)
    formats = (rest["element"], rest["out"], rest["scales"])
    with a.device:
        compiled_kernel(a.device.id, *formats, tuple(config.items()), int(b.shape[0]))
