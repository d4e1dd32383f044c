"""A norm's gradient in numbers, added to a residual stream's, in one pass over rows.

LayerNorm or RMSNorm of INT8 codes in square blocks under fp32 scales: of the codes that went in,
their statistics and the gradient of what came out, in numbers.  A program goes through some rows,
each held whole; what it adds up for gamma and beta it leaves for a sum over programs, whose order
does not depend on which one is first.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from .launch_checks import check_given, check_matrix, check_memory, check_power_of_two
from .tile_checks import check_codes, check_scales

__all__ = ["MAX_COLS", "OPS", "launch", "partial_sums", "precompile"]

OPS = ("layernorm", "rmsnorm")
#: Columns of a row that a program holds.
MAX_COLS = 16384
#: Programs of a launch, where there are rows enough: four a multiprocessor of 132.
_PROGRAMS = 512
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def _norm_gradient(
    x_ptr, x_scales_ptr, dy_ptr, mean_ptr, variance_ptr, gamma_ptr, onto_ptr, total_ptr,
    partials_ptr, rows, cols, rows_each, epsilon, x_row_stride, x_col_stride,
    CENTRED: tl.constexpr, ADDED: tl.constexpr, GRID: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """A program makes ``rows_each`` rows; a row is GRID blocks of SIDE columns."""
    program = tl.program_id(0)
    block = tl.arange(0, GRID)
    col = block[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    inside = col < cols
    gamma = tl.load(gamma_ptr + col, mask=inside, other=0.0).to(tl.float32)
    d_gamma = tl.zeros((GRID, SIDE), tl.float32)
    d_beta = tl.zeros((GRID, SIDE), tl.float32)
    first = program * rows_each
    for step in range(0, tl.minimum(rows_each, rows - first)):
        row = first + step
        base = row.to(tl.int64) * cols
        codes = tl.load(x_ptr + base + col, mask=inside, other=0).to(tl.int8, bitcast=True)
        dy = tl.load(dy_ptr + base + col, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(
            x_scales_ptr + (row // SIDE) * x_row_stride + block * x_col_stride,
            mask=block * SIDE < cols, other=0.0,
        )  # fmt: skip
        mean = tl.load(mean_ptr + row)
        spread = tl.load(variance_ptr + row)
        normal = codes.to(tl.float32) * scale[:, None]
        if CENTRED:
            normal -= mean
        else:
            spread += mean * mean  # of the second moment about zero
        rstd = 1.0 / tl.sqrt(spread + epsilon)
        normal *= rstd
        weighted = dy * gamma
        gradient = weighted - normal * (tl.sum(weighted * normal) / cols)
        if CENTRED:
            gradient -= tl.sum(weighted) / cols
            d_beta += dy
        gradient *= rstd
        if ADDED:
            gradient += tl.load(onto_ptr + base + col, mask=inside, other=0.0).to(tl.float32)
        tl.store(total_ptr + base + col, gradient.to(total_ptr.dtype.element_ty), mask=inside)
        d_gamma += dy * normal
    sums = partials_ptr + program.to(tl.int64) * cols * (2 if CENTRED else 1)
    tl.store(sums + col, d_gamma, mask=inside)
    if CENTRED:
        tl.store(sums + cols + col, d_beta, mask=inside)


def partial_sums(rows: int, cols: int, op: str) -> tuple[int, int, int]:
    """Shape of the sums for gamma, and of LayerNorm for beta, that the programs leave."""
    return -(-rows // _rows_each(rows)), 2 if op == "layernorm" else 1, cols


def _rows_each(rows: int) -> int:
    return -(-rows // _PROGRAMS)


def _call(
    x: torch.Tensor,
    x_scales: torch.Tensor,
    dy: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    gamma: torch.Tensor,
    total: torch.Tensor,
    partials: torch.Tensor,
    onto: torch.Tensor | None = None,
    *,
    op: str,
    epsilon: float,
    block: int,
) -> tuple[Any, int, tuple[Any, ...], dict[str, Any]]:
    """Kernel, number of programs, arguments and constants of a launch."""
    if op not in OPS:
        raise ValueError(f"op = {op!r}: choose one of {', '.join(OPS)}")
    check_power_of_two("block", block)
    check_matrix("x", x)
    rows, cols = x.shape
    if cols > MAX_COLS:
        raise ValueError(f"rows of {cols}: a program holds up to {MAX_COLS} columns")
    check_codes("x", x, rows, cols, "int8")
    check_scales("x_scales", x_scales, (rows, cols), (block, block), "fp32", False)
    numbers = {"dy": dy, "total": total} | ({} if onto is None else {"onto": onto})
    for name, tensor in numbers.items():
        check_matrix(name, tensor)
        if tensor.dtype not in _FLOATS:
            raise TypeError(f"{name} has dtype {tensor.dtype}: bfloat16, float16 or float32")
        if tensor.shape != x.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it must be {rows} x {cols}")
    shapes: dict[str, tuple[torch.Tensor, tuple[int, ...]]] = {
        "mean": (mean, (rows,)), "variance": (variance, (rows,)), "gamma": (gamma, (cols,)),
        "partials": (partials, partial_sums(rows, cols, op)),
    }  # fmt: skip
    for name, (tensor, shape) in shapes.items():
        check_given(name, tensor)
        if tensor.dtype != torch.float32 and (name != "gamma" or tensor.dtype not in _FLOATS):
            raise TypeError(f"{name} has dtype {tensor.dtype}: it must be float32")
        if tuple(tensor.shape) != shape or not tensor.is_contiguous():
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}: it must be {shape}, contiguous"
            )
    check_memory(
        {"total": total, "partials": partials},
        {"x": x, "x_scales": x_scales, "dy": dy, "onto": onto, "mean": mean, "gamma": gamma}
        | {"variance": variance},
    )
    arguments = (
        *(x.view(torch.uint8), x_scales, dy, mean, variance, gamma),
        *(total if onto is None else onto, total, partials, rows, cols, _rows_each(rows)),
        *(float(epsilon), *x_scales.stride()),
    )
    grid = triton.next_power_of_2(triton.cdiv(cols, block))
    constants = {
        "CENTRED": op == "layernorm",
        "ADDED": onto is not None,
        "GRID": grid,
        "SIDE": block,
        # 16 elements a thread.
        "num_warps": min(32, max(1, grid * block // 512)),
    }
    return _norm_gradient, partials.shape[0], arguments, constants


def launch(*tensors: torch.Tensor, **options: Any) -> None:
    """Launch on the current stream.

    Args:
        tensors: ``x`` (R, C) int8 codes of what went into the norm and its ``x_scales``, one fp32 a
            block; ``dy`` (R, C) bf16, fp16 or fp32; ``mean`` and ``variance`` (R) fp32;
            ``gamma`` (C) a float; ``total`` (R, C) a float, written: the gradient of what went in,
            plus ``onto``, if given at the end; before that ``partials`` fp32 of the shape that
            :func:`partial_sums` tells, written: sums over them are the gradients of gamma and beta.
        options: ``op``, one of ``OPS``; ``epsilon``; ``block``, the side of a block.
    Raises:
        ValueError: shapes, strides, devices, overlap or names do not fit; TypeError: dtypes.
    """
    kernel, programs, arguments, constants = _call(*tensors, **options)
    kernel[(programs,)](*arguments, **constants)


def precompile(*tensors: torch.Tensor, **options: Any) -> None:
    """Compile what :func:`launch` would run, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    kernel, programs, arguments, constants = _call(*tensors, **options)
    kernel.warmup(*arguments, grid=(programs,), **constants)
