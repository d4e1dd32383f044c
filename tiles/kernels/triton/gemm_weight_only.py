"""Products of 16-bit activations with low-bit weights: ``C[M, N] = X[M, K] · W[N, K]^T``.

The kernel computes ``C^T = W · X^T``: weights fill the long side of the tensor cores' instructions
and activations the short one, which goes down to 8 columns, so that a decode step of few tokens
multiplies little padding.  Packed weights go from device memory to shared memory in copies of 16
bytes, from there in loads of 16 bytes to the registers that the instruction reads its first operand
from, and are decoded there: decoded weights never pass through shared memory.

Scales of a group along K multiply its partial sum in fp32 (promotion), or each weight in the
activations' type (``fold``); scales of a row multiply the sum at the end.  With ``split_k`` > 1
several programs share a tile's K extent: each leaves its partial sums in the workspace, and the
last one to arrive adds them up in the order of K, so the result does not depend on who was last.

The module needs torch and triton and nothing else.  A configuration is a mapping with
``block_m``, ``block_n``, ``group_m``, ``split_k``, ``num_warps``, ``num_stages`` (ints), ``tma``,
``fold`` (bools).
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from .complete_products import complete
from .gemm_tile import tile_origin
from .weight_arguments import arguments
from .weight_decode import decode_bytes, decode_halves, round_bf16, scaled
from .weight_layout import PackedWeight

__all__ = ["launch", "precompile"]


@triton.jit
def _group_rows(
    values,
    panel,
    half: tl.constexpr,
    row,
    n,
    GROUP: tl.constexpr,
    PANEL: tl.constexpr,
    SUB: tl.constexpr,
):
    """One word a row and group of a panel's half: (rows,), or (rows, SUB) where SUB > 1.

    int32, whatever is stored.
    """
    if GROUP >= PANEL:
        at = values + (panel // (GROUP // PANEL)).to(tl.int64) * n + row
    else:
        groups: tl.constexpr = PANEL // GROUP
        at = values + (panel.to(tl.int64) * n + row) * groups + half * SUB
    if SUB > 1:
        return tl.load(at[:, None] + tl.arange(0, SUB)[None, :]).to(tl.int32)
    else:
        return tl.load(at).to(tl.int32)


@triton.jit
def _along_k(x, ROWS: tl.constexpr, SUB: tl.constexpr):
    """Repeat one value a group over the 64 columns of a panel's half; (rows, 1) where SUB = 1."""
    if SUB > 1:
        return tl.broadcast_to(x[:, :, None], (ROWS, SUB, 64 // SUB)).reshape(ROWS, 64)
    else:
        return x[:, None]


@triton.jit
def _scale_value(word, SCALE: tl.constexpr):
    """Bit patterns of stored scales, int32, to fp32, exactly."""
    if SCALE == "e8m0fnu":
        # 2^(code - 127) is an fp32 with the code as exponent; code 0 is subnormal, 255 is NaN.
        bits = tl.where(word == 0, 0x400000, tl.where(word == 255, 0x7FC00000, word << 23))
        return bits.to(tl.float32, bitcast=True)
    elif SCALE == "e4m3fn":
        exponent = (word >> 3) & 15
        mantissa = (word & 7).to(tl.float32)
        normal = (8.0 + mantissa) * (1 << tl.maximum(exponent - 1, 0)).to(tl.float32)
        value = tl.where(exponent == 0, mantissa, normal) * 0.001953125
        return tl.where((word & 127) == 127, float("nan"), value)
    elif SCALE == "fp32":
        return word.to(tl.float32, bitcast=True)
    elif SCALE == "bf16":
        return (word << 16).to(tl.float32, bitcast=True)
    else:
        # By integers: a conversion would narrow what is carried to halves of registers.
        number = (word & 0x7FFF) << 13
        finite = number.to(tl.float32, bitcast=True) * 5.192296858534828e33  # 2^112
        special = (number | 0x7F800000).to(tl.float32, bitcast=True)
        size = tl.where(number >= 0x0F800000, special, finite)
        return tl.where(word >= 0x8000, -size, size)


@triton.jit
def _wide_scale(scale, FP16: tl.constexpr, INTERPRET: tl.constexpr):
    """fp32 scales in the type that multiplies weights."""
    if INTERPRET and not FP16:
        return round_bf16(scale)
    else:
        return scale.to(tl.float16 if FP16 else tl.bfloat16)


@triton.jit
def _activations(x_at, x, row0, k0, inside, TMA: tl.constexpr, EVEN_K: tl.constexpr):
    """64 columns of X."""
    if TMA:
        return x.load([row0, k0])
    elif EVEN_K:
        return tl.load(x_at + k0)
    else:
        return tl.load(x_at + k0, mask=tl.arange(0, 64)[None, :] < inside, other=0.0)


@triton.jit
def _ordered(x, BLOCK_M: tl.constexpr, WGMMA: tl.constexpr):
    """The columns of X in the order of the weights' columns, see ``weight_layout``."""
    if WGMMA:
        return x
    else:
        return x.reshape(BLOCK_M, 4, 2, 4, 2).permute(0, 1, 3, 2, 4).reshape(BLOCK_M, 64)


@triton.jit
def _product(w, x, acc, INTERPRET: tl.constexpr):
    if INTERPRET:
        return tl.dot(w, x.to(tl.float32).T, acc)
    else:
        return tl.dot(w, x.T, acc)


@triton.jit
def gemm_weight_only(
    x,
    w,
    c,
    scale,
    zero,
    row_scale,
    partial,
    arrived,
    m,
    n,
    k,
    panels,
    stride_xm,
    stride_cm,
    FORMAT: tl.constexpr,
    GROUP: tl.constexpr,
    SCALE: tl.constexpr,
    FOLD: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
    FP16: tl.constexpr,
    WGMMA: tl.constexpr,
    INTERPRET: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: one program a tile and share of K."""
    HALVES: tl.constexpr = 1 if FORMAT == "int8" or FORMAT == "e4m3fn" else 2
    PANEL: tl.constexpr = 64 * HALVES
    SUB: tl.constexpr = 64 // GROUP if 0 < GROUP and GROUP < 64 else 1
    ZEROS: tl.constexpr = FORMAT == "uint4"
    PROMOTE: tl.constexpr = GROUP > 0 and not FOLD
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    tile = tl.program_id(0) % tiles
    share = tl.program_id(0) // tiles
    row0, col0 = tile_origin(tile, m, n, BLOCK_M, BLOCK_N, GROUP_M)
    per_share = tl.cdiv(panels, SPLIT_K)
    first = share * per_share
    last = tl.minimum(first + per_share, panels)

    # Rows beyond a matrix read its last row; their products are never stored.
    w_row = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1)
    x_at = x
    w_at = w
    if not TMA:
        x_row = tl.minimum(row0 + tl.arange(0, BLOCK_M), m - 1).to(tl.int64)
        x_at = x + x_row[:, None] * stride_xm + tl.arange(0, 64)[None, :]
        w_at = w + w_row.to(tl.int64)[:, None] * 64 + tl.arange(0, 64)[None, :]

    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    if GROUP > 0:
        # Two panels ahead of their use: such short loads find no place in the pipeline of copies.
        # What is carried is converted: Triton pipelines no loop that hands a value on unchanged.
        head = first
        if SPLIT_K > 1:
            # A share that is empty begins beyond the last panel.
            head = tl.minimum(first, panels - 1)
        second = tl.minimum(first + 1, panels - 1)
        # 0, which the compiler cannot know: were it to see that only halves of registers are
        # carried, it would join them as soon as they are loaded, and wait for them there.
        nothing = tl.minimum(panels, 0)
        s_low = _group_rows(scale, head, 0, w_row, n, GROUP, PANEL, SUB)
        s_low = _scale_value(s_low, SCALE)
        s_low_next = _group_rows(scale, second, 0, w_row, n, GROUP, PANEL, SUB) + nothing
        if GROUP < PANEL:
            s_high = _group_rows(scale, head, 1, w_row, n, GROUP, PANEL, SUB)
            s_high = _scale_value(s_high, SCALE)
            s_high_next = _group_rows(scale, second, 1, w_row, n, GROUP, PANEL, SUB) + nothing
        if ZEROS:
            z_low = _group_rows(zero, head, 0, w_row, n, GROUP, PANEL, SUB).to(tl.uint16)
            z_low_next = _group_rows(zero, second, 0, w_row, n, GROUP, PANEL, SUB) + nothing
            if GROUP < PANEL:
                z_high = _group_rows(zero, head, 1, w_row, n, GROUP, PANEL, SUB).to(tl.uint16)
                z_high_next = _group_rows(zero, second, 1, w_row, n, GROUP, PANEL, SUB) + nothing
    for step in range(last - first):
        panel = first + step
        if GROUP > 0:
            ahead = tl.minimum(panel + 2, panels - 1)
            s_low_after = _group_rows(scale, ahead, 0, w_row, n, GROUP, PANEL, SUB)
            if GROUP < PANEL:
                s_high_after = _group_rows(scale, ahead, 1, w_row, n, GROUP, PANEL, SUB)
            if ZEROS:
                z_low_after = _group_rows(zero, ahead, 0, w_row, n, GROUP, PANEL, SUB)
                if GROUP < PANEL:
                    z_high_after = _group_rows(zero, ahead, 1, w_row, n, GROUP, PANEL, SUB)
        k0 = panel * PANEL
        if TMA:
            packed = w.load([panel * n + col0, 0])
        else:
            packed = tl.load(w_at + panel.to(tl.int64) * n * 64)
        x_low = _activations(x_at, x, row0, k0, k - k0, TMA, EVEN_K)
        x_low = _ordered(x_low, BLOCK_M, WGMMA)
        # A lane finds the 16 bytes that it needs side by side, see ``weight_layout``.
        if WGMMA:
            packed = packed.reshape(BLOCK_N, 4, 4, 2, 2).permute(0, 2, 3, 1, 4)
        else:
            packed = packed.reshape(BLOCK_N, 4, 4, 4).permute(0, 2, 1, 3)
        packed = packed.reshape(BLOCK_N, 64)
        if HALVES == 2:
            x_high = _activations(x_at, x, row0, k0 + 64, k - k0 - 64, TMA, EVEN_K)
            x_high = _ordered(x_high, BLOCK_M, WGMMA)
            zeros = (0, 0)
            if ZEROS:
                of_low = _along_k(z_low, BLOCK_N, SUB)
                of_high = _along_k(z_high, BLOCK_N, SUB) if GROUP < PANEL else of_low
                zeros = (of_low, of_high)
            low, high = decode_halves(packed, zeros, FORMAT, FP16, INTERPRET)
        else:
            low = decode_bytes(packed, FORMAT, FP16, INTERPRET)
        if PROMOTE:
            fresh = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
            part = _product(low, x_low, fresh, INTERPRET)
            if HALVES == 2:
                if GROUP < PANEL:
                    acc += part * s_low[:, None]
                    part = _product(high, x_high, fresh, INTERPRET)
                    acc += part * s_high[:, None]
                else:
                    part = _product(high, x_high, part, INTERPRET)
                    acc += part * s_low[:, None]
            else:
                acc += part * s_low[:, None]
        else:
            if FOLD:
                wide = _along_k(_wide_scale(s_low, FP16, INTERPRET), BLOCK_N, SUB)
                low = scaled(low, wide, FP16, INTERPRET)
                if HALVES == 2:
                    if GROUP < PANEL:
                        wide = _along_k(_wide_scale(s_high, FP16, INTERPRET), BLOCK_N, SUB)
                    high = scaled(high, wide, FP16, INTERPRET)
            acc = _product(low, x_low, acc, INTERPRET)
            if HALVES == 2:
                acc = _product(high, x_high, acc, INTERPRET)
            # Promotion uses its partial sums, which does the same.
            if WGMMA:
                acc = complete(acc)
        if GROUP > 0:
            s_low = _scale_value(s_low_next, SCALE)
            s_low_next = s_low_after
            if GROUP < PANEL:
                s_high = _scale_value(s_high_next, SCALE)
                s_high_next = s_high_after
            if ZEROS:
                z_low = z_low_next.to(tl.uint16)
                z_low_next = z_low_after
                if GROUP < PANEL:
                    z_high = z_high_next.to(tl.uint16)
                    z_high_next = z_high_after

    done = True
    if SPLIT_K > 1:
        inner = tl.arange(0, BLOCK_N)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
        mine = partial + tile.to(tl.int64) * (SPLIT_K * BLOCK_M * BLOCK_N) + inner
        tl.store(mine + share * (BLOCK_M * BLOCK_N), acc, cache_modifier=".cg")
        # All of this program's partial sums lie in memory before its arrival is counted.
        tl.debug_barrier()
        done = tl.atomic_add(arrived + tile, 1, sem="acq_rel") == SPLIT_K - 1
        if done:
            acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
            for other in range(SPLIT_K):
                acc += tl.load(mine + other * (BLOCK_M * BLOCK_N), cache_modifier=".cg")
            tl.store(arrived + tile, 0)  # ready for the next launch
    if done:
        rows = row0 + tl.arange(0, BLOCK_M)
        cols = col0 + tl.arange(0, BLOCK_N)
        acc *= tl.load(row_scale + w_row)[:, None]
        at = c + rows[None, :].to(tl.int64) * stride_cm + cols[:, None]
        tl.store(at, acc.to(OUT), mask=(rows[None, :] < m) & (cols[:, None] < n))


def launch(
    x: torch.Tensor,
    weight: PackedWeight,
    c: torch.Tensor,
    *,
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None = None,
) -> None:
    """Compute ``c = x @ w^T`` on the current stream.

    Args:
        x: (M, K) bf16 or fp16; rows contiguous, any row stride.
        weight: (N, K) as :func:`weight_layout.pack` laid it out, on x's device.
        c: (M, N) bf16, fp16 or fp32, rows contiguous, overwritten.
        config: see the module's docstring.
        workspace: int32, at least ``weight_arguments.workspace_words(...)`` long, zeros before the
            first launch; needed where ``split_k`` > 1.  A launch leaves its counters at zero, so
            that launches on one stream share a workspace, whatever their shapes; launches that may
            overlap do not.  After a launch that was cut short it must be zeros again.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, workspace or config do not fit together.
    """
    grid, positional, keywords = arguments(x, weight, c, config=config, workspace=workspace)
    gemm_weight_only[(grid,)](*positional, **keywords)


def precompile(*operands: Any, **options: Any) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel.
    """
    grid, positional, keywords = arguments(*operands, **options)
    return gemm_weight_only.warmup(*positional, grid=(grid,), **keywords)
