"""Launch the weight-only product of ``gemm_hopper_weight_only.cu`` on CuPy arrays; no torch needed.

16-bit activations of few rows by packed weights of 4 or 8 bits, laid out as
``triton/weight_layout.py`` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from .compiler_options import check_choices, check_fields, macro_options
from .hopper_formats import ARCHITECTURE, OUTPUTS, ROW_BYTES
from .hopper_grid import MAX_TILES
from .hopper_weight_operands import (
    COUNTED_TILES,
    ELEMENTS,
    PANEL_BYTES,
    ROWS_MULTIPLE,
    SCALE_BYTES,
    SCALES,
    WEIGHTS,
    check_group,
    check_operands,
    check_workspace,
    panel_columns,
)
from .launches import allow_shared_memory, functions, multiprocessors, run
from .tensor_maps import row_pitch, tensor_map

__all__ = [
    "BLOCK_M",
    "CLUSTERS",
    "COUNTED_TILES",
    "FIELDS",
    "MAX_BLOCK_N",
    "MAX_PER_SM",
    "MAX_STAGES",
    "MAX_SUMS",
    "MAX_WARPS",
    "WARPS_K",
    "WARP_ROWS",
    "ctas",
    "launch",
    "options",
    "precompile",
    "smem_bytes",
    "threads",
    "warps_n",
    "workspace_words",
]

FIELDS = (
    "block_m", "block_n", "warp_rows", "warps_k", "stages", "per_sm", "cluster", "wgmma",
)  # fmt: skip
#: Rows of X in a tile, rows of W that a warp multiplies, and groups of warps that share K.
BLOCK_M = (8, 16, 32, 64)
WARP_ROWS = (16, 32, 64)
WARPS_K = (1, 2, 4, 8)
MAX_BLOCK_N = 512
#: CTAs of a cluster, which share the K of a tile.
CLUSTERS = (1, 2, 4, 8)
#: Warps that multiply, and fp32 sums of a thread beside as many that are not yet scaled.
MAX_WARPS = 16
MAX_SUMS = 32
MAX_STAGES = 48
MAX_PER_SM = 4


def threads(config: Mapping[str, int | bool]) -> int:
    """Threads of a CTA: those that multiply, and the warp that loads."""
    return 32 * warps_n(config) * int(config["warps_k"]) + 32


def warps_n(config: Mapping[str, int | bool]) -> int:
    """Warps that share the rows of a tile; with ``wgmma`` whole warpgroups."""
    block_n, warp_rows = int(config["block_n"]), int(config["warp_rows"])
    return -(-block_n // 64) * 4 if config["wgmma"] else block_n // warp_rows


def smem_bytes(
    *, weight: str, scale_format: str, group: int, config: Mapping[str, int | bool]
) -> int:
    """Dynamic shared memory of a CTA, all that it has.

    Rings of weights, activations, scales and zero points; each group's sums; barriers.
    """
    block_m, block_n, stages = (int(config[f]) for f in ("block_m", "block_n", "stages"))
    panel = panel_columns(weight)
    a_row = panel // group if 0 < group < panel else 1
    slot = -(-block_n * a_row * SCALE_BYTES[scale_format] // 128) * 128
    zeros = -(-block_n * a_row // 128) * 128 if weight == "uint4" else 0
    stage = block_n * PANEL_BYTES + panel // 64 * block_m * ROW_BYTES + slot + zeros
    staging = int(config["warps_k"]) * block_m * (block_n + 4) * 4
    return stages * (stage + 16) + staging + 16


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
    block_m, block_n, warp_rows, warps_k, stages, per_sm, cluster, wgmma = (
        int(config[f]) for f in FIELDS
    )
    if block_m not in BLOCK_M or warp_rows not in WARP_ROWS or warps_k not in WARPS_K:
        raise ValueError(
            f"block_m = {block_m}, warp_rows = {warp_rows}, warps_k = {warps_k}: they are one of "
            f"{', '.join(map(str, BLOCK_M))}, of {', '.join(map(str, WARP_ROWS))} and of "
            f"{', '.join(map(str, WARPS_K))}"
        )
    if wgmma and warp_rows != 16:
        raise ValueError(
            f"warp_rows = {warp_rows} with wgmma: a warp has 16 rows of its warpgroup's"
        )
    if wgmma and group % panel_columns(weight):
        raise ValueError(
            f"wgmma with group = {group}: products of warpgroups are scaled by whole panels, "
            f"multiples of {panel_columns(weight)} columns"
        )
    if wgmma and (block_n < 64 or block_n % ROWS_MULTIPLE or block_n > MAX_BLOCK_N):
        raise ValueError(
            f"block_n = {block_n} with wgmma: a multiple of {ROWS_MULTIPLE}, 64 to {MAX_BLOCK_N}"
        )
    if not wgmma and (block_n < warp_rows or block_n % warp_rows or block_n > MAX_BLOCK_N):
        raise ValueError(
            f"block_n = {block_n}: a multiple of warp_rows = {warp_rows}, up to {MAX_BLOCK_N}"
        )
    if (warps := warps_n(config) * warps_k) > MAX_WARPS:
        raise ValueError(f"{warps} warps multiply: {MAX_WARPS} at most, take a larger warp_rows")
    if (sums := warp_rows * block_m // 32) > MAX_SUMS:
        raise ValueError(
            f"warp_rows {warp_rows} x block_m {block_m}: {sums} sums a thread, room for {MAX_SUMS}"
        )
    if not max(2, warps_k) <= stages <= MAX_STAGES or not 0 <= per_sm <= MAX_PER_SM:
        raise ValueError(
            f"stages = {stages}, per_sm = {per_sm}: they lie in {max(2, warps_k)}..{MAX_STAGES} "
            f"and 0..{MAX_PER_SM}"
        )
    if stages % warps_k:
        raise ValueError(f"stages = {stages}: a multiple of warps_k = {warps_k}")
    if cluster not in CLUSTERS or (cluster > 1 and per_sm):
        raise ValueError(
            f"cluster = {cluster}, per_sm = {per_sm}: cluster is one of "
            f"{', '.join(map(str, CLUSTERS))}, and 1 with per_sm"
        )
    macros = {
        "ELEMENT": ELEMENTS.index(element),
        "OUT": OUTPUTS.index(out),
        "WEIGHT": WEIGHTS.index(weight),
        "SCALE": SCALES.index(scale_format),
        "GROUP": group,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "WARP_ROWS": warp_rows,
        "WARPS_K": warps_k,
        "STAGES": stages,
        "PER_SM": max(1, per_sm),
        "CLUSTER": cluster,
        "WGMMA": wgmma,
    }
    return macro_options(macros, ARCHITECTURE)


def ctas(
    m: int, n: int, panels: int, config: Mapping[str, int | bool], multiprocessor_count: int
) -> int:
    """CTAs of a launch: a cluster a tile, or ``per_sm`` a multiprocessor that share all steps.

    Raises:
        ValueError: more tiles than are counted, or a CTA of a cluster would have no panel.
    """
    tiles = -(-m // int(config["block_m"])) * -(-n // int(config["block_n"]))
    per_sm, cluster = int(config["per_sm"]), int(config["cluster"])
    if cluster > panels:
        raise ValueError(f"cluster = {cluster}: {panels} panels along K, take {panels} at most")
    if per_sm and tiles > COUNTED_TILES:
        raise ValueError(
            f"per_sm {per_sm} of {tiles} tiles: a workspace counts {COUNTED_TILES}, take per_sm 0"
        )
    if tiles * cluster > MAX_TILES:
        raise ValueError(
            f"{tiles} tiles of {cluster} CTAs: the kernel counts up to {MAX_TILES} CTAs, split the "
            "product"
        )
    return min(tiles * panels, multiprocessor_count * per_sm) if per_sm else tiles * cluster


def workspace_words(
    m: int, n: int, panels: int, config: Mapping[str, int | bool], multiprocessor_count: int
) -> int:
    """int32 words that a launch on an M x N output needs; 0 where no tile is shared.

    Raises:
        ValueError: as :func:`ctas`.
    """
    if not config["per_sm"]:
        return 0
    # The first and the last tile of a CTA may be shared.
    shared = 2 * ctas(m, n, panels, config, multiprocessor_count)
    return COUNTED_TILES + shared * int(config["block_m"]) * int(config["block_n"])


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
    (kernel,) = functions(device, source, chosen, ("gemm_hopper_weight_only",))
    packed = {name: named[name] for name in ("weight", "scale_format", "group")}
    smem = smem_bytes(config=config, **packed)
    allow_shared_memory(
        kernel, device, smem, f"stages = {config['stages']}: take fewer, or a smaller tile"
    )
    kernel.preferred_shared_memory_carveout = 100  # percent: several CTAs share a multiprocessor
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
    workspace: Any = None,
    stream: Any = None,
) -> None:
    """``c = x · w^T`` on the current CuPy stream, or on ``stream``.

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
        config: the fields of ``HopperWeightOnlyConfig``.
        workspace: int32, at least :func:`workspace_words` long, zeros before the first launch;
            needed with ``per_sm``.  A launch leaves its counters at zero, so that launches on one
            stream share a workspace; launches that may overlap do not.  After a launch that was
            cut short it must be zeros again.
    Raises:
        ValueError, TypeError: formats, shapes, strides or the configuration do not fit.
    """
    formats: dict[str, Any] = {"weight": weight, "scale_format": scale_format, "group": group}
    m, n, k = check_operands(
        x, codes, c, scale, zero, row_scale=row_scale, element=element, out=out, **formats
    )
    panels = codes.shape[0]
    with x.device:
        key = (("element", element), ("out", out), *formats.items())
        kernel = compiled_kernel(x.device.id, key, tuple(config.items()))
        processors = multiprocessors(x.device.id)
        grid = ctas(m, n, panels, config, processors)
        words = workspace_words(m, n, panels, config, processors)
        read = {"x": x, "codes": codes, "scale": scale, "zero": zero, "row_scale": row_scale}
        check_workspace(workspace, words, {"c": c}, read)
        map_x = tensor_map(
            x.data.ptr, 2, k, m, row_pitch(x), (ROW_BYTES // 2, int(config["block_m"]))
        )
        counters = workspace.data.ptr if words else 0
        arguments = (
            map_x,
            *(np.uint64(0 if a is None else a.data.ptr) for a in (codes, scale, zero, row_scale)),
            np.uint64(c.data.ptr),
            np.uint64(counters + 4 * COUNTED_TILES if words else 0),
            np.uint64(counters),
            np.int64(row_pitch(c)),
            *map(np.int32, (m, n, panels, grid)),
        )
        smem = smem_bytes(config=config, **formats)
        run(kernel, grid, threads(config), arguments, smem_bytes=smem, stream=stream)


def precompile(
    x: Any,
    codes: Any,
    c: Any,
    scale: Any = None,
    zero: Any = None,
    *,
    row_scale: Any,
    config: Mapping[str, int | bool],
    workspace: Any = None,
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
