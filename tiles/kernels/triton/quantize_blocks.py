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

from .launch_checks import (
    check_fields,
    check_matrix,
    check_memory,
    check_power_of_two,
    power_of_two,
)

__all__ = ["launch", "precompile"]

#: Largest finite value of each code dtype.
CODE_MAX = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
SOURCES = (torch.bfloat16, torch.float16, torch.float32)
FIELDS = ("block_rows", "block_cols", "num_warps", "num_stages", "software_cast")


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)  # tl.max would drop a NaN


@triton.jit
def _amax(x, axis: tl.constexpr):
    return tl.reduce(tl.abs(x), axis, _larger, keep_dims=True)


@triton.jit
def _scale(amax, CODE_MAX: tl.constexpr):
    scale = tl.div_rn(amax, tl.full(amax.shape, CODE_MAX, tl.float32))
    # amax / max_element can underflow; such a block is stored as an all-zero one.
    scale = tl.where(scale == 0.0, 1.0, scale)
    return tl.where(amax < float("inf"), scale, float("nan"))


@triton.jit
def _divide(x, scale):
    """``x / scale`` correctly rounded, at the cost of five operations an element.

    With r the correctly rounded reciprocal, q0 = x·r is within 2 ulp, a first correction
    q1 = q0 + r·(x - q0·s) within 1 ulp, and by Markstein's theorem (IBM J. R&D 34, 1990) a second
    one is the correctly rounded quotient, as long as the remainders are exact.  Multiplying x and
    s by the same power of two keeps them so for every scale; remainders still underflow where
    |x / s| is far below half the smallest code, and there only the sign counts.  The signs are
    arranged so that x = -0 gives -0: x enters negated, the remainder is q·s - x, and r is negated.
    """
    lift = tl.where(scale < 2.0**-60, 2.0**64, tl.where(scale > 2.0**60, 2.0**-64, 1.0))
    divisor = scale * lift
    reciprocal = tl.div_rn(tl.full(scale.shape, -1.0, tl.float32), divisor)
    negated = x * (0.0 - lift)
    quotient = negated * reciprocal
    quotient = tl.fma(tl.fma(quotient, divisor, negated), reciprocal, quotient)
    return tl.fma(tl.fma(quotient, divisor, negated), reciprocal, quotient)


@triton.jit
def _float8_by_integers(ratio, CODE_MAX: tl.constexpr):
    """Round to e4m3fn (maximum 448) or e5m2 (57344): nearest even, saturating; codes as uint8."""
    MANTISSA: tl.constexpr = 3 if CODE_MAX == 448.0 else 2
    BIAS: tl.constexpr = 7 if CODE_MAX == 448.0 else 15
    SHIFT: tl.constexpr = 23 - MANTISSA
    bits = ratio.to(tl.int32, bitcast=True)
    magnitude_bits = bits & 0x7FFFFFFF
    magnitude = tl.minimum(magnitude_bits.to(tl.float32, bitcast=True), CODE_MAX)
    kept = magnitude.to(tl.int32, bitcast=True)
    # Normal codes: add just under half of the last kept place, or half when that place is odd.
    rounded = kept + ((1 << (SHIFT - 1)) - 1) + ((kept >> SHIFT) & 1)
    normal = (rounded >> SHIFT) - ((127 - BIAS) << MANTISSA)
    # Subnormal codes: an addend whose ulp is the smallest code leaves the code in the low bits.
    ADDEND_BITS: tl.constexpr = (127 + 23 + 1 - BIAS - MANTISSA) << 23
    addend = tl.full(bits.shape, ADDEND_BITS, tl.int32).to(tl.float32, bitcast=True)
    subnormal = (magnitude + addend).to(tl.int32, bitcast=True) - ADDEND_BITS
    MIN_NORMAL_BITS: tl.constexpr = (128 - BIAS) << 23
    code = tl.where(kept < MIN_NORMAL_BITS, subnormal, normal) | ((bits >> 24) & 0x80)
    return tl.where(magnitude_bits > 0x7F800000, 0x7F, code).to(tl.uint8)


@triton.jit
def _codes(x, scale, TARGET: tl.constexpr, CODE_MAX: tl.constexpr, SOFTWARE: tl.constexpr):
    ratio = _divide(x.to(tl.float32), scale)
    if TARGET == tl.int8:
        if x.dtype == tl.float32:
            # Only scales below 2^-142 carry so few bits that a ratio reaches 127.5; the smallest
            # numbers of bf16 and fp16 lie far above them.
            ratio = tl.minimum(tl.maximum(ratio, -CODE_MAX), CODE_MAX)
        # Below 2^22 the ulp of x + 1.5·2^23 is 1: the sum is rounded to an integer, ties to even,
        # and its low byte is that integer in two's complement.
        integer = (ratio + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)
        code = tl.where(scale == scale, integer, tl.zeros(integer.shape, tl.int8))
    elif SOFTWARE:
        code = _float8_by_integers(ratio, CODE_MAX)
    else:
        code = ratio.to(TARGET)  # cvt.rn.satfinite: nearest even, saturating, NaN becomes 0x7f
    return code


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
    scale = _scale(_amax(_amax(blocks.to(tl.float32), 3), 1), CODE_MAX)
    codes = _codes(blocks, scale, TARGET, CODE_MAX, SOFTWARE)
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
    amax = _amax(x, 1)
    return amax if PER_ROW else _amax(amax, 0)


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
        scale = _scale(_region_amax(x.to(tl.float32), PER_ROW), CODE_MAX)
        codes = _codes(x, scale, TARGET, CODE_MAX, SOFTWARE)
        tl.store(codes_ptr + offsets, codes, mask=inside)
    else:
        peak = tl.zeros((TILE_ROWS, TILE_COLS), tl.float32)
        for down in range(0, region_rows, TILE_ROWS):
            for across in tl.range(0, region_cols, TILE_COLS, num_stages=STAGES):
                offsets = (row + down) * cols + (col + across)
                inside = (row + down < end_row) & (col + across < end_col)
                x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
                peak = _larger(peak, tl.abs(x.to(tl.float32)))
        scale = _scale(_region_amax(peak, PER_ROW), CODE_MAX)
        for down in range(0, region_rows, TILE_ROWS):
            for across in tl.range(0, region_cols, TILE_COLS, num_stages=STAGES):
                offsets = (row + down) * cols + (col + across)
                inside = (row + down < end_row) & (col + across < end_col)
                x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
                codes = _codes(x, scale, TARGET, CODE_MAX, SOFTWARE)
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
    amax = tl.reduce(tl.abs(x.to(tl.float32)), 0, _larger)
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
    scale = _scale((zero + tl.load(amax_ptr)).to(tl.float32, bitcast=True), CODE_MAX)
    offsets = program.to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = offsets < count
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    codes = _codes(x, scale, TARGET, CODE_MAX, SOFTWARE)
    tl.store(codes_ptr + offsets, codes, mask=inside)
    tl.store(scales_ptr + zero, scale, mask=(zero + program) == 0)


def _validate(x, codes, scales, block, config) -> None:
    check_fields(config, FIELDS)
    for name in ("block_rows", "block_cols", "num_warps"):
        check_power_of_two(name, config[name])
    if config["num_stages"] < 1:
        raise ValueError(f"num_stages = {config['num_stages']}: it must be at least 1")
    if x.dtype not in SOURCES:
        raise TypeError(f"x has dtype {x.dtype}: it must be bfloat16, float16 or float32")
    if codes.dtype not in CODE_MAX:
        raise TypeError(
            f"codes have dtype {codes.dtype}: they must be int8, float8_e4m3fn or float8_e5m2"
        )
    if scales.dtype != torch.float32:
        raise TypeError(f"scales have dtype {scales.dtype}: they must be float32")
    check_matrix("x", x)
    if codes.shape != x.shape:
        raise ValueError(f"codes have shape {tuple(codes.shape)}: x has {tuple(x.shape)}")
    check_matrix("codes", codes)
    if min(block) < 0:
        raise ValueError(f"block = {tuple(block)}: extents are positive, or 0 for the whole extent")
    grid = tuple(-(-n // b) if b else 1 for n, b in zip(x.shape, block))  # noqa: B905
    if tuple(scales.shape) != grid:
        raise ValueError(
            f"scales have shape {tuple(scales.shape)}: blocks of {tuple(block)} on x "
            f"{tuple(x.shape)} need {grid}"
        )
    check_memory({"codes": codes, "scales": scales}, {"x": x})


def _calls(x, codes, scales, block, config):
    """What a launch consists of: (kernel, number of programs, arguments, constants) in order."""
    _validate(x, codes, scales, block, config)
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
