"""Launch the Hopper product of ``gemm_hopper_blocks.cu`` on CuPy arrays; no torch needed.

Both operands have scales of one shape, down to 32 of K; the output may be codes with scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .compiler_options import check_fields, macro_options
from .hopper_block_operands import ELEMENTS, OUTPUTS, SCALES, check_formats, check_operands
from .hopper_formats import ARCHITECTURE, ELEMENT_BYTES, ROW_BYTES
from .hopper_grid import cluster_sides, persistent_grid
from .launches import allow_shared_memory, functions, run
from .philox_keys import KEYS, round_keys
from .tensor_maps import column_pitch, row_pitch, tensor_map

__all__ = [
    "ELEMENTS",
    "FIELDS",
    "OUTPUTS",
    "SCALES",
    "launch",
    "options",
    "precompile",
    "smem_bytes",
    "threads",
]

FIELDS = (
    *("block_m", "block_n", "stages", "cluster", "group_m", "store_buffers"),
    *("consumers", "sets", "parts", "spread", "run"),
)

#: Longest run along K: 256 x 128^2 = 2^22 is the largest sum beside 1.5 x 2^23 in a float's bits.
RUN_K = 256

_KEYS = np.dtype([("words", KEYS)])


def _scale_bytes(scales: str, block_m: int, block_n: int, run: int) -> int:
    """Shared memory for the scales of a stage, or with runs for their pairs' differences."""
    rows, quant_k = SCALES[scales]
    units = ROW_BYTES // quant_k
    if rows == 1:
        return units * (block_m + block_n) * 4
    a_blocks, b_blocks = max(block_m // rows, 1), max(block_n // rows, 1)
    count = (units + 1) * a_blocks * b_blocks if run > 1 else units * (a_blocks + b_blocks)
    return -(-count * 4 // 128) * 128


def smem_bytes(*, scales: str, config: Mapping[str, int | bool]) -> int:
    """Dynamic shared memory of a CTA: the rings of tiles and scales, and the staging buffers."""
    block_m, block_n, stages, run = (
        int(config[f]) for f in ("block_m", "block_n", "stages", "run")
    )
    tiles = stages * (block_m + block_n) * ROW_BYTES
    ring = -(-stages * _scale_bytes(scales, block_m, block_n, run) // 1024) * 1024
    return tiles + ring + int(config["consumers"] * config["store_buffers"]) * 64 * ROW_BYTES


def threads(config: Mapping[str, int | bool]) -> int:
    """Threads of a CTA: the consumers' warpgroups and the producer's."""
    return 128 * (int(config["consumers"]) + 1)


def _tiles(rows: int, consumers: int) -> tuple[tuple[int, int], ...]:
    """Tiles that so many consumers share."""
    tall = ((256, 64),) if rows == 1 else ()
    return ((128, 128), *tall) if consumers == 4 else ((128, 64), (128, 128), *tall)


def _columns(config: Mapping[str, int | bool]) -> int:
    """Of a tile, for one consumer: 64 rows of the tile are the least for each."""
    down = min(int(config["block_m"]) // 64, int(config["consumers"]))
    return int(config["block_n"]) * down // int(config["consumers"])


def options(
    *, element: str, out: str, scales: str, config: Mapping[str, int | bool]
) -> tuple[str, ...]:
    """Compiler options for formats and a configuration.

    Raises:
        ValueError: an unknown format, or a configuration that the kernel does not have.
    """
    check_formats(element, out, scales)
    check_fields(config, FIELDS)
    block_m, block_n, stages, cluster, group_m, buffers, consumers, sets, parts, spread, run = (
        int(config[f]) for f in FIELDS
    )
    rows, quant_k = SCALES[scales]
    _, out_value, out_block, stochastic = OUTPUTS[out]
    if cluster not in (1, 2) or buffers not in (1, 2) or sets not in (1, 2):
        raise ValueError(
            f"cluster = {cluster}, store_buffers = {buffers}, sets = {sets}: each is 1 or 2"
        )
    if consumers not in (2, 4) or parts not in (1, 2):
        raise ValueError(f"consumers = {consumers}, parts = {parts}: they are 2 or 4, and 1 or 2")
    if spread not in (0, 1) or (spread and sets * parts == 1):
        raise ValueError(
            f"spread = {spread}, sets = {sets}, parts = {parts}: it is 0, or 1 where they are not 1"
        )
    if spread and (quant_k != 32 or (consumers == 4 and rows == 1)):
        raise ValueError(
            f"spread = {spread}, consumers = {consumers}, scales {scales}: it is for 32 of K under "
            "a scale, and with scales of rows for two consumers"
        )
    if quant_k == ROW_BYTES and (consumers, parts) != (2, 1):
        raise ValueError(
            f"consumers = {consumers}, parts = {parts}: with scales {scales} they are 2 and 1"
        )
    tiles = _tiles(rows, consumers)
    if (block_m, block_n) not in tiles:
        known = ", ".join(f"{m}x{n}" for m, n in tiles)
        raise ValueError(
            f"tile {block_m}x{block_n}: with scales {scales} and {consumers} consumers it is one "
            f"of {known}"
        )
    if out_block > 64 and (block_m, block_n, consumers) != (out_block, out_block, 2):
        raise ValueError(
            f"tile {block_m}x{block_n} of {consumers} consumers, output {out}: a block of more "
            f"than 64 rows is the tile of two consumers, {out_block}x{out_block}"
        )
    if not 2 <= stages <= 8 or group_m < 1:
        raise ValueError(f"stages = {stages}, group_m = {group_m}: they lie in 2..8 and from 1")
    if run not in (1, 4, 8):
        raise ValueError(f"run = {run}: it is 1, 4 or 8")
    if run > 1 and not (
        element == "int8"
        and rows > 1
        and run * quant_k <= RUN_K
        and 1 < sets * parts <= 8 // consumers
    ):
        raise ValueError(
            f"run = {run}, element {element}, scales {scales}, sets = {sets}, parts = {parts}, "
            f"consumers = {consumers}: "
            f"runs are for int8 with scales of blocks, {RUN_K} of K at most, and several pieces, "
            "two for four consumers"
        )
    if run > 1 and stages < 3:
        raise ValueError(f"run = {run}, stages = {stages}: runs take 3 stages or more")
    _, element_value, unit_log2 = ELEMENTS[element]
    macros = {
        "ELEMENT": element_value,
        "UNIT_LOG2": unit_log2,
        "OUT": out_value,
        "OUT_BLOCK": out_block,
        "STOCHASTIC": stochastic,
        "A_ROWS": rows,
        "B_ROWS": rows,
        "QUANT_K": quant_k,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "STAGES": stages,
        "CLUSTER": cluster,
        "GROUP_M": group_m,
        "STORE_BUFFERS": buffers,
        "CONSUMERS": consumers,
        "SETS": sets,
        "PARTS": parts,
        "SPREAD": spread,
        "RUN": run,
    }
    return macro_options(macros, ARCHITECTURE)


@cache
def compiled_kernel(
    device: int, element: str, out: str, scales: str, items: tuple[tuple[str, int | bool], ...]
) -> Any:
    """The compiled kernel of a device for formats and a configuration's fields.

    Raises:
        ValueError: as :func:`options`, or the device has not so much shared memory.
    """
    config = dict(items)
    chosen = options(element=element, out=out, scales=scales, config=config)
    source = Path(__file__).with_suffix(".cu").name
    (kernel,) = functions(device, source, chosen, ("gemm_hopper_blocks",))
    smem = smem_bytes(scales=scales, config=config)
    allow_shared_memory(
        kernel, device, smem, f"stages = {config['stages']}: take fewer, or a smaller tile"
    )
    return kernel


def launch(
    a: Any,
    b: Any,
    c: Any,
    a_scale: Any,
    b_scale: Any,
    c_scale: Any = None,
    *,
    element: str,
    out: str,
    scales: str,
    config: Mapping[str, int | bool],
    seed: int = 0,
    stream: Any = None,
) -> None:
    """``c = (a x scales) · (b x scales)^T`` on the current CuPy stream, or on ``stream``.

    Args:
        a: (M, K), b: (N, K) CuPy arrays, int8 (also of ``mxint8``) or uint8 views of 8-bit floats;
            rows are contiguous and start at multiples of 16 bytes.
        c: (M, N) in ``out``, codes or bf16 as uint8 and uint16 views, rows as those of A; written.
        a_scale, b_scale: float32 on the grids of ``scales``: blocks row-major; ``b1x32`` and
            ``b1x128`` with M (or N) contiguous and columns 16 bytes x n apart.  E8M0 scales are
            given as the powers of two that they stand for.
        c_scale: float32, one a block of codes, row-major; written.
        config: the fields of ``HopperBlockGemmConfig``.
        seed: 64-bit key of stochastic rounding (``+sr``): element i of the flat output takes half
            i % 8 of Philox4x32-10 at counter i // 8.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    m, n, k = check_operands(
        *(a, b, c, a_scale, b_scale, c_scale), element=element, out=out, scales=scales
    )
    keys = np.array(round_keys(seed)).view(_KEYS)[0]
    rows, quant_k = SCALES[scales]
    with a.device:
        kernel = compiled_kernel(a.device.id, element, out, scales, tuple(config.items()))
        block_m, block_n = int(config["block_m"]), int(config["block_n"])
        down, across = cluster_sides(config)
        grid = persistent_grid(a.device.id, -(-m // (block_m * down)), n, config, across=across)
        map_a = tensor_map(a.data.ptr, 1, k, m, row_pitch(a), (ROW_BYTES, block_m // across))
        map_b = tensor_map(b.data.ptr, 1, k, n, row_pitch(b), (ROW_BYTES, block_n // down))
        map_a_scale = map_b_scale = map_a  # not looked at
        if rows == 1:
            units = ROW_BYTES // quant_k
            map_a_scale, map_b_scale = (
                tensor_map(s.data.ptr, 4, side, s.shape[1], column_pitch(s), (block, units))
                for s, side, block in ((a_scale, m, block_m), (b_scale, n, block_n))
            )
        out_bytes = ELEMENT_BYTES[OUTPUTS[out][0]]
        width = min(ROW_BYTES // out_bytes, _columns(config))
        map_c = tensor_map(c.data.ptr, out_bytes, n, m, row_pitch(c), (width, 64))
        arguments = (
            *(map_a, map_b, map_a_scale, map_b_scale, map_c),
            *(np.uint64(s.data.ptr) for s in (a_scale, b_scale)),
            *map(np.int32, (m, n, k)),
            *(() if c_scale is None else (np.uint64(c_scale.data.ptr), keys)),
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
    check_operands(a, b, *operands, **rest)
    formats = (rest["element"], rest["out"], rest["scales"])
    with a.device:
        compiled_kernel(a.device.id, *formats, tuple(config.items()))
