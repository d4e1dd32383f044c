"""Launch the weight-only product of ``gemm_hopper_weight_prefill.cu`` on CuPy arrays; no torch.

16-bit activations of many rows by packed weights of 4 or 8 bits, laid out as
``triton/weight_layout.py`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from .compiler_options import check_choices, check_fields, macro_options
from .hopper_formats import ARCHITECTURE, ELEMENT_BYTES, OUTPUTS, ROW_BYTES
from .hopper_grid import persistent_grid
from .hopper_weight_operands import (
    ELEMENTS,
    PANEL_BYTES,
    SCALE_BYTES,
    SCALES,
    WEIGHTS,
    check_group,
    check_operands,
    panel_columns,
)
from .launches import allow_shared_memory, functions, run
from .tensor_maps import row_pitch, tensor_map

__all__ = [
    "BLOCK_M",
    "BLOCK_N",
    "CLUSTERS",
    "FIELDS",
    "MAX_BLOCK_M",
    "MAX_STAGES",
    "THREADS",
    "launch",
    "options",
    "precompile",
    "smem_bytes",
]

FIELDS = ("block_m", "block_n", "stages", "cluster", "group_m", "store_buffers")
CONSUMERS = 2
THREADS = 128 * (CONSUMERS + 1)
#: Rows of X in a tile, rows of W, and of X at most with so many of W: 128 sums a thread.
BLOCK_M = (64, 96, 128, 160, 192, 256)
BLOCK_N = (128, 256)
MAX_BLOCK_M = {128: 256, 256: 128}
#: CTAs that share each tile of X.
CLUSTERS = (1, 2)
MAX_STAGES = 16
#: A staging buffer: 64 rows of C, 64 columns.
STORE_BYTES = 64 * ROW_BYTES


def smem_bytes(
    *, out: str, weight: str, scale_format: str, group: int, config: Mapping[str, int | bool]
) -> int:
    """Dynamic shared memory of a CTA, all that it has: rings, staging buffers, barriers."""
    block_m, block_n, stages = (int(config[f]) for f in ("block_m", "block_n", "stages"))
    panel = panel_columns(weight)
    a_row = panel // group if 0 < group < panel else 1
    slot = -(-block_n * a_row * SCALE_BYTES[scale_format] // 128) * 128
    zeros = -(-block_n * a_row // 128) * 128 if weight == "uint4" else 0
    places = stages if panel == PANEL_BYTES else stages // 2 + 1
    rings = stages * (block_m * ROW_BYTES + 16) + places * (block_n * PANEL_BYTES + slot + zeros)
    staging = 0 if out == "fp32" else CONSUMERS * int(config["store_buffers"]) * STORE_BYTES
    return rings + staging


def options(
    *,
    element: str,
    out: str,
    weight: str,
    scale_format: str,
    group: int,
    config: Mapping[str, int | bool],
) -> tuple[str, ...]:
    """Compiler options for formats and a configuration.

    Raises:
        ValueError: an unknown format, or a configuration that the kernel does not have.
    """
    check_choices({"element": (element, ELEMENTS), "out": (out, OUTPUTS)})
    check_group(weight, scale_format, group)
    check_fields(config, FIELDS)
    block_m, block_n, stages, cluster, group_m, buffers = (int(config[f]) for f in FIELDS)
    if block_m not in BLOCK_M or block_n not in BLOCK_N or block_m > MAX_BLOCK_M[block_n]:
        raise ValueError(
            f"block_m = {block_m}, block_n = {block_n}: rows of x are one of "
            f"{', '.join(map(str, BLOCK_M))}, rows of weights 128, or 256 with up to 128 rows of x"
        )
    if cluster not in CLUSTERS or buffers not in (1, 2):
        raise ValueError(f"cluster = {cluster}, store_buffers = {buffers}: each is 1 or 2")
    if not 2 <= stages <= MAX_STAGES or group_m < 1:
        raise ValueError(
            f"stages = {stages}, group_m = {group_m}: they lie in 2..{MAX_STAGES} and from 1"
        )
    macros = {
        "ELEMENT": ELEMENTS.index(element),
        "OUT": OUTPUTS.index(out),
        "WEIGHT": WEIGHTS.index(weight),
        "SCALE": SCALES.index(scale_format),
        "GROUP": group,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "STAGES": stages,
        "CLUSTER": cluster,
        "GROUP_M": group_m,
        "STORE_BUFFERS": buffers,
    }
    return macro_options(macros, ARCHITECTURE)


@cache
def compiled_kernel(
    device: int,
    formats: tuple[tuple[str, str | int], ...],
    items: tuple[tuple[str, int | bool], ...],
) -> Any:
    """The compiled kernel of a device for formats and a configuration's fields.

    Raises:
        ValueError: as :func:`options`, or the device has not so much shared memory.
    """
    config, named = dict(items), cast(dict[str, Any], dict(formats))
    chosen = options(config=config, **named)
    source = Path(__file__).with_suffix(".cu").name
    (kernel,) = functions(device, source, chosen, ("gemm_hopper_weight_prefill",))
    del named["element"]
    allow_shared_memory(
        kernel,
        device,
        smem_bytes(config=config, **named),
        f"stages = {config['stages']}: take fewer, or a smaller tile",
    )
    return kernel


def launch(
    x: Any,
    codes: Any,
    c: Any,
    scale: Any = None,
    zero: Any = None,
    *,
    row_scale: Any,
    element: str,
    out: str,
    weight: str,
    scale_format: str,
    group: int,
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """``c = x · w^T`` on the current CuPy stream, or on ``stream``.

    Weights are multiplied by their group's scale, rounded to ``element``, and the product is
    rounded to it.

    Args:
        x: (M, K) ``element`` (bf16 as uint16); rows are contiguous and start at multiples of 16
            bytes.
        codes: (panels, N, 64) uint8, N a multiple of 16; ``scale`` and ``zero`` beside it and
            ``row_scale`` (N,) float32 as ``weight_layout.PackedWeight`` has them, 8-bit scales as
            uint8.
        c: (M, N) in ``out``, rows as those of X; written.
        weight: int4, uint4, e2m1fn, int8 or e4m3fn.
        scale_format: of the groups along K: fp32, fp16, bf16, e8m0fnu, e4m3fn; "" without.
        group: columns under one scale: 16, 32, 64 (of 4-bit codes) or whole panels; 0 without.
        config: the fields of ``HopperWeightPrefillConfig``.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    formats: dict[str, Any] = {"weight": weight, "scale_format": scale_format, "group": group}
    m, n, k = check_operands(
        x, codes, c, scale, zero, row_scale=row_scale, element=element, out=out, **formats
    )
    with x.device:
        key = (("element", element), ("out", out), *formats.items())
        kernel = compiled_kernel(x.device.id, key, tuple(config.items()))
        block_m, block_n, cluster = (int(config[f]) for f in ("block_m", "block_n", "cluster"))
        wide = {**config, "block_n": block_n * cluster}  # of a cluster, which lies along N
        grid = persistent_grid(x.device.id, -(-m // block_m), n, wide)
        map_x = tensor_map(x.data.ptr, 2, k, m, row_pitch(x), (ROW_BYTES // 2, block_m // cluster))
        item = ELEMENT_BYTES[out]
        map_c = tensor_map(c.data.ptr, item, n, m, row_pitch(c), (ROW_BYTES // item, 64))
        arguments = (
            map_x,
            map_c,
            *(np.uint64(0 if a is None else a.data.ptr) for a in (codes, scale, zero, row_scale)),
            np.uint64(c.data.ptr),
            np.int64(row_pitch(c)),
            *map(np.int32, (m, n, codes.shape[0])),
        )
        smem = smem_bytes(out=out, config=config, **formats)
        run(kernel, grid, THREADS, arguments, smem_bytes=smem, stream=stream)


def precompile(
    x: Any,
    codes: Any,
    c: Any,
    scale: Any = None,
    zero: Any = None,
    *,
    row_scale: Any,
    config: Mapping[str, int | bool],
    stream: Any = None,
    **formats: Any,
) -> None:
    """Compile what :func:`launch` would run for the same arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    check_operands(x, codes, c, scale, zero, row_scale=row_scale, **formats)
    names = ("element", "out", "weight", "scale_format", "group")
    key = tuple((name, formats[name]) for name in names)
    with x.device:
        compiled_kernel(x.device.id, key, tuple(config.items()))
