"""Launch the row operators of ``dataflow_rows.cu`` on CuPy arrays; no torch needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import dataflow_arguments as arguments
from .compiler_options import check_choices, macro_options
from .dataflow_row_geometry import Geometry, geometry
from .launches import allow_shared_memory, check_shared_memory, functions, run
from .philox_keys import KEYS, is_narrow, matrix_keys

__all__ = ["OPS", "SOURCE", "launch", "options", "partial_sums", "precompile", "prepare"]

#: Operators by macro value.
OPS = ("residual", "layernorm", "rmsnorm", "layernorm-bwd", "rmsnorm-bwd")
FIELDS = ("threads", "lanes", "rows", "splits", "clusters", "ctas")
SOURCE = "dataflow_rows.cu"
#: CTAs that any GPU with clusters takes as one.
MAX_SPLITS = 8
#: Lanes that share a row of a block: a warp's at most.  Backward's sums over rows take blocks of
#: so many columns at most.
WARP, BACKWARD_COLS = 32, 128
#: Bytes of the rows of tiles that warps move: a residual has two of each addend, see the source.
LINE, HALF_LINE = 128, 64
#: Columns that a CTA of the last kernel of backward adds up, and its threads.
SUM_COLS, SUM_THREADS = 32, 512
#: ``RowOperands`` of the source.
PARAMETERS = np.dtype(
    [
        *((name, np.uint64) for name in (
            "x", "other", "x_scales", "other_scales", "out", "out_scales", "mean", "variance",
            "gamma", "beta", "partials",
        )),
        *((name, np.int64) for name in (
            "rows", "cols", "x_row", "x_col", "other_row", "other_col", "out_row", "out_col",
        )),
        ("keys", KEYS),
        *((name, np.uint32) for name in ("across", "row_groups", "steps")),
        ("epsilon", np.float32),
    ],
    align=True,
)  # fmt: skip


def options(
    *,
    op: str,
    element: str,
    shape: tuple[int, int],
    block: tuple[int, int],
    stochastic: bool,
    aligned: bool,
    config: Mapping[str, int | bool],
) -> tuple[str, ...]:
    """Compiler options for an operator and a configuration, architecture left out.

    Args:
        shape: rows and columns of the matrix.
        block: rows and columns under one scale, powers of two.
        aligned: every vector of 16 codes lies inside its row and on a 16-byte boundary.
    Raises:
        ValueError: an unknown operator or format, or a configuration that does not fit the block.
    """
    check_choices({"op": (op, OPS)})
    arguments.check_format(element, block)
    arguments.check_config(config, FIELDS, block)
    threads, lanes, rows, splits, clusters, ctas = (int(config[name]) for name in FIELDS)
    if rows < 1 or rows % block[0] or (threads // lanes) % (rows // block[0]):
        raise ValueError(
            f"rows = {rows}: whole blocks of {block[0]} rows, as many as divide the "
            f"{threads // lanes} groups of lanes, are needed"
        )
    if not arguments.power_of_two(splits) or splits > MAX_SPLITS:
        raise ValueError(f"splits = {splits}: it must be 1, 2, 4 or {MAX_SPLITS}")
    if min(clusters, ctas) < 1:
        raise ValueError(f"clusters = {clusters}, ctas = {ctas}: each must be at least 1")
    if op.endswith("-bwd") and block[1] > BACKWARD_COLS:
        raise ValueError(
            f"block = {tuple(block)}: sums over rows take blocks of {BACKWARD_COLS} columns at most"
        )
    if (sharing := min(lanes, block[1] // arguments.VECTOR)) > WARP:
        raise ValueError(
            f"lanes = {lanes}: {sharing} share a row of a block, take at most {WARP} or blocks of "
            f"fewer columns"
        )
    covered = geometry(op=op, shape=shape, block=block, config=config)
    macros = {
        "OP": OPS.index(op),
        "ELEMENT": arguments.ELEMENTS.index(element),
        "STOCHASTIC": int(stochastic),
        "ALIGNED": int(aligned),
        "WHOLE": int(aligned and covered.exact),
        "NARROW": int(is_narrow(shape)),
        "LINED": int(aligned and covered.lined),
        "LINE_BYTES": HALF_LINE if op == "residual" else LINE,
        "BLOCK_ROWS": block[0],
        "BLOCK_COLS": block[1],
        "THREADS": threads,
        "LANES": lanes,
        "BESIDE": covered.beside,
        "ROWS": rows,
        "SPLITS": splits,
        "STAGES": covered.stages,
        "WALKS": int(covered.walks),
        "COLUMN_STEPS": covered.column_steps,
        "CTAS": ctas,
    }
    return macro_options(macros)


def partial_sums(
    *,
    op: str,
    shape: tuple[int, int],
    block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> tuple[int, int, int]:
    """Shape of the sums over rows that ``-bwd`` operators need to work in, fp32."""
    return (geometry(op=op, shape=shape, block=block, config=config).clusters, 2, shape[1])


def sum_ctas(cols: int, *, plain: bool) -> int:
    """CTAs that add up what clusters leave: of products, and where asked of plain gradients."""
    return -(-(1 + plain) * cols // SUM_COLS)


def prepare(
    x: Any,
    x_scales: Any,
    out: Any,
    out_scales: Any,
    mean: Any,
    variance: Any,
    *,
    op: str,
    element: str,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
    stochastic: bool = False,
    other: Any = None,
    other_scales: Any = None,
    gamma: Any = None,
    beta: Any = None,
    d_gamma: Any = None,
    d_beta: Any = None,
    partials: Any = None,
    seed: int = 0,
    epsilon: float = 1e-5,
) -> tuple[tuple[str, ...], Geometry, Any]:
    """Check the arguments of :func:`launch`.

    Returns:
        Compiler options, geometry and the first kernel's parameters.
    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    check_choices({"op": (op, OPS)})
    arguments.check_format(element, block)
    shape = tuple(getattr(x, "shape", ()))
    backward = op.endswith("-bwd")
    codes, scales = {"x": x}, {"x_scales": x_scales}
    if backward or op == "residual":
        codes["other"], scales["other_scales"] = other, other_scales
    chosen: dict[str, Any] = {
        "op": op, "element": element, "shape": shape, "block": block, "stochastic": stochastic,
        "config": config,
    }  # fmt: skip
    arguments.check_matrices(
        {**codes, "out": out}, {**scales, "out_scales": out_scales}, element, shape, block
    )
    options(**chosen, aligned=False)
    covered = geometry(op=op, shape=shape, block=block, config=config)
    rows, cols = shape
    statistics = {"mean": mean, "variance": variance}
    for name, array in statistics.items():
        arguments.check_vector(name, array, (rows,), "row operators read or write it")
    columns: dict[str, Any] = {} if op == "residual" else {"gamma": gamma}
    if op == "layernorm":
        columns["beta"] = beta
    sums: dict[str, Any] = {"d_gamma": d_gamma} if backward else {}
    if op == "layernorm-bwd":
        sums["d_beta"] = d_beta
    for name, array in (*columns.items(), *sums.items()):
        arguments.check_vector(name, array, (cols,), f"{op} takes it")
    if backward:
        work = partial_sums(op=op, shape=shape, block=block, config=config)
        arguments.check_vector("partials", partials, work, f"{op} takes {work} floats to work in")
        sums["partials"] = partials
    optional = {
        "other": other, "other_scales": other_scales, "gamma": gamma, "beta": beta,
        "d_gamma": d_gamma, "d_beta": d_beta, "partials": partials,
    }  # fmt: skip
    arguments.check_optional(op, optional, {**codes, **scales, **columns, **sums})
    arguments.check_epsilon(epsilon)
    written = {"out": out, "out_scales": out_scales, **sums}
    read = {**codes, **scales, **columns}
    (read if backward else written).update(statistics)
    arguments.check_memory(written, read)
    numbers = {
        "rows": rows, "cols": cols, "keys": matrix_keys(seed, shape), "across": x_scales.shape[1],
        "row_groups": covered.row_groups, "steps": covered.steps, "epsilon": epsilon,
    }  # fmt: skip
    laid_out = {"x": x_scales, "other": other_scales, "out": out_scales}
    parameters = arguments.parameter_block(PARAMETERS, {**read, **written}, laid_out, numbers)
    straight = arguments.aligned(cols, {**codes, **columns, "out": out})
    return options(**chosen, aligned=straight), covered, parameters


def _kernels(device: int, chosen: tuple[str, ...], smem_bytes: int, rest: Any) -> Any:
    """The operator's kernel and, going back, that of the columns' sums.

    Raises:
        ValueError: a CTA's share of the rows does not fit the device's shared memory.
    """
    splits = int(rest["config"]["splits"])
    more = f"up to {MAX_SPLITS} share a row's codes"
    advice = f"splits = {splits}: {more if splits < MAX_SPLITS else 'rows are too long for them'}"
    check_shared_memory(device, smem_bytes, advice)
    sums = ("dataflow_column_sums",) if rest["op"].endswith("-bwd") else ()
    kernels = functions(device, SOURCE, chosen, ("dataflow_rows", *sums))
    allow_shared_memory(kernels[0], device, smem_bytes, advice)
    return kernels


def _run(
    covered: Geometry, kernels: Any, parameters: Any, rest: Mapping[str, Any], stream: Any
) -> None:
    splits, threads = (int(rest["config"][name]) for name in ("splits", "threads"))
    grid, smem = covered.clusters * splits, covered.smem_bytes
    run(kernels[0], grid, threads, (parameters,), smem_bytes=smem, stream=stream)
    if len(kernels) > 1:
        cols = int(parameters["cols"])
        sums = (
            np.uint64(arguments.pointer(rest["partials"])),
            np.uint64(arguments.pointer(rest["d_gamma"])),
            np.uint64(arguments.pointer(rest.get("d_beta"))),
            np.int64(cols),
            np.uint32(covered.clusters),
        )
        ctas = sum_ctas(cols, plain=rest.get("d_beta") is not None)
        run(kernels[1], ctas, SUM_THREADS, sums, smem_bytes=4 * SUM_THREADS, stream=stream)


def launch(
    x: Any,
    x_scales: Any,
    out: Any,
    out_scales: Any,
    mean: Any,
    variance: Any,
    *,
    stream: Any = None,
    **rest: Any,
) -> None:
    """Apply an operator that needs whole rows to a quantised matrix.

    Args:
        x: (R, C) codes, C-contiguous CuPy array, int8 or for e4m3fn uint8.
        x_scales: float32, one a block, any strides; positive.
        out, out_scales: like ``x`` and ``x_scales``; written, apart from every input.
        mean, variance: float32 (R), row statistics of what ``out`` (``residual``) or ``x`` stands
            for; backward reads them, all others write them.
        op: one of ``OPS``.
        element: ``int8`` or ``e4m3fn``.
        block: rows and columns under one scale.
        config: the fields of ``DataflowRowsConfig``.
        stochastic: round stochastically with ``seed`` (default: to nearest even).
        other, other_scales: the second addend of ``residual``; the gradient that comes back for
            ``-bwd`` operators, where ``x`` is what went in.
        gamma: float32 (C), for all but ``residual``; ``beta``: float32 (C), for ``layernorm``.
        d_gamma: float32 (C), for ``-bwd``; ``d_beta``: float32 (C), for ``layernorm-bwd``; written.
        partials: float32 of :func:`partial_sums`' shape, for ``-bwd`` to work in.
        seed: 64-bit key of the rounding's random bits, element ``i`` of the flat matrix taking half
            ``i % 8`` of counter ``i // 8``.
        epsilon: added to the variance.
        stream: a CuPy stream; CuPy's current one when not given.
    Raises:
        ValueError: shapes, strides, devices, overlaps, numbers or the configuration do not fit;
            TypeError: dtypes, or an array is missing.
    """
    chosen, covered, parameters = prepare(x, x_scales, out, out_scales, mean, variance, **rest)
    with x.device:
        kernels = _kernels(x.device.id, chosen, covered.smem_bytes, rest)
        _run(covered, kernels, parameters, rest, stream)


def precompile(
    x: Any, x_scales: Any, out: Any, out_scales: Any, mean: Any, variance: Any, **rest: Any
) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    chosen, covered, _ = prepare(x, x_scales, out, out_scales, mean, variance, **rest)
    with x.device:
        _kernels(x.device.id, chosen, covered.smem_bytes, rest)
