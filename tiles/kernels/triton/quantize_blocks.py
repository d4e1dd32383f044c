"""Quantise a matrix in blocks: ``scale = amax / max_element``, ``code = round(x / scale)``.

Codes and scales are bit-identical to the workbench's NumPy codec: both divisions are IEEE fp32,
rounding is to nearest even and saturates.  An all-zero block has codes 0 and scale 1.  A NaN or an
infinity makes the scale of its block NaN and all its codes 0 (int8) or 0x7f (8-bit floats).

Triton flushes no fp32 subnormals: the kernels use only ``mul``, ``fma.rn`` and ``div.rn``, which it
emits without ``.ftz``.

One pass over memory where a program's tile holds whole blocks or whole rows; otherwise a program
reads its block twice, the second time out of L2.  Scaling a whole tensor takes two launches.
"""

from collections.abc import Mapping

import torch
import triton
import triton.language as tl

from .block_codes import block_amax, block_codes, block_scale, larger
from .launch_checks import power_of_two
from .quantize_blocks_checks import CODE_MAX, check_arguments

__all__ = ["launch", "precompile"]


@triton.jit
def _quantize_tiles(
    x_ptr, codes_ptr, scales_ptr, rows, cols, scale_row_stride, scale_col_stride,
    CODE_MAX: tl.constexpr, SOFTWARE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr,
):  # fmt: skip
    """A program holds a tile of whole blocks, each extent a power of two."""
    TARGET: tl.constexpr = codes_ptr.dtype.element_ty
    GRID_ROWS: tl.constexpr = TILE_ROWS // BLOCK_ROWS
    GRID_COLS: tl.constexpr = TILE_COLS // BLOCK_COLS
    tiles_across = tl.cdiv(cols, TILE_COLS)
    tile = tl.program_id(0)
    tile_row = tile // tiles_across
    tile_col = tile % tiles_across
    row = tile_row.to(tl.int64) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    col = tile_col * TILE_COLS + tl.arange(0, TILE_COLS)
    offsets = row[:, None] * cols + col[None, :]
    inside = (row[:, None] < rows) & (col[None, :] < cols)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)

    blocks = tl.reshape(x, (GRID_ROWS, BLOCK_ROWS, GRID_COLS, BLOCK_COLS))
    scale = block_scale(block_amax(block_amax(blocks.to(tl.float32), 3), 1), CODE_MAX)
    codes = block_codes(blocks, scale, TARGET, CODE_MAX, SOFTWARE)
    tl.store(codes_ptr + offsets, tl.reshape(codes, (TILE_ROWS, TILE_COLS)), mask=inside)

    grid_row = tile_row.to(tl.int64) * GRID_ROWS + tl.arange(0, GRID_ROWS)
    grid_col = tile_col.to(tl.int64) * GRID_COLS + tl.arange(0, GRID_COLS)
    scale_offsets = grid_row[:, None] * scale_row_stride + grid_col[None, :] * scale_col_stride
    scale_inside = (grid_row[:, None] < tl.cdiv(rows, BLOCK_ROWS)) & (
        grid_col[None, :] < tl.cdiv(cols, BLOCK_COLS)
    )
    grid_scale = tl.reshape(scale, (GRID_ROWS, GRID_COLS))
    tl.store(scales_ptr + scale_offsets, grid_scale, mask=scale_inside)


@triton.jit
def _region_amax(x, PER_ROW: tl.constexpr):
    amax = block_amax(x, 1)
    return amax if PER_ROW else block_amax(amax, 0)


@triton.jit
def _quantize_regions(
    x_ptr, codes_ptr, scales_ptr, rows, cols, scale_row_stride, scale_col_stride,
    region_rows, region_cols,
    CODE_MAX: tl.constexpr, SOFTWARE: tl.constexpr, PER_ROW: tl.constexpr, ONE_TILE: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """A program quantises one region: a block of any extents, or TILE_ROWS rows with a scale each.

    The region stays in registers when one tile covers it (ONE_TILE), else it is read twice.
    """
    TARGET: tl.constexpr = codes_ptr.dtype.element_ty
    regions_across = tl.cdiv(cols, region_cols)
    region = tl.program_id(0)
    grid_row = (region // regions_across).to(tl.int64)
    grid_col = (region % regions_across).to(tl.int64)
    first_row = grid_row * region_rows
    first_col = grid_col * region_cols
    end_row = tl.minimum(first_row + region_rows, rows)
    end_col = tl.minimum(first_col + region_cols, cols)
    row = first_row + tl.arange(0, TILE_ROWS)[:, None]
    col = first_col + tl.arange(0, TILE_COLS)[None, :]
    if ONE_TILE:
        offsets = row * cols + col
        inside = (row < end_row) & (col < end_col)
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
        scale = block_scale(_region_amax(x.to(tl.float32), PER_ROW), CODE_MAX)
        codes = block_codes(x, scale, TARGET, CODE_MAX, SOFTWARE)
        tl.store(codes_ptr + offsets, codes, mask=inside)
    else:
        peak = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
        for down in range(0, region_rows, TILE_ROWS):
            for across in tl.range(0, region_cols, TILE_COLS, num_stages=STAGES):
                offsets = (row + down) * cols + (col + across)
                inside = (row + down < end_row) & (col + across < end_col)
                x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
                peak = larger(peak, tl.abs(x.to(tl.float32)))
        scale = block_scale(_region_amax(peak, PER_ROW), CODE_MAX)
        for down in range(0, region_rows, TILE_ROWS):
            for across in tl.range(0, region_cols, TILE_COLS, num_stages=STAGES):
                offsets = (row + down) * cols + (col + across)
                inside = (row + down < end_row) & (col + across < end_col)
                x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
                codes = block_codes(x, scale, TARGET, CODE_MAX, SOFTWARE)
                tl.store(codes_ptr + offsets, codes, mask=inside)
    if PER_ROW:
        tl.store(scales_ptr + row * scale_row_stride, scale, mask=row < rows)
    else:
        corner = tl.zeros((1, 1), tl.int64)
        scale_offset = grid_row * scale_row_stride + grid_col * scale_col_stride
        tl.store(scales_ptr + (corner + scale_offset), scale)


@triton.jit
def _amax_tensor(x_ptr, amax_ptr, count, TILE: tl.constexpr):
    offsets = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    x = tl.load(x_ptr + offsets, mask=offsets < count, other=0.0)
    amax = tl.reduce(tl.abs(x.to(tl.float32)), 0, larger)
    # As integers, non-negative floats keep their order, and NaN lies above infinity: NaN wins.
    tl.atomic_max(amax_ptr, amax.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit
def _quantize_tensor(
    x_ptr, codes_ptr, scales_ptr, amax_ptr, count,
    CODE_MAX: tl.constexpr, SOFTWARE: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    TARGET: tl.constexpr = codes_ptr.dtype.element_ty
    program = tl.program_id(0)
    zero = tl.zeros((1,), tl.int32)
    scale = block_scale((zero + tl.load(amax_ptr)).to(tl.float32, bitcast=True), CODE_MAX)
    offsets = program.to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = offsets < count
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    codes = block_codes(x, scale, TARGET, CODE_MAX, SOFTWARE)
    tl.store(codes_ptr + offsets, codes, mask=inside)
    tl.store(scales_ptr + zero, scale, mask=(zero + program) == 0)


def _calls(x, codes, scales, block, config):
    """What a launch consists of: (kernel, number of programs, arguments, constants) in order."""
    check_arguments(x, codes, scales, block, config)
    rows, cols = x.shape
    tile = (config["block_rows"], config["block_cols"])
    constants = {
        "CODE_MAX": CODE_MAX[codes.dtype],
        "SOFTWARE": config["software_cast"],
        "num_warps": config["num_warps"],
    }
    if config["software_cast"] and codes.dtype != torch.int8:
        codes = codes.view(torch.uint8)
    if tuple(block) == (0, 0):
        size = tile[0] * tile[1]
        programs = triton.cdiv(x.numel(), size)
        amax = torch.zeros(1, dtype=torch.int32, device=x.device)
        find = {"TILE": size, "num_warps": config["num_warps"]}
        return [
            (_amax_tensor, programs, (x, amax, x.numel()), find),
            (
                _quantize_tensor,
                programs,
                (x, codes, scales, amax, x.numel()),
                constants | {"TILE": size},
            ),
        ]
    arguments = (x, codes, scales, rows, cols, scales.stride(0), scales.stride(1))
    constants |= {"TILE_ROWS": tile[0], "TILE_COLS": tile[1]}
    if tuple(block) == (1, 0):
        constants |= {"PER_ROW": True, "ONE_TILE": tile[1] >= cols, "STAGES": config["num_stages"]}
        arguments += (tile[0], cols)
        return [(_quantize_regions, triton.cdiv(rows, tile[0]), arguments, constants)]
    extents = (block[0] or rows, block[1] or cols)
    whole = all(power_of_two(b) and t % b == 0 for t, b in zip(tile, extents))  # noqa: B905
    if whole:
        programs = triton.cdiv(rows, tile[0]) * triton.cdiv(cols, tile[1])
        constants |= {"BLOCK_ROWS": extents[0], "BLOCK_COLS": extents[1]}
        return [(_quantize_tiles, programs, arguments, constants)]
    padded = tuple(triton.next_power_of_2(b) for b in extents)
    if tile[0] > padded[0] or tile[1] > padded[1]:
        raise ValueError(
            f"tile {tile[0]}x{tile[1]} neither consists of whole {extents[0]}x{extents[1]} blocks "
            "nor lies within one: choose block_rows and block_cols accordingly"
        )
    constants |= {"PER_ROW": False, "ONE_TILE": tile == padded, "STAGES": config["num_stages"]}
    arguments += extents
    return [(_quantize_regions, scales.shape[0] * scales.shape[1], arguments, constants)]


def launch(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> None:
    """Quantise ``x`` into ``codes`` and ``scales`` on the current stream.

    Args:
        x: (R, C) bf16, fp16 or fp32, contiguous.
        codes: (R, C) int8, float8_e4m3fn or float8_e5m2, contiguous; written.
        scales: fp32, one a block, any strides; written.
        block: rows and columns under one scale, 0 for the whole extent: a tensor scale is (0, 0), a
            scale a row (1, 0), blocks of 1x128 (1, 128).
        config: the fields of ``TritonQuantizeConfig``.
    Raises:
        ValueError: shapes, strides, devices or the configuration do not fit; TypeError: dtypes.
    """
    for kernel, programs, arguments, constants in _calls(x, codes, scales, block, config):
        kernel[(programs,)](*arguments, **constants)


def precompile(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> None:
    """Compile what :func:`launch` would run for these arguments, without running it.

    Raises:
        ValueError, TypeError: as for :func:`launch`.
    """
    for kernel, programs, arguments, constants in _calls(x, codes, scales, block, config):
        kernel.warmup(*arguments, grid=(programs,), **constants)
