"""Launch the CUDA C++ block quantisation of ``quantize_blocks.cu`` on CuPy arrays; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .block_arrays import check_array, check_matrix, check_one_device, check_scales, division
from .compiler_options import check_choices, check_fields, macro_options
from .launches import functions, run
from .overlap import check_apart

__all__ = ["SOURCES", "TARGETS", "launch", "options", "precompile"]

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


def options(
    *,
    source: str,
    target: str,
    block: tuple[int, int],
    cols: int,
    aligned: bool,
    config: Mapping[str, int | bool],
) -> tuple[str, ...]:
    """Compiler options for a problem and a configuration, architecture left out.

    Args:
        block: rows and columns under one scale; (1, 0) is one scale a row.
        cols: columns of the matrix.
        aligned: every vector of ``config["vector"]`` elements starts on its natural boundary.
    Raises:
        ValueError: an unknown format, or a configuration that does not fit the block.
    """
    check_choices({"source": (source, SOURCES), "target": (target, TARGETS)})
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
    if block[0] < 1 or block[1] < 0 or (block[1] == 0 and block[0] != 1):
        raise ValueError(f"block = {block}: give (rows, cols), or (1, 0) for one scale a row")
    items = -(-block[0] * -(-(block[1] or cols) // vector) // lanes)
    keep = items * max(vector * SOURCE_BYTES[source] // 4, 1) <= MAX_KEPT_WORDS
    if unroll < 1 or (unroll > 1 and not keep):
        raise ValueError(
            f"unroll = {unroll}: it must be 1 where a thread has more than {MAX_KEPT_WORDS} words"
        )
    macros = {
        "SOURCE": SOURCES.index(source),
        "TARGET": TARGETS.index(target),
        "THREADS": threads,
        "LANES": lanes,
        "VECTOR": vector,
        "UNROLL": unroll,
        "ITEMS": items if keep else 1,
        "KEEP": int(keep),
        "BLOCK_ROWS": block[0],
        "BLOCK_COLS": block[1],
        "ALIGNED": int(aligned),
    }
    return macro_options(macros)


def _validate(x: Any, codes: Any, scales: Any, source: str, target: str, block: Any) -> None:
    check_choices({"source": (source, SOURCES), "target": (target, TARGETS)})
    check_array("x", x, SOURCE_DTYPES[source])
    check_array("codes", codes, TARGET_DTYPES[target])
    check_matrix("x", x)
    check_matrix("codes", codes, x.shape)
    if block[0] < 1 or block[1] < 0 or (block[1] == 0 and block[0] != 1):
        raise ValueError(f"block = {block}: give (rows, cols), or (1, 0) for one scale a row")
    check_scales("scales", scales, x.shape, block)
    check_one_device({"x": x, "codes": codes, "scales": scales})
    check_apart({"codes": codes, "scales": scales}, {"x": x})


def _chosen(
    x: Any, codes: Any, source: str, target: str, block: Any, config: Mapping[str, int | bool]
) -> tuple[str, ...]:
    """Compiler options for these arrays."""
    chosen: dict[str, Any] = {
        "source": source, "target": target, "block": block, "cols": x.shape[1], "config": config,
    }  # fmt: skip
    plain = options(**chosen, aligned=False)
    vector = int(config["vector"])
    aligned = (
        x.shape[1] % vector == 0
        and x.data.ptr % min(16, vector * SOURCE_BYTES[source]) == 0
        and codes.data.ptr % vector == 0
    )
    return options(**chosen, aligned=True) if aligned else plain


def _compiled(x: Any, chosen: tuple[str, ...]) -> Any:
    source_file = Path(__file__).with_suffix(".cu").name
    (kernel,) = functions(x.device.id, source_file, chosen, ("quantize_blocks",))
    return kernel


def launch(
    x: Any,
    codes: Any,
    scales: Any,
    *,
    source: str,
    target: str,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """Quantise ``x`` into ``codes`` and ``scales``.

    Args:
        x: (R, C) C-contiguous CuPy array: float32 (fp32), uint16 (bf16), float16 or uint16 (fp16).
        codes: (R, C) C-contiguous, int8 or for 8-bit floats uint8; written.
        scales: float32, one a block, any strides; written.
        source: format of ``x``, one of ``SOURCES``.
        target: format of the codes, one of ``TARGETS``.
        block: rows and columns under one scale; (1, 0) is one scale a row.
        config: the fields of ``CudaQuantizeConfig``.
        stream: a CuPy stream; CuPy's current one when not given.
    Raises:
        ValueError: shapes, strides, devices or the configuration do not fit; TypeError: dtypes.
    """
    _validate(x, codes, scales, source, target, block)
    chosen = _chosen(x, codes, source, target, block, config)
    with x.device:
        kernel = _compiled(x, chosen)
        blocks = scales.shape[0] * scales.shape[1]
        magic, shift = division(scales.shape[1])
        per_cta = int(config["threads"]) // int(config["lanes"]) * int(config["unroll"])
        arguments = (
            x,
            codes,
            scales,
            np.int64(x.shape[0]),
            np.int64(x.shape[1]),
            np.uint32(blocks),
            np.uint32(scales.shape[1]),
            np.uint32(magic),
            np.uint32(shift),
            np.int64(scales.strides[0] // 4),
            np.int64(scales.strides[1] // 4),
        )
        run(kernel, -(-blocks // per_cta), int(config["threads"]), arguments, stream=stream)


def precompile(
    x: Any,
    codes: Any,
    scales: Any,
    *,
    source: str,
    target: str,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    _validate(x, codes, scales, source, target, block)
    chosen = _chosen(x, codes, source, target, block, config)
    with x.device:
        _compiled(x, chosen)
