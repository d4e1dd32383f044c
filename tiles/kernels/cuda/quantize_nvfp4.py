"""Launch the NVFP4 quantisation of ``quantize_nvfp4.cu`` on CuPy arrays; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .block_arrays import MAX_BLOCKS, check_array, check_matrix, check_one_device
from .compiler_options import check_fields, macro_options
from .dataflow_arguments import parameter_block
from .launches import allow_shared_memory, functions, multiprocessors, run
from .overlap import check_apart

__all__ = [
    "BLOCK",
    "FIELDS",
    "MAX_KEPT_MIB",
    "SOURCE",
    "WORKSPACE_WORDS",
    "Call",
    "launch",
    "options",
    "precompile",
    "prepare",
    "smem_bytes",
]

SOURCE = "quantize_nvfp4.cu"
FIELDS = ("num_warps", "stages", "held", "fused", "kept_mib")
#: Elements under one scale.
BLOCK = 16
#: Blocks of a warp's step, and its bytes; tables of a CTA.
STEP_BLOCKS, STEP_BYTES, TABLE_BYTES = 64, 2048, 2304
#: Most that an L2 is asked to keep.
MAX_KEPT_MIB = 1024
#: Zeros that the kernel takes, and leaves: see the source.
WORKSPACE_WORDS = 3
#: ``Operands`` of the source.
PARAMETERS = np.dtype(
    [
        *((name, np.uint64) for name in ("x", "codes", "scales", "tensor_scale", "workspace")),
        ("blocks", np.uint32),
    ],
    align=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One launch of the kernel."""

    options: tuple[str, ...]  #: the compiler's, architecture left out
    ctas: int  #: at most, or one a multiprocessor
    threads: int
    smem_bytes: int  #: dynamic, of a CTA
    cooperative: bool  #: all CTAs have to be resident


def smem_bytes(warps: int, stages: int) -> int:
    """Shared memory of a CTA."""
    return TABLE_BYTES + warps * stages * STEP_BYTES


def options(
    shape: tuple[int, int], config: Mapping[str, int | bool]
) -> tuple[tuple[str, ...], ...]:
    """Compiler options of each launch for a matrix and a configuration, architecture left out.

    Raises:
        ValueError: a configuration that the kernel cannot be compiled with.
    """
    check_fields(config, FIELDS)
    warps, stages, held, fused, kept = (int(config[name]) for name in FIELDS)
    if not 1 <= warps <= 32:
        raise ValueError(f"num_warps = {warps}: from 1 to 32")
    if not 2 <= stages <= 64:
        raise ValueError(f"stages = {stages}: from 2 to 64")
    if not 0 <= held <= stages * fused:
        raise ValueError(
            f"held = {held}: at most the {stages} stages where both walks are fused, else 0"
        )
    if not 0 <= kept <= MAX_KEPT_MIB:
        raise ValueError(f"kept_mib = {kept}: from 0, which asks for nothing, to {MAX_KEPT_MIB}")
    parts = ((1, 1),) if fused else ((1, 0), (0, 1))
    even = int(shape[0] * shape[1] % (STEP_BLOCKS * BLOCK) == 0)
    return tuple(
        macro_options(
            {
                "THREADS": 32 * warps,
                "STAGES": stages,
                "HELD": held,
                "FIND": find,
                "CODE": code,
                "KEPT_MIB": kept,
                "EVEN": even,
            }
        )
        for find, code in parts
    )


def _validate(x: Any, codes: Any, scales: Any, tensor_scale: Any, workspace: Any) -> None:
    for name, array, dtypes in (
        ("x", x, ("uint16",)), ("codes", codes, ("uint8",)), ("scales", scales, ("uint8",)),
        ("tensor_scale", tensor_scale, ("float32",)),
        ("workspace", workspace, ("int32", "uint32")),
    ):  # fmt: skip
        check_array(name, array, dtypes)
    for name, array in (("x", x), ("codes", codes), ("scales", scales)):
        check_matrix(name, array)
    rows, cols = (int(extent) for extent in x.shape)
    if cols % BLOCK:
        raise ValueError(f"x has {cols} columns: blocks of {BLOCK} take a multiple of them")
    wanted = {
        "codes": (codes, (rows, cols // 2)), "scales": (scales, (rows, cols // BLOCK)),
        "tensor_scale": (tensor_scale, (1,)),
    }  # fmt: skip
    for name, (array, shape) in wanted.items():
        if tuple(array.shape) != shape:
            raise ValueError(f"{name} has shape {tuple(array.shape)}: it must be {shape}")
    if len(workspace.shape) != 1 or workspace.shape[0] < WORKSPACE_WORDS:
        raise ValueError(
            f"workspace has shape {tuple(workspace.shape)}: at least ({WORKSPACE_WORDS},) zeros"
        )
    if not workspace.flags.c_contiguous:
        raise ValueError(f"workspace has strides {workspace.strides}: it must be contiguous")
    if rows * cols // BLOCK > MAX_BLOCKS:
        raise ValueError(f"{rows * cols // BLOCK} blocks: at most {MAX_BLOCKS} fit into one launch")
    for name, array, least in (("x", x, 16), ("codes", codes, 8)):
        if array.data.ptr % least:
            raise ValueError(f"{name} begins at no multiple of {least} bytes: copy it to one")
    named = {"codes": codes, "scales": scales, "tensor_scale": tensor_scale, "workspace": workspace}
    check_one_device({"x": x, **named})
    check_apart(named, {"x": x})


def prepare(
    x: Any,
    codes: Any,
    scales: Any,
    tensor_scale: Any,
    workspace: Any,
    *,
    config: Mapping[str, int | bool],
) -> tuple[tuple[Call, ...], Any]:
    """Check the arguments of :func:`launch`.

    Returns:
        Launches in their order, and the parameters of all.
    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    _validate(x, codes, scales, tensor_scale, workspace)
    shape = (int(x.shape[0]), int(x.shape[1]))
    blocks = shape[0] * shape[1] // BLOCK
    chosen = options(shape, config)
    warps = int(config["num_warps"])
    calls = tuple(
        Call(
            options=one,
            ctas=-(-blocks // (STEP_BLOCKS * warps)),
            threads=32 * warps,
            smem_bytes=smem_bytes(warps, int(config["stages"])),
            cooperative=bool(config["fused"]),
        )
        for one in chosen
    )
    arrays = {
        "x": x, "codes": codes, "scales": scales, "tensor_scale": tensor_scale,
        "workspace": workspace,
    }  # fmt: skip
    return calls, parameter_block(PARAMETERS, arrays, {}, {"blocks": blocks})


def _kernels(calls: tuple[Call, ...], device: int) -> list[Any]:
    """The kernels of launches, on the current device."""
    found = []
    for call in calls:
        (kernel,) = functions(device, SOURCE, call.options, ("quantize_nvfp4",))
        allow_shared_memory(kernel, device, call.smem_bytes, "choose fewer warps or stages")
        found.append(kernel)
    return found


def launch(
    x: Any,
    codes: Any,
    scales: Any,
    tensor_scale: Any,
    workspace: Any,
    *,
    config: Mapping[str, int | bool],
    stream: Any = None,
) -> None:
    """Quantise ``x`` into ``codes``, ``scales`` and ``tensor_scale``.

    Args:
        x: (R, C) C-contiguous CuPy array of bf16 as uint16, C a multiple of 16, on 16 bytes.
        codes: (R, C / 2) uint8, C-contiguous, on 8 bytes: two of a byte; written.
        scales: (R, C / 16) uint8, C-contiguous, e4m3fn; written.
        tensor_scale: (1,) float32: the second level; written.
        workspace: at least 3 int32 or uint32, zeros, and zeros again afterwards; no other launch
            that is under way may have the same.
        config: the fields of ``CudaQuantizeNvfp4Config``.
        stream: a CuPy stream; CuPy's current one when not given.
    Raises:
        ValueError: shapes, strides, devices, overlap or the configuration do not fit; TypeError:
            dtypes.
    """
    calls, parameters = prepare(x, codes, scales, tensor_scale, workspace, config=config)
    device = x.device.id
    with x.device:
        for call, kernel in zip(calls, _kernels(calls, device), strict=True):
            run(
                kernel, min(call.ctas, multiprocessors(device)), call.threads, (parameters,),
                smem_bytes=call.smem_bytes, stream=stream, cooperative=call.cooperative,
            )  # fmt: skip


def precompile(x: Any, *written: Any, **rest: Any) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    calls, _ = prepare(x, *written, **rest)
    with x.device:
        _kernels(calls, x.device.id)
