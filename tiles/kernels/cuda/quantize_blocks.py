"""Launch the CUDA C++ block quantisation of ``quantize_blocks.cu`` on CuPy arrays; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .block_arrays import check_array, check_matrix, check_one_device, check_scales, division
from .compiler_options import check_choices, check_fields, macro_options
from .dataflow_arguments import parameter_block
from .launches import functions, run
from .overlap import check_apart
from .philox_keys import KEYS, is_narrow, matrix_keys
from .quantize_geometry import (
    MAX_SHARED_BYTES,
    MIN_TURNED_BLOCK,
    Geometry,
    geometry_of,
    power_of_two,
)

__all__ = ["SOURCE", "SOURCES", "TARGETS", "launch", "options", "precompile", "prepare"]

SOURCE = "quantize_blocks.cu"
#: Input formats by macro value; bf16 arrives as a uint16 view.
SOURCES = ("fp32", "bf16", "fp16")
#: Code formats by macro value; 8-bit floats arrive as uint8 views.
TARGETS = ("int8", "e4m3fn", "e5m2")
FIELDS = ("threads", "lanes", "vector", "unroll")
SOURCE_DTYPES = {"fp32": ("float32",), "bf16": ("uint16",), "fp16": ("float16", "uint16")}
TARGET_DTYPES = {"int8": ("int8",), "e4m3fn": ("uint8",), "e5m2": ("uint8",)}
SOURCE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
#: A thread keeps at most this many 4-byte words of a block in registers; more are read twice.
MAX_KEPT_WORDS = 64
#: ``Operands`` of the source.
PARAMETERS = np.dtype(
    [
        *((name, np.uint64) for name in ("x", "codes", "scales", "codes_t", "scales_t")),
        *((name, np.int64) for name in (
            "rows", "cols", "scales_row", "scales_col", "scales_t_row", "scales_t_col",
            "pitch", "pitch_t", "first",
        )),
        ("keys", KEYS),
        *((name, np.uint32) for name in ("blocks", "across", "magic", "shift")),
    ],
    align=True,
)  # fmt: skip


def _check_block(block: tuple[int, int]) -> None:
    if block[0] < 1 or block[1] < 0 or (block[1] == 0 and block[0] != 1):
        raise ValueError(f"block = {block}: give (rows, cols), or (1, 0) for one scale a row")


def _check_turned(block: tuple[int, int], geometry: Geometry, keep: bool) -> None:
    """Refuse what has no transposed copy in the same pass."""
    if block[0] != block[1] or not power_of_two(block[0]) or block[0] < MIN_TURNED_BLOCK:
        raise ValueError(
            f"block = {block}: a transposed copy takes square blocks of powers of two, at least "
            f"{MIN_TURNED_BLOCK}"
        )
    if not keep or not geometry.whole_patches:
        raise ValueError(
            f"{geometry.items} vectors of {geometry.vector} for each of {geometry.lanes} lanes: "
            "a transposed copy takes patches of four rows that stay in registers; change lanes or "
            "vector"
        )
    if not power_of_two(geometry.blocks_per_cta):
        raise ValueError(
            f"{geometry.blocks_per_cta} blocks a CTA: a transposed copy takes a power of two; "
            "choose threads, lanes and unroll accordingly"
        )
    if geometry.shared_bytes > MAX_SHARED_BYTES:
        raise ValueError(
            f"a tile of {geometry.shared_bytes} bytes: at most {MAX_SHARED_BYTES} are turned; "
            "choose fewer threads, or more lanes"
        )


def options(
    *,
    source: str,
    target: str,
    block: tuple[int, int],
    shape: tuple[int, int],
    aligned: bool,
    config: Mapping[str, int | bool],
    stochastic: bool = False,
    transposed: bool = False,
    whole: tuple[int, int] | None = None,
) -> tuple[str, ...]:
    """Compiler options for a problem and a configuration, architecture left out.

    Args:
        block: rows and columns under one scale; (1, 0) is one scale a row.
        shape: of the matrix.
        aligned: every vector of ``config["vector"]`` elements starts on its natural boundary; with
            a transposed copy, every 16 of its codes too.
        stochastic: int8 only.
        whole: shape of the matrix that this one is a part of.
    Raises:
        ValueError: an unknown format, or a configuration that does not fit the block.
    """
    check_choices({"source": (source, SOURCES), "target": (target, TARGETS)})
    if stochastic and target != "int8":
        raise ValueError(f"target {target!r}: only int8 is rounded stochastically")
    check_fields(config, FIELDS)
    threads, lanes, vector, unroll = (int(config[name]) for name in FIELDS)
    if not 32 <= threads <= 1024 or threads % 32:
        raise ValueError(f"threads = {threads}: it must be a multiple of 32 up to 1024")
    if lanes < 1 or lanes & (lanes - 1) or threads % lanes:
        raise ValueError(f"lanes = {lanes}: it must be a power of two that divides {threads}")
    if vector not in (1, 4, 8, 16) or block[1] % vector:
        raise ValueError(
            f"vector = {vector}: it must be 1, 4, 8 or 16 and divide a block's {block[1]} columns"
        )
    _check_block(block)
    covered = geometry_of(block, shape, config, transposed=transposed)
    items = covered.items
    keep = items * max(vector * SOURCE_BYTES[source] // 4, 1) <= MAX_KEPT_WORDS
    if unroll < 1 or (unroll > 1 and not keep):
        raise ValueError(
            f"unroll = {unroll}: it must be 1 where a thread has more than {MAX_KEPT_WORDS} words"
        )
    if transposed:
        _check_turned(block, covered, keep)
    macros = {
        "SOURCE": SOURCES.index(source),
        "TARGET": TARGETS.index(target),
        "STOCHASTIC": int(stochastic),
        "THREADS": threads,
        "LANES": lanes,
        "VECTOR": vector,
        "UNROLL": unroll,
        "ITEMS": items if keep else 1,
        "KEEP": int(keep),
        "BLOCK_ROWS": block[0],
        "BLOCK_COLS": block[1],
        "ALIGNED": int(aligned),
        "NARROW": int(is_narrow(whole or shape)),
        "EVEN": int(aligned and covered.even(shape)),
        "TRANSPOSED": int(transposed),
        "RIGHT": covered.right,
        "PLACED": int(whole is not None),
    }
    return macro_options(macros)


def _check_place(
    place: tuple[int, int], part: tuple[int, int], whole: tuple[int, int], block: tuple[int, int]
) -> None:
    """Refuse a part that does not begin and end with whole blocks, or lies outside."""
    if block[1] == 0:
        raise ValueError(f"place = {place}: a part of a matrix has blocks of columns, not {block}")
    for begin, size, extent, side in zip(place, part, whole, block, strict=True):
        end = begin + size
        if begin < 0 or end > extent or begin % side or (end % side and end != extent):
            raise ValueError(
                f"part of {part[0]} x {part[1]} at {place} of {whole[0]} x {whole[1]}: parts lie "
                f"inside, and begin and end at whole blocks of {block[0]} x {block[1]}"
            )


def _validate(
    x: Any,
    codes: Any,
    scales: Any,
    source: str,
    target: str,
    block: Any,
    codes_t: Any = None,
    scales_t: Any = None,
    place: tuple[int, int] | None = None,
) -> None:
    check_choices({"source": (source, SOURCES), "target": (target, TARGETS)})
    check_array("x", x, SOURCE_DTYPES[source])
    check_array("codes", codes, TARGET_DTYPES[target])
    check_matrix("x", x)
    check_matrix("codes", codes, x.shape if place is None else None)
    _check_block(block)
    whole = codes.shape
    if place is not None:
        _check_place(place, x.shape, whole, block)
    check_scales("scales", scales, whole, block)
    written = {"codes": codes, "scales": scales}
    if (codes_t is None) != (scales_t is None):
        raise ValueError("codes_t and scales_t: a transposed copy takes both")
    if codes_t is not None:
        check_array("codes_t", codes_t, TARGET_DTYPES[target])
        turned = (whole[1], whole[0])
        check_matrix("codes_t", codes_t)
        if tuple(codes_t.shape) != turned:
            raise ValueError(f"codes_t has shape {tuple(codes_t.shape)}: it must be {turned}")
        check_scales("scales_t", scales_t, turned, block)
        written |= {"codes_t": codes_t, "scales_t": scales_t}
    check_one_device({"x": x, **written})
    check_apart(written, {"x": x})


def prepare(
    x: Any,
    codes: Any,
    scales: Any,
    *,
    source: str,
    target: str,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
    seed: int | None = None,
    codes_t: Any = None,
    scales_t: Any = None,
    place: tuple[int, int] | None = None,
) -> tuple[tuple[str, ...], int, Any]:
    """Check the arguments of :func:`launch`.

    Returns:
        Compiler options, CTAs and the kernel's parameters.
    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    _validate(x, codes, scales, source, target, block, codes_t, scales_t, place)
    shape, transposed = (int(x.shape[0]), int(x.shape[1])), codes_t is not None
    whole = int(codes.shape[0]), int(codes.shape[1])
    row, col = place or (0, 0)
    chosen: dict[str, Any] = {
        "source": source, "target": target, "block": block, "shape": shape, "config": config,
        "stochastic": seed is not None, "transposed": transposed,
        "whole": None if place is None else whole,
    }  # fmt: skip
    compiled = options(**chosen, aligned=False)
    vector = int(config["vector"])
    if (
        shape[1] % vector == 0
        and whole[1] % vector == 0
        and x.data.ptr % min(16, vector * SOURCE_BYTES[source]) == 0
        and (codes.data.ptr + col) % vector == 0
        and not (transposed and (shape[0] % 16 or whole[0] % 16 or (codes_t.data.ptr + row) % 16))
    ):
        compiled = options(**chosen, aligned=True)
    covered = geometry_of(block, shape, config, transposed=transposed)
    ctas, across = covered.ctas(shape)
    magic, shift = division(across)
    arrays = {"x": x, "codes": codes, "scales": scales, "codes_t": codes_t, "scales_t": scales_t}
    blocks = -(-shape[0] // block[0]) * (-(-shape[1] // block[1]) if block[1] else 1)
    numbers = {
        "rows": shape[0], "cols": shape[1], "keys": matrix_keys(seed or 0, whole), "blocks": blocks,
        "across": across, "magic": magic, "shift": shift, "pitch": whole[1], "pitch_t": whole[0],
        "first": row * whole[1] + col,
    }  # fmt: skip
    if place is not None:
        down, right = row // block[0], col // block[1]
        places = {"codes": row * whole[1] + col, "scales": _bytes_to(scales, down, right)}
        if transposed:
            places |= {
                "codes_t": col * whole[0] + row,
                "scales_t": _bytes_to(scales_t, right, down),
            }
        numbers |= {name: arrays[name].data.ptr + at for name, at in places.items()}
    laid_out = {"scales": scales, "scales_t": scales_t}
    return compiled, ctas, parameter_block(PARAMETERS, arrays, laid_out, numbers)


def _bytes_to(array: Any, row: int, col: int) -> int:
    """From an array's first byte to those of an element."""
    return row * int(array.strides[0]) + col * int(array.strides[1])


def _kernel(device: int, options: tuple[str, ...]) -> Any:
    (kernel,) = functions(device, SOURCE, options, ("quantize_blocks",))
    return kernel


def launch(x: Any, codes: Any, scales: Any, *, stream: Any = None, **rest: Any) -> None:
    """Quantise ``x`` into ``codes`` and ``scales``.

    Args:
        x: (R, C) C-contiguous CuPy array: float32 (fp32), uint16 (bf16), float16 or uint16 (fp16).
        codes: (R, C) C-contiguous, int8 or for 8-bit floats uint8; written.
        scales: float32, one a block, any strides; written.
        source: format of ``x``, one of ``SOURCES``.
        target: format of the codes, one of ``TARGETS``.
        block: rows and columns under one scale; (1, 0) is one scale a row.
        config: the fields of ``CudaQuantizeConfig``.
        seed: 64-bit key of stochastic rounding, for int8 alone, element ``i`` of the flat matrix
            taking half ``i % 8`` of counter ``i // 8``; ``None`` (default) rounds to nearest even.
        codes_t, scales_t: (C, R) codes and their scales, both or none: the transposed copy, of
            square blocks; written.
        place: row and column from which ``x`` is a part, of whole blocks, of a matrix whose codes
            and scales are given: only the part's are written, random bits are the whole one's.
        stream: a CuPy stream; CuPy's current one when not given.
    Raises:
        ValueError: shapes, strides, devices or the configuration do not fit; TypeError: dtypes.
    """
    chosen, ctas, parameters = prepare(x, codes, scales, **rest)
    with x.device:
        run(
            _kernel(x.device.id, chosen),
            ctas,
            int(rest["config"]["threads"]),
            (parameters,),
            stream=stream,
        )


def precompile(x: Any, codes: Any, scales: Any, **rest: Any) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    chosen, *_ = prepare(x, codes, scales, **rest)
    with x.device:
        _kernel(x.device.id, chosen)
