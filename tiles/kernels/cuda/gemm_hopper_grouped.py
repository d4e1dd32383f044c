"""Launch the grouped product of ``gemm_hopper.cu`` on CuPy arrays; no torch needed.

Rows of A belong to experts with weights of their own.  Where the rows of each lie is read on the
device: contiguous (``offsets``), padded (``offsets`` and ``counts``) or masked (``counts`` alone, A
in (E, capacity, K)).  Nothing else depends on them, so a CUDA graph can be replayed with others.
Offsets and counts outside the tensors are clamped to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .gemm_hopper import THREADS, compiled_kernel, options, scale_rows, smem_bytes
from .hopper_operands import (
    ELEMENT_BYTES,
    MAX_INT32_K,
    QUANT,
    ROW_BYTES,
    check_matrix,
    check_names,
    column_pitch,
    multiprocessors,
    row_pitch,
    tensor_map,
)
from .overlap import check_apart

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


def _check_rows(name: str, array: Any, item: str) -> None:
    """Refuse rows that the copy engine cannot reach, and matrices with gaps between them.

    Raises:
        ValueError: names the array.
    """
    pitch, bytes_each = row_pitch(_matrix(array)), ELEMENT_BYTES[item]
    packed = array.strides[-1] == bytes_each or array.shape[-1] == 1
    overlapping = pitch < array.shape[-1] * bytes_each
    if not packed or overlapping or pitch % 16 or array.data.ptr % 16:
        raise ValueError(
            f"{name}: rows must be contiguous and start at multiples of 16 bytes; they start at "
            f"address {array.data.ptr:#x} and have strides {array.strides}"
        )
    apart = array.ndim == 3 and array.shape[0] > 1 and array.strides[0] != array.shape[1] * pitch
    if apart:
        raise ValueError(f"{name} has strides {array.strides}: its matrices must follow each other")


class _Matrix(NamedTuple):
    """The last two dimensions of an array, as far as its pitch goes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any


def _matrix(array: Any) -> _Matrix:
    return _Matrix(tuple(array.shape[-2:]), tuple(array.strides[-2:]), array.dtype)


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


def _check_scales(a_scale: Any, b_scale: Any, scales: str, a: Any, b: Any) -> None:
    if scales == "none":
        for name, scale in (("a_scale", a_scale), ("b_scale", b_scale)):
            if scale is not None:
                raise ValueError(f"{name} is given: scales 'none' take none")
        return
    blocks = -(-a.shape[-1] // QUANT) if scales == "b1x128" else 1
    rows = -(-b.shape[1] // QUANT) if scales == "b1x128" else b.shape[1]
    check_matrix("a_scale", a_scale, "fp32", (*a.shape[:-1], blocks))
    check_matrix("b_scale", b_scale, "fp32", (b.shape[0], rows, blocks))
    for name, scale in (("a_scale", a_scale), ("b_scale", b_scale)):
        if (name == "b_scale" or scales == "row") and not scale.flags.c_contiguous:
            raise ValueError(f"{name} has strides {scale.strides}: it must be row-major")
    if scales == "row":
        return
    apart = column_pitch(_matrix(a_scale))
    packed = a_scale.strides[-2] == 4 or a_scale.shape[-2] == 1
    if not packed or apart < 4 * a_scale.shape[-2] or apart % 16 or a_scale.data.ptr % 16:
        raise ValueError(
            f"a_scale has strides {a_scale.strides}: M must be contiguous, its columns a multiple "
            "of 16 bytes apart and aligned to 16"
        )
    if a_scale.ndim == 3 and a_scale.shape[0] > 1 and a_scale.strides[0] != blocks * apart:
        raise ValueError(f"a_scale has strides {a_scale.strides}: experts must follow each other")


def _validate(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any,
    b_scale: Any,
    offsets: Any,
    counts: Any,
    element: str,
    out: str,
    scales: str,
) -> None:
    check_names(element, out, scales)
    if scales not in SCALES:
        raise ValueError(f"scales {scales!r}: groups take one of {', '.join(SCALES)}")
    if offsets is None and counts is None:
        raise ValueError("give offsets, counts (masked), or both (padded)")
    masked = offsets is None
    for name, array, dims in (("a", a, 3 if masked else 2), ("b", b, 3), ("c", c, a.ndim)):
        if getattr(array, "ndim", dims) != dims:
            raise ValueError(f"{name} has {array.ndim} dimensions: it must have {dims}")
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
        _check_rows(name, array, item)
    if (n * ELEMENT_BYTES[out]) % 16:
        raise ValueError(
            f"N = {n}: rows of C take {n * ELEMENT_BYTES[out]} bytes, no multiple of 16"
        )
    if element == "int8" and scales != "b1x128" and k > MAX_INT32_K:
        raise ValueError(f"K = {k}: int32 sums of int8 products could overflow past {MAX_INT32_K}")
    _check_scales(a_scale, b_scale, scales, a, b)
    least = (experts + 1,) if counts is None else (experts, experts + 1)
    _check_index("offsets", offsets, "int64", least)
    _check_index("counts", counts, "int32", (experts,))
    others = [x for x in (b, c, a_scale, b_scale, offsets, counts) if x is not None]
    if any(x.device != a.device for x in others):
        raise ValueError("the operands lie on several devices: they must share one")
    read = {"a": a, "b": b, "a_scale": a_scale, "b_scale": b_scale}
    check_apart({"c": c}, {**read, "offsets": offsets, "counts": counts})


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
            ``hopper_operands.DTYPES``; rows start at multiples of 16 bytes, matrices follow each
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
    _validate(a, b, c, a_scale, b_scale, offsets, counts, element, out, scales)
    experts, n, k = b.shape
    masked = offsets is None
    capacity = int(a.shape[-2])
    rows = experts * capacity if masked else capacity
    with a.device:
        kernel = _compiled(a, b, element, out, scales, config)
        block_m, block_n, cluster = (int(config[f]) for f in ("block_m", "block_n", "cluster"))
        item, out_item = ELEMENT_BYTES[element], ELEMENT_BYTES[out]
        width = ROW_BYTES // item
        a_pitch, b_pitch, c_pitch = (row_pitch(_matrix(x)) for x in (a, b, c))
        map_a = tensor_map(a.data.ptr, item, k, rows, a_pitch, (width, block_m))
        map_b = tensor_map(b.data.ptr, item, k, experts * n, b_pitch, (width, block_n // cluster))
        map_scale, own_rows = map_a, 0  # not looked at
        if scales == "b1x128":
            columns = int(a_scale.shape[-1])
            own_rows = columns if masked else 0
            map_scale = tensor_map(
                a_scale.data.ptr,
                4,
                capacity,
                columns * (experts if masked else 1),
                column_pitch(_matrix(a_scale)),
                (scale_rows(block_m, experts), 1),
            )
        map_c = tensor_map(c.data.ptr, out_item, n, rows, c_pitch, (ROW_BYTES // out_item, 64))
        groups = np.zeros(1, _GROUPS)
        groups["offsets"] = 0 if offsets is None else offsets.data.ptr
        groups["counts"] = 0 if counts is None else counts.data.ptr
        groups["c"], groups["c_pitch"] = c.data.ptr, c_pitch
        groups["capacity"], groups["scale_rows"] = capacity, own_rows
        # Every group with rows adds at most one ragged row of tiles.
        height = block_m * cluster
        if masked:
            most = experts * -(-capacity // height)
        else:
            most = rows // height + min(experts, rows)
        slots = multiprocessors(a.device.id) // cluster
        grid = (cluster * min(most * -(-n // block_n), slots),)
        arguments = (
            map_a,
            map_b,
            map_scale,
            map_c,
            np.uint64(0 if a_scale is None else a_scale.data.ptr),
            np.uint64(0 if b_scale is None else b_scale.data.ptr),
            np.int32(rows),
            np.int32(n),
            np.int32(k),
            groups[0],
        )
        smem = smem_bytes(scales=scales, config=config, groups=experts)
        if stream is None:
            kernel(grid, (THREADS,), arguments, shared_mem=smem)
        else:
            with stream:
                kernel(grid, (THREADS,), arguments, shared_mem=smem)


def _compiled(
    a: Any, b: Any, element: str, out: str, scales: str, config: Mapping[str, int | bool]
) -> Any:
    return compiled_kernel(
        a.device.id, element, out, scales, tuple(config.items()), int(b.shape[0])
    )


def precompile(
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
) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    _validate(a, b, c, a_scale, b_scale, offsets, counts, element, out, scales)
    with a.device:
        _compiled(a, b, element, out, scales, config)
