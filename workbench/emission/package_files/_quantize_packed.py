"""Quantisation to any block format, with a transposed copy if wanted, as a PyTorch operator."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_seed, check_tensor, scale_grid
from ._operator import making
from ._torch_device import NAMES, check_device, current, device_facts

KERNEL, CUDA = "triton_quantize_tiles", "cuda_quantize"
NVFP4 = "cuda_quantize_nvfp4"
_LAYOUTS = layouts(KERNEL)
#: 1xB scales have rows contiguous and padded to this, as ``torch._scaled_mm`` takes them.
_ROW_PADDING = 4
#: Zeros that the NVFP4 kernel takes, and bytes that its input begins on.
_NVFP4_WORDS, _NVFP4_BYTES = 3, 16
#: Columns that a program holds where they share one scale.
_MAX_COLUMNS = 2**15
#: Dtypes of codes of 8 bits; others are packed bytes.
_CODES = {
    "int8": torch.int8,
    "mxint8": torch.int8,
    "e4m3fn": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
_STORED = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Quantized(NamedTuple):
    """What :func:`quantize_packed` returns."""

    codes: Tensor  #: (rows, cols) of 8-bit elements, else (rows, bytes of a row) uint8
    scales: Tensor  #: on the format's grid; one-byte formats as uint8, row-major or swizzled
    tensor_scale: Tensor | None = None  #: (1,) fp32, the second level of NVFP4
    codes_t: Tensor | None = None  #: of the transposed matrix, packed along its rows
    scales_t: Tensor | None = None  #: of the transposed matrix; ``None`` where one serves both


def quantize_packed(
    x: Tensor,
    format: str,
    *,
    transposed: bool = False,
    swizzled: bool = False,
    seed: int | None = None,
) -> Quantized:
    """Quantise a matrix in one pass; for inference and backward products alike, no derivative.

    Saturates; rounds to nearest even, or stochastically where the format says ``+sr``: element i of
    the flat matrix takes half ``i % 8`` of Philox4x32-10 at counter ``i // 8``.  A NaN or an
    infinity makes the scale of its block NaN; an all-zero block has codes 0 and scale 1 (E8M0:
    2^-127).  Ragged last blocks take the values they have.

    Args:
        x: (rows, cols), contiguous, in a source type that the package was emitted with.
        format: a target format that the package was emitted with, e.g. ``"e4m3fn.mx"``.
        transposed: also quantise the transposed matrix; blocks run along its rows.
        swizzled: one-byte scales in the 128x4 tiles of block-scaled tensor cores, flat.
        seed: 64-bit key, below 2^63, of ``+sr``; a CUDA graph keeps the one it was captured with.
    Returns:
        Codes and scales, see :class:`Quantized`.
    Raises:
        ValueError: unknown format or options, wrong shape, device or stride, seed missing or
            beside a format that rounds to nearest.
        TypeError: wrong dtype, or no tensor.
    """
    check_tensor("x", x)
    options = [name for name, on in (("transposed", transposed), ("swizzled", swizzled)) if on]
    layout = _LAYOUTS.get((format, NAMES.get(x.dtype, ""), *options))
    if layout is None:
        known = ", ".join(
            " ".join((f"{source} -> {target}", *more)) for target, source, *more in _LAYOUTS
        )
        asked = " ".join((repr(format), *options))
        raise ValueError(f"no quantize_packed from {x.dtype} to {asked}: there is {known}")
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"quantize_packed takes a matrix (rows, cols), got {tuple(x.shape)}")
    check_seed(format, seed, stochastic=layout["stochastic"])
    if layout["block"] == (1, 0) and x.shape[1] > _MAX_COLUMNS:
        raise ValueError(
            f"x has {x.shape[1]} columns: at most {_MAX_COLUMNS} under one scale fit a program"
        )
    found = _make(x, format, options, seed)
    return Quantized(**dict(zip(_outputs(layout), found, strict=True)))


def _outputs(layout: Mapping[str, Any]) -> list[str]:
    """Names of what is written, in their order."""
    names = ["codes", "scales"]
    if layout["two_level"]:
        names.append("tensor_scale")
    if layout["transposed"]:
        names += ["codes_t", "scales_t"] if layout["block"][0] else ["codes_t"]
    return names


def _empty(x: Tensor, layout: Mapping[str, Any]) -> dict[str, Tensor]:
    """Outputs of the right shapes, dtypes and strides, on x's device."""
    found = {}
    for name in _outputs(layout):
        rows, cols = x.shape if not name.endswith("_t") else (x.shape[1], x.shape[0])
        if name == "tensor_scale":
            found[name] = torch.empty(1, dtype=torch.float32, device=x.device)
        elif name.startswith("codes"):
            dtype = _CODES.get(layout["element"], torch.uint8)
            items = -(-cols * layout["bits"] // 8)
            found[name] = torch.empty((rows, items), dtype=dtype, device=x.device)
        else:
            found[name] = _empty_scales(rows, cols, layout, x.device)
    return found


def _empty_scales(rows: int, cols: int, layout: Mapping[str, Any], device: torch.device) -> Tensor:
    block = layout["block"]
    grid = scale_grid(rows, cols, block)
    if layout["swizzled"]:
        tiles = -(-grid[0] // 128) * -(-grid[1] // 4)
        return torch.empty(tiles * 512, dtype=torch.uint8, device=device)
    dtype = _STORED.get(layout["stored"], torch.uint8)
    padded = -(-grid[0] // _ROW_PADDING) * _ROW_PADDING
    rows_first = block[0] == 1 and block[1] and dtype != torch.uint8
    strides = (1, padded) if rows_first else (grid[1], 1)
    return torch.empty_strided(grid, strides, dtype=dtype, device=device)


@functools.cache
def _whole_rows(cols: int) -> dict[str, int]:
    """A tile that holds whole rows of more columns than a default was made for."""
    wide = 1 << (cols - 1).bit_length()
    return {"block_rows": 1, "block_cols": wide, "num_warps": min(16, max(1, wide // 1024))}


def run(choice: Choice, x: Tensor, outputs: Mapping[str, Tensor], seed: int | None) -> None:
    """Launch a configuration, whatever it was tuned for."""
    layout, config = choice.file.layout, choice.config
    if choice.file.kernel == CUDA:
        _launch_cuda(choice, x, outputs, seed)
        return
    if choice.file.kernel == NVFP4:
        _launch_nvfp4(choice, x, outputs)
        return
    if layout["block"] == (1, 0) and config["block_cols"] < x.shape[1]:
        config = {**config, **_whole_rows(x.shape[1])}
    codes = {n: t.view(torch.uint8) if n.startswith("codes") else t for n, t in outputs.items()}
    with current(x.device):
        template(choice).launch(
            x,
            **codes,
            element=layout["element"],
            block=layout["block"],
            stored=layout["stored"],
            rule=layout["rule"],
            swizzled=layout["swizzled"],
            seed=seed,
            config=config,
        )


def _launch_cuda(
    choice: Choice, x: Tensor, outputs: Mapping[str, Tensor], seed: int | None
) -> None:
    from ._cupy_views import stream, view  # ships with such entries only

    layout = choice.file.layout
    with current(x.device):
        template(choice).launch(
            view(x),
            **{name: view(tensor) for name, tensor in outputs.items()},
            source=NAMES[x.dtype],
            target=layout["element"],
            block=layout["block"],
            seed=seed,
            config=choice.config,
            stream=stream(x.device),
        )


def _launch_nvfp4(choice: Choice, x: Tensor, outputs: Mapping[str, Tensor]) -> None:
    from ._cupy_views import stream, view  # ships with such entries only

    with current(x.device):
        # Zeros of this call alone: others may be under way, and a graph fills its own.
        zeros = torch.zeros(_NVFP4_WORDS, dtype=torch.int32, device=x.device)
        template(choice).launch(
            view(x),
            **{name: view(tensor) for name, tensor in outputs.items()},
            workspace=view(zeros),
            config=choice.config,
            stream=stream(x.device),
        )


def obstacle(device: torch.device) -> str:
    """Why a kernel in CUDA C++ cannot run on a device, or ''."""
    from ._cupy_views import missing_cupy

    return "it needs an NVIDIA GPU" if device.type != "cuda" else missing_cupy()


def _launch(x: Tensor, format: str, options: list[str], seed: int | None, *outputs: Tensor) -> None:
    check_device("x", x)
    if x.shape[0] == 0:
        return
    formats = (format, NAMES[x.dtype], *options)
    device, _ = device_facts(x.device)
    layout = _LAYOUTS[formats]
    # What has neither random bits nor a copy the CUDA C++ kernel serves in `quantize`.
    others = (CUDA,) if layout["stochastic"] or layout["transposed"] else (NVFP4,)
    choice = choose(KERNEL, formats, (x.shape[1],), x.shape[0], device, others)
    if choice.file.kernel != KERNEL:
        why = obstacle(x.device)
        if not why and choice.file.kernel == NVFP4 and x.data_ptr() % _NVFP4_BYTES:
            why = f"its input begins on {_NVFP4_BYTES} bytes"
        if why:
            choice = stand_in(choice, KERNEL, x.shape[0], why)
    run(choice, x, dict(zip(_outputs(layout), outputs, strict=True)), seed)


def _blank(x: Tensor, format: str, options: list[str], seed: int | None) -> list[Tensor]:
    return list(_empty(x, _LAYOUTS[(format, NAMES[x.dtype], *options)]).values())


_make = making(
    "quantize_packed",
    "(Tensor x, str format, str[] options, SymInt? seed) -> Tensor[]",
    empty=_blank,
    launch=_launch,
)
