"""Launch the Hopper product of ``gemm_hopper.cu`` on CuPy arrays; no torch needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .compiler_options import check_fields, macro_options
from .hopper_formats import (
    ARCHITECTURE,
    BOTH,
    ELEMENT_BYTES,
    ELEMENTS,
    OUTPUTS,
    QUANT,
    ROW_BYTES,
)
from .hopper_formats import SCALES as COMMON
from .hopper_grid import cluster_sides, persistent_grid
from .hopper_operands import check_formats, check_operands
from .launches import allow_shared_memory, functions, run
from .tensor_maps import column_pitch, row_pitch, tensor_map

__all__ = [
    "FIELDS",
    "SCALES",
    "THREADS",
    "Place",
    "compiled_kernel",
    "launch",
    "launch_at",
    "options",
    "precompile",
    "scale_rows",
    "smem_bytes",
]

FIELDS = (
    "block_m", "block_n", "stages", "cluster", "group_m", "pingpong", "store_buffers", "chained",
)  # fmt: skip
#: Scale modes by macro value.
SCALES = (*COMMON, BOTH)
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
    scaled = block_m + (4 if groups else 0) + (int(config["block_n"]) if scales == BOTH else 0)
    scale_pitch = -(-scaled * 4 // 128) * 128
    scale_ring = -(-stages * scale_pitch // 1024) * 1024 if scales in ("b1x128", BOTH) else 0
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
    check_formats(element, out, scales, SCALES)
    check_fields(config, FIELDS)
    block_m, block_n, stages, cluster, group_m, pingpong, buffers, chained = (
        int(config[f]) for f in FIELDS
    )
    rows = block_m if pingpong else block_m // CONSUMERS
    promoted = scales in ("b1x128", "b128x128", BOTH)
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
    if scales == BOTH and (not chained or groups):
        raise ValueError(f"scales {BOTH} are for chained products without groups")
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
            128.  1x128 scales of A (of B too where both have them, ``b1x128_b1x128``) are stored
            with M (N) contiguous, columns 16 bytes x n apart.
        config: the fields of ``HopperGemmConfig``.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    m, n, k = check_operands(
        *(a, b, c, a_scale, b_scale), element=element, out=out, scales=scales, modes=SCALES
    )
    places = [Place(x.data.ptr, row_pitch(x)) for x in (a, b, c)]
    places += [
        Place(0, 0) if x is None else Place(x.data.ptr, column_pitch(x)) for x in (a_scale, b_scale)
    ]
    with a.device:
        launch_at(
            a.device.id,
            (m, n, k),
            places,
            element=element,
            out=out,
            scales=scales,
            config=config,
            stream=stream,
        )


class Place(NamedTuple):
    """Where an operand lies."""

    pointer: int
    pitch: int  #: bytes from one row of a matrix, or column of 1x128 scales, to the next


def launch_at(
    device: int,
    shape: tuple[int, int, int],
    places: Sequence[Place],
    *,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """:func:`launch` on the current device, of operands that were checked.

    Args:
        device: its number.
        shape: M, N and K.
        places: of A, B, C and both operands' scales.
    Raises:
        ValueError: the configuration does not fit.
    """
    (m, n, k), (a, b, c, a_scale, b_scale) = shape, places
    kernel = compiled_kernel(device, element, out, scales, tuple(config.items()))
    block_m, block_n = int(config["block_m"]), int(config["block_n"])
    down, across = cluster_sides(config)
    grid = persistent_grid(device, -(-m // (block_m * down)), n, config, across=across)
    item, out_item = ELEMENT_BYTES[element], ELEMENT_BYTES[out]
    width, steps = ROW_BYTES // item, -(-k // QUANT)
    map_a = tensor_map(a.pointer, item, k, m, a.pitch, (width, block_m // across))
    map_b = tensor_map(b.pointer, item, k, n, b.pitch, (width, block_n // down))
    map_scale = map_a  # not looked at
    map_columns: tuple[Any, ...] = ()
    if scales in ("b1x128", BOTH):
        map_scale = tensor_map(a_scale.pointer, 4, m, steps, a_scale.pitch, (block_m, 1))
    if scales == BOTH:
        map_columns = (tensor_map(b_scale.pointer, 4, n, steps, b_scale.pitch, (block_n, 1)),)
    map_c = tensor_map(c.pointer, out_item, n, m, c.pitch, (ROW_BYTES // out_item, 64))
    arguments = (
        *(map_a, map_b, map_scale, map_c),
        *(np.uint64(scale.pointer) for scale in (a_scale, b_scale)),
        *map(np.int32, (m, n, k)),
        *map_columns,
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
    check_operands(a, b, *operands, **rest, modes=SCALES)
    formats = (rest["element"], rest["out"], rest["scales"])
    with a.device:
        compiled_kernel(a.device.id, *formats, tuple(config.items()))
