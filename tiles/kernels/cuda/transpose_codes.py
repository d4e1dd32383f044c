"""Launch the transposition of ``transpose_codes.cu`` on CuPy arrays; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .block_arrays import MAX_BLOCKS, check_array, check_matrix, check_one_device, division
from .compiler_options import check_fields, macro_options
from .launches import functions, run
from .overlap import check_apart
from .quantize_geometry import MAX_SHARED_BYTES, power_of_two

__all__ = ["SOURCE", "launch", "options", "precompile", "prepare", "shared_bytes"]

SOURCE = "transpose_codes.cu"
FIELDS = ("block_rows", "block_cols", "num_warps")
DTYPES = ("int8", "uint8")
#: Bytes that are moved at once.
CHUNK = 16
#: Codes that a thread turns at once: four rows of a chunk.
PATCH = 4 * CHUNK
#: ``Operands`` of the source.
PARAMETERS = np.dtype(
    [
        *((name, np.uint64) for name in ("codes", "out")),
        *((name, np.int64) for name in ("rows", "cols")),
        *((name, np.uint32) for name in ("across", "magic", "shift")),
    ],
    align=True,
)


def shared_bytes(rows: int, cols: int) -> int:
    """Shared memory of a CTA with a tile of so many rows and columns."""
    side = max(min(cols // CHUNK, 8), 1)
    return rows * cols + cols // CHUNK * CHUNK * (32 // side // 4)


def options(
    shape: tuple[int, int], *, aligned: bool, config: Mapping[str, int | bool]
) -> tuple[str, ...]:
    """Compiler options for a matrix and a configuration, architecture left out.

    Args:
        aligned: rows of both matrices are multiples of 16 bytes on 16-byte boundaries.
    Raises:
        ValueError: a configuration that the kernel cannot be compiled with.
    """
    check_fields(config, FIELDS)
    rows, cols, warps = (int(config[name]) for name in FIELDS)
    for name, extent in (("block_rows", rows), ("block_cols", cols)):
        if not power_of_two(extent) or extent < 32:
            raise ValueError(f"{name} = {extent}: it must be a power of two, at least 32")
    if not power_of_two(warps) or warps > 32 or rows * cols % (32 * warps * PATCH):
        raise ValueError(
            f"num_warps = {warps}: it must be a power of two up to 32, with {PATCH} codes a thread "
            f"or a multiple of them; a tile has {rows * cols}"
        )
    if shared_bytes(rows, cols) > MAX_SHARED_BYTES:
        raise ValueError(
            f"a tile of {shared_bytes(rows, cols)} bytes: at most {MAX_SHARED_BYTES} are turned"
        )
    macros = {
        "TILE_ROWS": rows,
        "TILE_COLS": cols,
        "THREADS": 32 * warps,
        "ALIGNED": int(aligned),
        "EVEN": int(aligned and shape[0] % rows == 0 and shape[1] % cols == 0),
    }
    return macro_options(macros)


def prepare(
    codes: Any, out: Any, *, config: Mapping[str, int | bool]
) -> tuple[tuple[str, ...], int, Any]:
    """Check the arguments of :func:`launch`.

    Returns:
        Compiler options, CTAs and the kernel's parameters.
    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    for name, array in (("codes", codes), ("out", out)):
        check_array(name, array, DTYPES)
        check_matrix(name, array)
    if codes.dtype != out.dtype:
        raise TypeError(f"out has dtype {out.dtype}: codes have {codes.dtype}")
    rows, cols = (int(extent) for extent in codes.shape)
    if tuple(out.shape) != (cols, rows):
        raise ValueError(f"out has shape {tuple(out.shape)}: it must be {(cols, rows)}")
    check_one_device({"codes": codes, "out": out})
    check_apart({"out": out}, {"codes": codes})
    plain = options((rows, cols), aligned=False, config=config)
    places = (rows, cols, codes.data.ptr, out.data.ptr)
    chosen = plain
    if not any(place % CHUNK for place in places):
        chosen = options((rows, cols), aligned=True, config=config)
    across = -(-cols // int(config["block_cols"]))
    ctas = -(-rows // int(config["block_rows"])) * across
    if ctas > MAX_BLOCKS:
        raise ValueError(f"{ctas} tiles: at most {MAX_BLOCKS} fit into one launch")
    parameters = np.zeros((), PARAMETERS)
    parameters["codes"], parameters["out"] = codes.data.ptr, out.data.ptr
    parameters["rows"], parameters["cols"] = rows, cols
    parameters["across"] = across
    parameters["magic"], parameters["shift"] = division(across)
    return chosen, ctas, parameters[()]


def launch(codes: Any, out: Any, *, config: Mapping[str, int | bool], stream: Any = None) -> None:
    """Write the transpose of ``codes`` to ``out``.

    Args:
        codes: (R, C) C-contiguous CuPy array, int8 or uint8.
        out: (C, R) of the same dtype, C-contiguous; written.
        config: the fields of ``CudaTransposeConfig``.
        stream: a CuPy stream; CuPy's current one when not given.
    Raises:
        ValueError: shapes, strides, devices, overlap or the configuration do not fit; TypeError:
            dtypes.
    """
    chosen, ctas, parameters = prepare(codes, out, config=config)
    with codes.device:
        (kernel,) = functions(codes.device.id, SOURCE, chosen, ("transpose_codes",))
        run(kernel, ctas, 32 * int(config["num_warps"]), (parameters,), stream=stream)


def precompile(codes: Any, out: Any, *, config: Mapping[str, int | bool]) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    chosen, *_ = prepare(codes, out, config=config)
    with codes.device:
        functions(codes.device.id, SOURCE, chosen, ("transpose_codes",))
