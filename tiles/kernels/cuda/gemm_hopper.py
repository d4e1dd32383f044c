"""Launch the Hopper product of ``gemm_hopper.cu`` on CuPy arrays; no torch needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .compiler_options import check_fields, macro_options
from .hopper_formats import ARCHITECTURE, ELEMENT_BYTES, ELEMENTS, OUTPUTS, QUANT, ROW_BYTES, SCALES
from .hopper_grid import cluster_sides, persistent_grid
from .hopper_operands import check_formats, check_operands
from .launches import allow_shared_memory, functions, run
from .tensor_maps import column_pitch, row_pitch, tensor_map

__all__ = [
    "FIELDS",
    "THREADS",
    "compiled_kernel",
    "launch",
    "options",
    "precompile",
    "scale_rows",
    "smem_bytes",
]

FIELDS = (
    "block_m", "block_n", "stages", "cluster", "group_m", "pingpong", "store_buffers", "chained",
)  # fmt: skip
CONSUMERS = 2
THREADS = 128 * (CONSUMERS + 1)
#: Columns of a tile, and where its products are chained through one set of accumulators.
BLOCK_N = (64, 96, 112, 128, 160, 176, 192, 208, 224, 240, 256)
CHAINED_N = (64, 112, 128, 160, 176, 192)


def scale_rows(block_m: int, groups: int) -> int:
    """Rows of 1x128 scales that a stage fetches at a time.

    The copy engine starts at multiples of 16 bytes (without that, an illegal instruction), and
    takes 256 items at most; a group starts at any row, so 256 of its rows come in two parts.
    """
    return min(block_m, 128) + 4 if groups else block_m


def smem_bytes(*, scales: str, config: Mapping[str, int | bool], groups: int = 0) -> int:
    """Dynamic shared memory of a CTA: the rings of tiles and scales, and the staging buffers."""
    block_m, stages = int(config["block_m"]), int(config["stages"])
    tiles = stages * (block_m + int(config["block_n"])) * ROW_BYTES
    scale_pitch = -(-(block_m + (4 if groups else 0)) * 4 // 128) * 128
    scale_ring = -(-stages * scale_pitch // 1024) * 1024 if scales == "b1x128" else 0
    return tiles + scale_ring + CONSUMERS * int(config["store_buffers"]) * 64 * ROW_BYTES


def options(
    *,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    groups: int = 0,
) -> tuple[str, ...]:
    """Compiler options for formats and a configuration; ``groups``: matrices that B comes in.

    Raises:
        ValueError: an unknown format, or a configuration that the kernel does not have.
    """
    check_formats(element, out, scales)
    check_fields(config, FIELDS)
    block_m, block_n, stages, cluster, group_m, pingpong, buffers, chained = (
        int(config[f]) for f in FIELDS
    )
    rows = block_m if pingpong else block_m // CONSUMERS
    promoted = scales in ("b1x128", "b128x128")
    if rows not in (64, 128) or (not pingpong and block_m % 128):
        raise ValueError(f"block_m = {block_m}: a warpgroup takes 64 or 128 rows of a tile")
    widths = CHAINED_N if chained else BLOCK_N
    if block_n not in widths or rows // 64 * block_n > 256:
        raise ValueError(
            f"block_n = {block_n}: it must be one of {', '.join(map(str, widths))}, half of 256 at "
            "128 rows a warpgroup"
        )
    if promoted and (pingpong or (not chained and (rows != 64 or QUANT % block_n))):
        raise ValueError(
            "scales along K take no pingpong, and 64 rows a warpgroup and block_n 64 or 128 unless "
            "products are chained"
        )
    if chained and not promoted:
        raise ValueError("chained is for scales along K: without them nothing is promoted")
    if promoted and ELEMENT_BYTES[element] != 1:
        raise ValueError(f"scales along K take 8-bit elements, not {element}")
    if cluster not in (1, 2) or buffers not in (1, 2, 4) or not 2 <= stages <= 8 or group_m < 1:
        raise ValueError(
            f"cluster = {cluster}, store_buffers = {buffers}, stages = {stages}, group_m = "
            f"{group_m}: they are 1 or 2, 1, 2 or 4, and lie in 2..8 and from 1"
        )
    macros = {
        "ELEMENT": ELEMENTS.index(element),
        "OUT": OUTPUTS.index(out),
        "SCALES": SCALES.index(scales),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "STAGES": stages,
        "CLUSTER": cluster,
        "GROUP_M": group_m,
        "PINGPONG": pingpong,
        "STORE_BUFFERS": buffers,
        "CHAINED": chained,
        "GROUPS": groups,
    }
    return macro_options(macros, ARCHITECTURE)


@cache
def compiled_kernel(
    device: int,
    element: str,
    out: str,
    scales: str,
    items: tuple[tuple[str, int | bool], ...],
    groups: int = 0,
) -> Any:
    """The compiled kernel of a device for formats, a configuration's fields and groups.

    Raises:
        ValueError: as :func:`options`, or the device has not so much shared memory.
    """
    config = dict(items)
    chosen = options(element=element, out=out, scales=scales, config=config, groups=groups)
    (kernel,) = functions(device, Path(__file__).with_suffix(".cu").name, chosen, ("gemm_hopper",))
    smem = smem_bytes(scales=scales, config=config, groups=groups)
    allow_shared_memory(
        kernel, device, smem, f"stages = {config['stages']}: take fewer, or a smaller tile"
    )
    return kernel


def launch(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """``c = (a · b^T) x scales`` on the current CuPy stream, or on ``stream``.

    Args:
        a: (M, K), b: (N, K) CuPy arrays in the view dtypes of ``hopper_formats.DTYPES``; rows are
            contiguous and start at multiples of 16 bytes.
        c: (M, N) in ``out``, rows as those of A and B; written.
        a_scale, b_scale: float32 on the grids of ``scales``: (1, 1); (M, 1) and (N, 1); blocks of
            128.  1x128 scales of A are stored with M contiguous, columns 16 bytes x n apart.
        config: the fields of ``HopperGemmConfig``.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    m, n, k = check_operands(a, b, c, a_scale, b_scale, element=element, out=out, scales=scales)
    with a.device:
        kernel = compiled_kernel(a.device.id, element, out, scales, tuple(config.items()))
        block_m, block_n = int(config["block_m"]), int(config["block_n"])
        down, across = cluster_sides(config)
        grid = persistent_grid(a.device.id, -(-m // (block_m * down)), n, config, across=across)
        item, out_item = ELEMENT_BYTES[element], ELEMENT_BYTES[out]
        width = ROW_BYTES // item
        map_a = tensor_map(a.data.ptr, item, k, m, row_pitch(a), (width, block_m // across))
        map_b = tensor_map(b.data.ptr, item, k, n, row_pitch(b), (width, block_n // down))
        map_scale = map_a  # not looked at
        if scales == "b1x128":
            map_scale = tensor_map(
                a_scale.data.ptr, 4, m, a_scale.shape[1], column_pitch(a_scale), (block_m, 1)
            )
        map_c = tensor_map(c.data.ptr, out_item, n, m, row_pitch(c), (ROW_BYTES // out_item, 64))
        arguments = (
            *(map_a, map_b, map_scale, map_c),
            *(np.uint64(0 if s is None else s.data.ptr) for s in (a_scale, b_scale)),
            *map(np.int32, (m, n, k)),
        )
        smem = smem_bytes(scales=scales, config=config)
        run(kernel, grid, THREADS, arguments, smem_bytes=smem, stream=stream)


def precompile(
    a: Any, b: Any, *operands: Any, config: Mapping[str, int | bool], **rest: Any
) -> None:
    """Compile what :func:`launch` would run for the same arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    check_operands(a, b, *operands, **rest)
    formats = (rest["element"], rest["out"], rest["scales"])
    with a.device:
        compiled_kernel(a.device.id, *formats, tuple(config.items()))
