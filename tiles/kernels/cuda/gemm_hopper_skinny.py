"""Launch the Hopper product of ``gemm_hopper_skinny.cu`` on CuPy arrays; no torch needed.

For few rows of A or few tiles of C: rows of B stand on the side of 64 of the tensor cores'
instruction, and the CTAs of a cluster share K.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .compiler_options import check_fields, macro_options
from .hopper_formats import ARCHITECTURE, ELEMENT_BYTES, ELEMENTS, MX, OUTPUTS, QUANT, ROW_BYTES
from .hopper_formats import SCALES as PLAIN_SCALES
from .hopper_grid import tile_grid
from .hopper_operands import check_formats, check_operands
from .launches import allow_shared_memory, functions, run
from .tensor_maps import column_pitch, row_pitch, tensor_map

__all__ = [
    "ACCUMULATORS",
    "BLOCK_M",
    "CLUSTERS",
    "FIELDS",
    "MAX_STAGES",
    "MX_BLOCK_M",
    "SCALES",
    "launch",
    "options",
    "precompile",
    "smem_bytes",
    "threads",
]

FIELDS = ("block_m", "block_n", "stages", "cluster", "interleaved")
#: Rows of A in a tile: widths of the instruction that the source has.
BLOCK_M = (8, 16, 32, 48, 64, 96, 128, 176, 192, 256)
#: Rows of B in a tile, 64 a warpgroup, and the most accumulators that a thread then has room for:
#: without promotion, and with it, sums included.
ACCUMULATORS = {64: (128, 128), 128: (128, 128), 192: (96, 64), 256: (64, 64)}
CLUSTERS = (1, 2, 4, 8)
MAX_STAGES = 24
#: Scale modes by macro value.
SCALES = (*PLAIN_SCALES, MX)
#: Most rows of A in a tile under MX scales, by its rows of B: what registers hold.
MX_BLOCK_M = {64: 128, 128: 128, 192: 128}


def threads(config: Mapping[str, int | bool]) -> int:
    """Threads of a CTA: those that multiply, and the warp that loads."""
    return 2 * int(config["block_n"]) + 32


def smem_bytes(*, scales: str, config: Mapping[str, int | bool]) -> int:
    """Dynamic shared memory of a CTA, all that it has.

    The rings of tiles and scales or, in their place, the tile of C; barriers; scales of rows.
    """
    block_m, block_n, stages = (int(config[f]) for f in ("block_m", "block_n", "stages"))
    slot = -(-block_m * 4 // 128) * 128 if scales == "b1x128" else 0
    if scales == MX:
        slot = (block_m + block_n) * 4 * (ROW_BYTES // 32)
    ring = stages * ((block_m + block_n) * ROW_BYTES + slot)
    staging = block_m * (block_n + 4) * 4
    rows = 4 * (block_m + block_n) if scales == "row" else 0
    return max(ring, staging) + 16 * stages + rows


def options(
    *, element: str, out: str, scales: str, config: Mapping[str, int | bool]
) -> tuple[str, ...]:
    """Compiler options for formats and a configuration.

    Raises:
        ValueError: an unknown format, or a configuration that the kernel does not have.
    """
    check_formats(element, out, scales, SCALES)
    check_fields(config, FIELDS)
    block_m, block_n, stages, cluster, interleaved = (int(config[f]) for f in FIELDS)
    if block_m not in BLOCK_M or block_n not in ACCUMULATORS:
        raise ValueError(
            f"block_m = {block_m}, block_n = {block_n}: they are one of "
            f"{', '.join(map(str, BLOCK_M))} and of {', '.join(map(str, ACCUMULATORS))}"
        )
    if scales == MX and block_m > MX_BLOCK_M.get(block_n, 0):
        raise ValueError(
            f"block_m = {block_m}, block_n = {block_n}: MX scales take "
            f"{', '.join(f'{m} by {n}' for n, m in MX_BLOCK_M.items())} at most"
        )
    promoted = scales in ("b1x128", "b128x128", MX)
    held, room = block_m // 2 * (1 + promoted), ACCUMULATORS[block_n][promoted]
    if held > room and scales != MX:
        raise ValueError(
            f"block_m = {block_m}: {held} accumulators a thread, room for {room} at block_n = "
            f"{block_n} with scales {scales!r}"
        )
    if promoted and ELEMENT_BYTES[element] != 1:
        raise ValueError(f"scales along K take 8-bit elements, not {element}")
    if scales == "b128x128" and QUANT % block_m:
        raise ValueError(f"block_m = {block_m}: 128x128 scales of A take a divisor of {QUANT}")
    if cluster not in CLUSTERS or not 2 <= stages <= MAX_STAGES or interleaved not in (0, 1):
        raise ValueError(
            f"cluster = {cluster}, stages = {stages}, interleaved = {interleaved}: they are one of "
            f"{', '.join(map(str, CLUSTERS))}, in 2..{MAX_STAGES}, and 0 or 1"
        )
    macros = {
        "ELEMENT": ELEMENTS.index(element),
        "OUT": OUTPUTS.index(out),
        "SCALES": SCALES.index(scales),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "STAGES": stages,
        "CLUSTER": cluster,
        "INTERLEAVED": interleaved,
    }
    return macro_options(macros, ARCHITECTURE)


@cache
def compiled_kernel(
    device: int,
    element: str,
    out: str,
    scales: str,
    items: tuple[tuple[str, int | bool], ...],
) -> Any:
    """The compiled kernel of a device for formats and a configuration's fields.

    Raises:
        ValueError: as :func:`options`, or the device has not so much shared memory.
    """
    config = dict(items)
    chosen = options(element=element, out=out, scales=scales, config=config)
    source = Path(__file__).with_suffix(".cu").name
    (kernel,) = functions(device, source, chosen, ("gemm_hopper_skinny",))
    smem = smem_bytes(scales=scales, config=config)
    allow_shared_memory(
        kernel, device, smem, f"stages = {config['stages']}: take fewer, or a smaller tile"
    )
    kernel.preferred_shared_memory_carveout = 100  # percent: several CTAs share a multiprocessor
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
            128.  1x128 scales of A are stored with M contiguous, columns 16 bytes x n apart.  MX
            scales are E8M0 bytes (uint8), (M, ceil(K / 32)) and (N, ceil(K / 32)), row-major.
        config: the fields of ``HopperSkinnyConfig``.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    m, n, k = check_operands(
        *(a, b, c, a_scale, b_scale), element=element, out=out, scales=scales, modes=SCALES
    )
    with a.device:
        kernel = compiled_kernel(a.device.id, element, out, scales, tuple(config.items()))
        block_m, block_n, cluster = (int(config[f]) for f in ("block_m", "block_n", "cluster"))
        grid = tile_grid(cluster * -(-m // block_m), n, config)
        item = ELEMENT_BYTES[element]
        width = ROW_BYTES // item
        map_a = tensor_map(a.data.ptr, item, k, m, row_pitch(a), (width, block_m))
        map_b = tensor_map(b.data.ptr, item, k, n, row_pitch(b), (width, block_n))
        map_scale = map_a  # not looked at
        if scales == "b1x128":
            map_scale = tensor_map(
                a_scale.data.ptr, 4, m, a_scale.shape[1], column_pitch(a_scale), (block_m, 1)
            )
        arguments = (
            *(map_a, map_b, map_scale),
            *(np.uint64(0 if s is None else s.data.ptr) for s in (a_scale, b_scale)),
            np.uint64(c.data.ptr),
            np.int64(row_pitch(c)),
            *map(np.int32, (m, n, k)),
        )
        smem = smem_bytes(scales=scales, config=config)
        run(kernel, grid, threads(config), arguments, smem_bytes=smem, stream=stream)


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
