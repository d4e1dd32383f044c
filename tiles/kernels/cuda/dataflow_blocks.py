"""Launch the blockwise operators of ``dataflow_blocks.cu`` on CuPy arrays; no torch needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dataflow_arguments as arguments
from .block_arrays import division
from .compiler_options import check_choices, macro_options
from .launches import allow_shared_memory, check_shared_memory, functions, run
from .philox_keys import KEYS, is_narrow, matrix_keys

__all__ = [
    "OPS",
    "SOURCE",
    "drop_below",
    "launch",
    "lined",
    "options",
    "precompile",
    "prepare",
    "smem_bytes",
    "whole_tiles",
]

#: Operators by macro value.
OPS = (
    "gelu", "gelu-bwd", "silu", "silu-bwd", "relu", "relu-bwd", "dropout", "layernorm-apply",
    "rmsnorm-apply",
)  # fmt: skip
FIELDS = ("threads", "lanes", "steps", "ctas")
SOURCE = "dataflow_blocks.cu"
#: Operators that look up the values at all 256 codes, in blocks of that many elements and more.
TABLED_OPS = ("gelu", "gelu-bwd", "silu", "silu-bwd")
TABLED_ELEMENTS = 1024
TABLE_BYTES = 4 * 256
#: Lanes of a warp, and bytes of a line of memory: where narrower blocks have a warp each, it moves
#: lines, see ``dataflow_lines.cuh``.
WARP, LINE = 32, 128
#: ``Operands`` of the source.
PARAMETERS = np.dtype(
    [
        *((name, np.uint64) for name in (
            "x", "dy", "x_scales", "dy_scales", "out", "out_scales", "mean", "variance", "gamma",
            "beta",
        )),
        *((name, np.int64) for name in (
            "rows", "cols", "x_row", "x_col", "dy_row", "dy_col", "out_row", "out_col",
        )),
        ("keys", KEYS),
        ("mask_keys", KEYS),
        *((name, np.uint32) for name in (
            "across", "tiles", "tiles_across", "magic", "shift", "drop_below",
        )),
        *((name, np.float32) for name in ("keep_scale", "epsilon")),
    ],
    align=True,
)  # fmt: skip


def drop_below(probability: float) -> int:
    """Of 65536 random halves, how many drop their element: dropout's probability as it is applied.

    Raises:
        ValueError: not in [0, 1), or so near 1 that nothing would be kept.
    """
    if not 0 <= probability < 1 or round(probability * 65536) > 65535:
        raise ValueError(f"probability = {probability}: it must lie in [0, 1 - 2^-16]")
    return round(probability * 65536)


def options(
    *,
    op: str,
    element: str,
    block: tuple[int, int],
    stochastic: bool,
    aligned: bool,
    config: Mapping[str, int | bool],
    whole: bool = False,
    lines: bool = False,
    narrow: bool = False,
) -> tuple[str, ...]:
    """Compiler options for an operator and a configuration, architecture left out.

    Args:
        block: rows and columns under one scale, powers of two.
        aligned: every vector of 16 codes lies inside its row and on a 16-byte boundary.
        whole: see :func:`whole_tiles`.
        lines: see :func:`lined`; asks for ``aligned``.
        narrow: see :func:`.philox_keys.is_narrow`.
    Raises:
        ValueError: an unknown operator or format, or a configuration that does not fit the block.
    """
    check_choices({"op": (op, OPS)})
    arguments.check_format(element, block)
    arguments.check_config(config, FIELDS, block)
    for name in ("steps", "ctas"):
        if int(config[name]) < 1:
            raise ValueError(f"{name} = {config[name]}: it must be at least 1")
    macros = {
        "OP": OPS.index(op),
        "ELEMENT": arguments.ELEMENTS.index(element),
        "STOCHASTIC": int(stochastic),
        "ALIGNED": int(aligned),
        "WHOLE": int((whole or lines) and aligned),
        "LINED": int(lines and aligned),
        "NARROW": int(narrow),
        "STAGES": stages(config),
        "LINE_BYTES": line_bytes(op, config),
        "BLOCK_ROWS": block[0],
        "BLOCK_COLS": block[1],
        "THREADS": int(config["threads"]),
        "LANES": int(config["lanes"]),
        "BESIDE": 1 if lines and aligned else blocks_beside(block, config),
        "CTAS": int(config["ctas"]),
    }
    return macro_options(macros)


def lined(shape: tuple[int, int], block: tuple[int, int], config: Mapping[str, int | bool]) -> bool:
    """Whether a warp has whole blocks to itself and moves lines of memory, or half ones."""
    vectors = block[0] * block[1] // arguments.VECTOR
    alone = int(config["lanes"]) == WARP <= vectors and block[1] < LINE
    return alone and shape[0] % block[0] == 0 and shape[1] % LINE == 0


def stages(config: Mapping[str, int | bool]) -> int:
    """Tiles that a warp of lines has shared memory for: one comes while the other one is taken."""
    return 2 if int(config["steps"]) > 1 else 1


def line_bytes(op: str, config: Mapping[str, int | bool]) -> int:
    """Bytes of each of a tile's rows: half a line where two tiles of two matrices are kept."""
    return LINE // 2 if stages(config) > 1 and op.endswith("-bwd") else LINE


def smem_bytes(
    op: str, block: tuple[int, int], config: Mapping[str, int | bool], *, lines: bool = False
) -> int:
    """Dynamic shared memory of a CTA: activations' tables, and the largest values of warps.

    Both exist twice where the threads that share them are in several warps.  Instead of the values
    a warp that moves ``lines`` has its tiles there.
    """
    threads, lanes = int(config["threads"]), int(config["lanes"])
    tabled = op in TABLED_OPS and block[0] * block[1] >= TABLED_ELEMENTS
    if lines:
        matrices = 2 if op.endswith("-bwd") else 1
        tiles = stages(config) * matrices * block[0] * line_bytes(op, config)
        return threads // WARP * (tiles + tabled * TABLE_BYTES)
    side = blocks_beside(block, config)
    copies = 2 if side * lanes > 32 else 1
    return copies * (tabled * threads // lanes * TABLE_BYTES + threads // 32 * side * 4)


def blocks_beside(block: tuple[int, int], config: Mapping[str, int | bool]) -> int:
    """Blocks side by side that threads share."""
    lanes = int(config["lanes"])
    return arguments.beside(block, lanes, int(config["threads"]) // lanes)


def whole_tiles(
    shape: tuple[int, int], block: tuple[int, int], config: Mapping[str, int | bool]
) -> bool:
    """Whether no block that threads share lies outside the matrix, not even in part."""
    return shape[0] % block[0] == 0 and shape[1] % (block[1] * blocks_beside(block, config)) == 0


def prepare(
    x: Any,
    x_scales: Any,
    out: Any,
    out_scales: Any,
    *,
    op: str,
    element: str,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
    stochastic: bool = False,
    dy: Any = None,
    dy_scales: Any = None,
    mean: Any = None,
    variance: Any = None,
    gamma: Any = None,
    beta: Any = None,
    seed: int = 0,
    mask_seed: int = 0,
    probability: float = 0.0,
    epsilon: float = 1e-5,
) -> tuple[tuple[str, ...], int, int, Any]:
    """Check the arguments of :func:`launch`.

    Returns:
        Compiler options, CTAs, bytes of dynamic shared memory and the kernel's parameters.
    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    chosen: dict[str, Any] = {
        "op": op, "element": element, "block": block, "stochastic": stochastic, "config": config,
    }  # fmt: skip
    options(**chosen, aligned=False)
    shape = tuple(getattr(x, "shape", ()))
    codes, scales = {"x": x}, {"x_scales": x_scales}
    if op.endswith("-bwd"):
        codes["dy"], scales["dy_scales"] = dy, dy_scales
    written = {"out": out, "out_scales": out_scales}
    arguments.check_matrices(
        {**codes, "out": out}, {**scales, "out_scales": out_scales}, element, shape, block
    )
    vectors: dict[str, Any] = {}
    if op.endswith("-apply"):
        vectors = {"mean": mean, "variance": variance, "gamma": gamma}
        if op == "layernorm-apply":
            vectors["beta"] = beta
        for name, array in vectors.items():
            extent = shape[0] if name in ("mean", "variance") else shape[1]
            arguments.check_vector(name, array, (extent,), f"{op} reads it")
        arguments.check_epsilon(epsilon)
    given = {"dy": dy, "mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    arguments.check_optional(op, given, {**codes, **vectors})
    if probability and op != "dropout":
        raise ValueError(f"probability = {probability}: only dropout takes one")
    below = drop_below(probability)
    read = {**codes, **scales, **vectors}
    arguments.check_memory(written, read)
    columns = {name: a for name, a in vectors.items() if name in ("gamma", "beta")}
    straight = arguments.aligned(shape[1], {**codes, **columns, "out": out})
    lines = straight and lined(shape, block, config)
    side = line_bytes(op, config) // block[1] if lines else blocks_beside(block, config)
    across = int(x_scales.shape[1])
    tiles_across = -(-across // side)
    tiles = int(x_scales.shape[0]) * tiles_across
    magic, shift = division(tiles_across)
    numbers = {
        "rows": shape[0], "cols": shape[1], "across": across, "tiles": tiles,
        "tiles_across": tiles_across, "magic": magic,
        "shift": shift, "keys": matrix_keys(seed, shape),
        "mask_keys": matrix_keys(mask_seed, shape),
        "drop_below": below, "keep_scale": 65536 / (65536 - below), "epsilon": epsilon,
    }  # fmt: skip
    laid_out = {"x": x_scales, "dy": dy_scales, "out": out_scales}
    parameters = arguments.parameter_block(PARAMETERS, {**read, **written}, laid_out, numbers)
    teams = int(config["threads"]) // (WARP if lines else int(config["lanes"]) * side)
    ctas = -(-tiles // (teams * int(config["steps"])))
    whole = whole_tiles(shape, block, config)
    made = options(**chosen, aligned=straight, whole=whole, lines=lines, narrow=is_narrow(shape))
    return made, ctas, smem_bytes(op, block, config, lines=lines), parameters


def _kernel(
    device: int, chosen: tuple[str, ...], smem: int, config: Mapping[str, int | bool]
) -> Any:
    """The kernel, with the shared memory of its tables.

    Raises:
        ValueError: the device has not so much.
    """
    advice = f"threads = {config['threads']}, lanes = {config['lanes']}: take fewer, or more lanes"
    check_shared_memory(device, smem, advice)
    (kernel,) = functions(device, SOURCE, chosen, ("dataflow_blocks",))
    allow_shared_memory(kernel, device, smem, advice)
    return kernel


def launch(
    x: Any, x_scales: Any, out: Any, out_scales: Any, *, stream: Any = None, **rest: Any
) -> None:
    """Apply an operator to a quantised matrix, block by block.

    Args:
        x: (R, C) codes, C-contiguous CuPy array, int8 or for e4m3fn uint8.
        x_scales: float32, one a block, any strides; positive.
        out, out_scales: like ``x`` and ``x_scales``; written, apart from every input.
        op: one of ``OPS``.
        element: ``int8`` or ``e4m3fn``.
        block: rows and columns under one scale.
        config: the fields of ``DataflowBlocksConfig``.
        stochastic: round stochastically with ``seed`` (default: to nearest even).
        dy, dy_scales: the gradient that comes back, for ``-bwd`` operators, where ``x`` is what
            went in.
        mean, variance: float32 (R), of what ``x`` stands for; ``gamma``, ``beta``: float32 (C);
            ``epsilon``: added to the variance; for ``-apply`` operators (RMSNorm has no ``beta``
            and divides by the root of mean squared plus variance).
        seed: 64-bit key of the rounding's random bits, element ``i`` of the flat matrix taking half
            ``i % 8`` of counter ``i // 8``.
        probability: dropout's, rounded to 1 / 65536; ``mask_seed``: the key of its random bits,
            element ``i`` taking the 16-bit half ``i % 8`` of counter ``i // 8``.  The gradient of
            dropout is dropout of the gradient with the same seed.
        stream: a CuPy stream; CuPy's current one when not given.
    Raises:
        ValueError: shapes, strides, devices, overlaps, numbers or the configuration do not fit;
            TypeError: dtypes, or an array is missing.
    """
    chosen, ctas, smem, parameters = prepare(x, x_scales, out, out_scales, **rest)
    with x.device:
        threads = int(rest["config"]["threads"])
        kernel = _kernel(x.device.id, chosen, smem, rest["config"])
        run(kernel, ctas, threads, (parameters,), smem_bytes=smem, stream=stream)


def precompile(x: Any, x_scales: Any, out: Any, out_scales: Any, **rest: Any) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    chosen, _, smem, _ = prepare(x, x_scales, out, out_scales, **rest)
    with x.device:
        _kernel(x.device.id, chosen, smem, rest["config"])
