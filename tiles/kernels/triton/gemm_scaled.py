"""Scaled GEMM in Triton: ``C[M, N] = (A[M, K] x scales) · (B[N, K] x scales)^T``.

One kernel serves bf16, fp16, e4m3fn, e5m2 and int8 operands whose fp32 scales cover a whole tensor,
a row, or a block of rows and columns.  Scales that are constant along K are applied once, in the
epilogue; 8-bit products then accumulate over the whole of K in the tensor cores (``_scaled_mm``
calls that fast accumulation).  Scales that change along K are applied to the product of every
K-iteration on its way into an fp32 accumulator (promotion).

The module needs torch and triton and nothing else.  A configuration is a mapping with
``block_m``, ``block_n``, ``block_k``, ``group_m``, ``num_warps``, ``num_stages`` (ints), ``tma``,
``persistent`` (bools).
"""

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

__all__ = ["launch", "precompile"]

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_OPERANDS = (torch.bfloat16, torch.float16, torch.int8, *_FP8)
_OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)
_FIELDS = (
    "block_m",
    "block_n",
    "block_k",
    "group_m",
    "num_warps",
    "num_stages",
    "tma",
    "persistent",
)


@triton.jit
def _decode_e4m3fn(code):
    """8-bit codes to fp16, exactly: shift the payload into place and correct the exponent bias."""
    bits = code.to(tl.uint16)
    # The fp16 exponent bias is 15 and e4m3fn's is 7; subnormals come out right as well, because
    # fp16 multiplication handles its own subnormals.
    shifted = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
    value = shifted.to(tl.float16, bitcast=True) * 256.0
    is_nan = (bits & 0x7F) == 0x7F
    return tl.where(is_nan, float("nan"), value).to(tl.float16)


@triton.jit
def _decode_e5m2(code):
    """8-bit codes to fp16, exactly: e5m2 is the upper byte of fp16."""
    return (code.to(tl.uint16) << 8).to(tl.float16, bitcast=True)


@triton.jit
def _multiplicand(x, DECODE: tl.constexpr, UPCAST: tl.constexpr):
    """What the tensor cores multiply for a stored operand tile."""
    if DECODE == "e4m3fn":
        return _decode_e4m3fn(x)
    elif DECODE == "e5m2":
        return _decode_e5m2(x)
    elif UPCAST:
        return x.to(tl.float32)
    else:
        return x


@triton.jit
def _tile_origin(tile, m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
    """First row and column of a tile; tiles go down GROUP_M row blocks before the next column."""
    tiles_m = tl.cdiv(m, BLOCK_M)
    tiles_n = tl.cdiv(n, BLOCK_N)
    group_tiles = GROUP_M * tiles_n
    first_m = (tile // group_tiles) * GROUP_M
    group_m = tl.minimum(tiles_m - first_m, GROUP_M)
    within = tile % group_tiles
    return (first_m + within % group_m) * BLOCK_M, (within // group_m) * BLOCK_N


@triton.jit
def _load_scales(
    scale,
    row0,
    k_block,
    rows,
    stride_row,
    stride_k,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Scales of BLOCK rows from ``row0`` on, one for GROUP rows: (BLOCK // GROUP,), or a scalar."""
    at_k = scale + k_block.to(tl.int64) * stride_k
    if GROUP == BLOCK:
        if ROWS == 0:
            return tl.load(at_k)
        else:
            return tl.load(at_k + (row0 // ROWS).to(tl.int64) * stride_row)
    else:
        # Rows beyond the matrix repeat the last scale; their products are never stored.
        row = tl.minimum(row0 + tl.arange(0, BLOCK // GROUP) * GROUP, rows - 1)
        return tl.load(at_k + (row // ROWS).to(tl.int64) * stride_row)


@triton.jit
def _promote(
    acc,
    product,
    s_a,
    s_b,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr,
    GROUPED: tl.constexpr,
):
    """Add a scaled product to the accumulator, with one multiply-add an element where possible."""
    product = product.to(tl.float32)
    if GROUPED:
        # Seen as (row blocks, rows, column blocks, columns), the two scales are multiplied once a
        # block instead of once an element.
        product = product.reshape(BLOCK_M // A_GROUP, A_GROUP, BLOCK_N // B_GROUP, B_GROUP)
        if B_GROUP == BLOCK_N:
            factor = (s_a * s_b)[:, None, None, None]
        elif A_GROUP == BLOCK_M:
            factor = (s_a * s_b)[None, None, :, None]
        else:
            factor = s_a[:, None, None, None] * s_b[None, None, :, None]
    elif A_GROUP == BLOCK_M and B_GROUP == BLOCK_N:
        factor = s_a * s_b
    elif B_GROUP == BLOCK_N:
        factor = (s_a * s_b)[:, None]
    elif A_GROUP == BLOCK_M:
        factor = (s_a * s_b)[None, :]
    else:
        factor = s_a[:, None] * s_b[None, :]
    return acc + product * factor


@triton.jit
def _accumulate(
    a,
    b,
    a_scale,
    b_scale,
    row0,
    col0,
    m,
    n,
    k,
    stride_am,
    stride_bn,
    stride_as_m,
    stride_as_k,
    stride_bs_n,
    stride_bs_k,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The K loop of one tile: (BLOCK_M, BLOCK_N) sums, scaled where scales change along K."""
    A_IN_K: tl.constexpr = A_COLS > 0
    B_IN_K: tl.constexpr = B_COLS > 0
    PROMOTE: tl.constexpr = A_IN_K or B_IN_K
    DOT_TYPE: tl.constexpr = tl.int32 if INTEGER else tl.float32
    A_SPLIT: tl.constexpr = A_GROUP != 1 and A_GROUP != BLOCK_M
    B_SPLIT: tl.constexpr = B_GROUP != 1 and B_GROUP != BLOCK_N
    GROUPED: tl.constexpr = A_SPLIT or B_SPLIT
    k_iterations = tl.cdiv(k, BLOCK_K)
    # A side whose scales do not change along K is scaled in the epilogue.
    s_a = 1.0
    s_b = 1.0
    if PROMOTE:
        if GROUPED:
            acc = tl.zeros(
                (BLOCK_M // A_GROUP, A_GROUP, BLOCK_N // B_GROUP, B_GROUP), dtype=tl.float32
            )
        else:
            acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        start = row0 * 0
        if A_IN_K:
            s_a = _load_scales(
                a_scale, row0, start, m, stride_as_m, stride_as_k, A_ROWS, BLOCK_M, A_GROUP
            )
        if B_IN_K:
            s_b = _load_scales(
                b_scale, col0, start, n, stride_bs_n, stride_bs_k, B_ROWS, BLOCK_N, B_GROUP
            )
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=DOT_TYPE)
    if not TMA:
        offs_k = tl.arange(0, BLOCK_K)
        # Rows beyond the matrix read its last row; their products are never stored.
        rows_a = tl.minimum(row0 + tl.arange(0, BLOCK_M), m - 1).to(tl.int64)
        rows_b = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1).to(tl.int64)
        a_at = a + rows_a[:, None] * stride_am + offs_k[None, :]
        b_at = b + rows_b[:, None] * stride_bn + offs_k[None, :]
    for step in range(k_iterations):
        k0 = step * BLOCK_K
        if PROMOTE:
            # The next iteration's scales are asked for before this one's product is waited for.
            next_step = tl.minimum(step + 1, k_iterations - 1)
            next_a = 1.0
            next_b = 1.0
            if A_IN_K:
                next_a = _load_scales(
                    a_scale,
                    row0,
                    next_step // (A_COLS // BLOCK_K),
                    m,
                    stride_as_m,
                    stride_as_k,
                    A_ROWS,
                    BLOCK_M,
                    A_GROUP,
                )
            if B_IN_K:
                next_b = _load_scales(
                    b_scale,
                    col0,
                    next_step // (B_COLS // BLOCK_K),
                    n,
                    stride_bs_n,
                    stride_bs_k,
                    B_ROWS,
                    BLOCK_N,
                    B_GROUP,
                )
        if TMA:
            # A descriptor fills what lies beyond the matrix with zeros.
            a_tile = a.load([row0, k0])
            b_tile = b.load([col0, k0])
        elif EVEN_K:
            a_tile = tl.load(a_at + k0)
            b_tile = tl.load(b_at + k0)
        else:
            inside = offs_k[None, :] < k - k0
            zero = 0 if INTEGER or A_DECODE != "" else 0.0
            a_tile = tl.load(a_at + k0, mask=inside, other=zero)
            b_tile = tl.load(b_at + k0, mask=inside, other=zero)
        a_tile = _multiplicand(a_tile, A_DECODE, UPCAST)
        b_tile = _multiplicand(b_tile, B_DECODE, UPCAST)
        if PROMOTE:
            product = tl.dot(a_tile, b_tile.T, out_dtype=DOT_TYPE)
            acc = _promote(acc, product, s_a, s_b, BLOCK_M, BLOCK_N, A_GROUP, B_GROUP, GROUPED)
            s_a = next_a
            s_b = next_b
        else:
            acc = tl.dot(a_tile, b_tile.T, acc, out_dtype=DOT_TYPE)
    if PROMOTE and GROUPED:
        acc = acc.reshape(BLOCK_M, BLOCK_N)
    return acc


@triton.jit
def _store(
    c,
    acc,
    row0,
    col0,
    m,
    n,
    stride_cm,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    TMA: tl.constexpr,
    SUBTILES: tl.constexpr,
):
    """Write a tile of sums; SUBTILES = 2 halves the shared memory that a descriptor store needs."""
    if TMA:
        if SUBTILES == 2:
            halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1)
            left, right = halves.split()
            c.store([row0, col0], left.to(OUT))
            c.store([row0, col0 + BLOCK_N // 2], right.to(OUT))
        else:
            c.store([row0, col0], acc.to(OUT))
    else:
        rows = row0 + tl.arange(0, BLOCK_M)
        cols = col0 + tl.arange(0, BLOCK_N)
        at = c + rows[:, None].to(tl.int64) * stride_cm + cols[None, :]
        tl.store(at, acc.to(OUT), mask=(rows[:, None] < m) & (cols[None, :] < n))


@triton.jit
def _tile(
    a,
    b,
    c,
    a_scale,
    b_scale,
    tile,
    m,
    n,
    k,
    stride_am,
    stride_bn,
    stride_cm,
    stride_as_m,
    stride_as_k,
    stride_bs_n,
    stride_bs_k,
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SUBTILES: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """One CTA tile of C, from loads to store."""
    row0, col0 = _tile_origin(tile, m, n, BLOCK_M, BLOCK_N, GROUP_M)
    acc = _accumulate(
        a,
        b,
        a_scale,
        b_scale,
        row0,
        col0,
        m,
        n,
        k,
        stride_am,
        stride_bn,
        stride_as_m,
        stride_as_k,
        stride_bs_n,
        stride_bs_k,
        A_ROWS,
        A_COLS,
        B_ROWS,
        B_COLS,
        A_GROUP,
        B_GROUP,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        TMA,
        PERSISTENT,
        EVEN_K,
        INTEGER,
        A_DECODE,
        B_DECODE,
        UPCAST,
    )
    acc = acc.to(tl.float32)
    if A_SCALED and A_COLS == 0:
        if A_ROWS == 0:
            acc = acc * tl.load(a_scale)
        else:
            rows = tl.minimum(row0 + tl.arange(0, BLOCK_M), m - 1)
            acc = acc * tl.load(a_scale + (rows // A_ROWS).to(tl.int64) * stride_as_m)[:, None]
    if B_SCALED and B_COLS == 0:
        if B_ROWS == 0:
            acc = acc * tl.load(b_scale)
        else:
            cols = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1)
            acc = acc * tl.load(b_scale + (cols // B_ROWS).to(tl.int64) * stride_bs_n)[None, :]
    # Splitting a tile between warp groups, the compiler leaves descriptor stores whole: no TMA.
    _store(
        c,
        acc,
        row0,
        col0,
        m,
        n,
        stride_cm,
        OUT,
        BLOCK_M,
        BLOCK_N,
        TMA,
        SUBTILES,
    )


@triton.jit
def gemm_scaled(
    a,
    b,
    c,
    a_scale,
    b_scale,
    m,
    n,
    k,
    stride_am,
    stride_bn,
    stride_cm,
    stride_as_m,
    stride_as_k,
    stride_bs_n,
    stride_bs_k,
    A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr,
    A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr,
    A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    TMA: tl.constexpr,
    PERSISTENT: tl.constexpr,
    SUBTILES: tl.constexpr,
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    OUT: tl.constexpr,
):
    """Grid: one program a tile, or any number of programs that share the tiles (PERSISTENT)."""
    if PERSISTENT:
        tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
        # Flattening joins the tile loop and the K loop, so loads run ahead across tiles.
        for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            _tile(
                a,
                b,
                c,
                a_scale,
                b_scale,
                tile,
                m,
                n,
                k,
                stride_am,
                stride_bn,
                stride_cm,
                stride_as_m,
                stride_as_k,
                stride_bs_n,
                stride_bs_k,
                A_SCALED,
                B_SCALED,
                A_ROWS,
                A_COLS,
                B_ROWS,
                B_COLS,
                A_GROUP,
                B_GROUP,
                BLOCK_M,
                BLOCK_N,
                BLOCK_K,
                GROUP_M,
                TMA,
                PERSISTENT,
                SUBTILES,
                EVEN_K,
                INTEGER,
                A_DECODE,
                B_DECODE,
                UPCAST,
                OUT,
            )
    else:
        _tile(
            a,
            b,
            c,
            a_scale,
            b_scale,
            tl.program_id(0),
            m,
            n,
            k,
            stride_am,
            stride_bn,
            stride_cm,
            stride_as_m,
            stride_as_k,
            stride_bs_n,
            stride_bs_k,
            A_SCALED,
            B_SCALED,
            A_ROWS,
            A_COLS,
            B_ROWS,
            B_COLS,
            A_GROUP,
            B_GROUP,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
            GROUP_M,
            TMA,
            PERSISTENT,
            SUBTILES,
            EVEN_K,
            INTEGER,
            A_DECODE,
            B_DECODE,
            UPCAST,
            OUT,
        )


def scale_group(quant_rows: int, tile_rows: int) -> int:
    """Consecutive tile rows that surely share a scale: the whole tile, a divisor of it, or 1."""
    if quant_rows == 0 or quant_rows % tile_rows == 0:
        return tile_rows
    return quant_rows if tile_rows % quant_rows == 0 else 1


def subtiles(config: Mapping[str, int | bool]) -> int:
    """Parts in which the epilogue writes a tile through its descriptor."""
    # A flattened persistent loop keeps its pipeline buffers while the epilogue stages the output.
    flattened = config["tma"] and config["persistent"]
    return 2 if flattened and config["block_m"] * config["block_n"] >= 128 * 128 else 1


def constants(
    *,
    config: Mapping[str, int | bool],
    k: int,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    a_type: str,
    b_type: str,
    out_type: str,
    decode: bool,
    interpreted: bool,
) -> dict[str, Any]:
    """Compile-time constants of :func:`gemm_scaled`.

    Args:
        config: the configuration, see the module's docstring.
        k: contracted extent, elements.
        a_block: (rows, cols) of A under one scale, 0 = whole extent; ``None`` when unscaled.
        b_block: the same for B.
        a_type: element of A: bf16, fp16, e4m3fn, e5m2 or int8.
        b_type: element of B.
        out_type: element of C: bf16, fp16 or fp32.
        decode: multiply 8-bit floats as fp16.
        interpreted: run by Triton's interpreter, whose bf16 products are wrong.
    """
    block_m, block_n = int(config["block_m"]), int(config["block_n"])
    a_rows, a_cols = a_block or (0, 0)
    b_rows, b_cols = b_block or (0, 0)
    return {
        "A_SCALED": a_block is not None,
        "B_SCALED": b_block is not None,
        "A_ROWS": a_rows,
        "A_COLS": a_cols,
        "B_ROWS": b_rows,
        "B_COLS": b_cols,
        "A_GROUP": scale_group(a_rows, block_m) if a_cols else block_m,
        "B_GROUP": scale_group(b_rows, block_n) if b_cols else block_n,
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": int(config["block_k"]),
        "GROUP_M": int(config["group_m"]),
        "TMA": bool(config["tma"]),
        "PERSISTENT": bool(config["persistent"]),
        "SUBTILES": subtiles(config),
        "EVEN_K": k % int(config["block_k"]) == 0,
        "INTEGER": a_type == "int8",
        "A_DECODE": a_type if decode and a_type in ("e4m3fn", "e5m2") else "",
        "B_DECODE": b_type if decode and b_type in ("e4m3fn", "e5m2") else "",
        "UPCAST": interpreted and a_type == "bf16",
        "OUT": {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}[out_type],
    }


_NAMES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int8: "int8",
    torch.float8_e4m3fn: "e4m3fn",
    torch.float8_e5m2: "e5m2",
}


def _check_operands(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> None:
    for name, tensor, allowed in (("a", a, _OPERANDS), ("b", b, _OPERANDS), ("c", c, _OUTPUTS)):
        if tensor.dtype not in allowed:
            choices = ", ".join(str(dtype) for dtype in allowed)
            raise TypeError(f"{name} has dtype {tensor.dtype}: choose one of {choices}")
        if tensor.ndim != 2 or tensor.numel() == 0:
            raise ValueError(f"{name} must be a non-empty matrix, got shape {tuple(tensor.shape)}")
        if tensor.shape[1] > 1 and tensor.stride(1) != 1:
            raise ValueError(
                f"{name} has stride {tensor.stride(1)} along its columns: rows must be contiguous"
            )
        if tensor.device != a.device:
            raise ValueError(f"{name} lies on {tensor.device} and a on {a.device}: move it there")
    if a.dtype != b.dtype and not (a.dtype in _FP8 and b.dtype in _FP8):
        raise TypeError(f"a has dtype {a.dtype} and b {b.dtype}: no tensor core multiplies these")
    (m, k), (n, k_b) = a.shape, b.shape
    if k != k_b:
        raise ValueError(f"a is {m} x {k} and b {n} x {k_b}: the second extents must be equal")
    if tuple(c.shape) != (m, n):
        raise ValueError(f"c must be {m} x {n}, got shape {tuple(c.shape)}")


def _check_scale(
    name: str,
    scale: torch.Tensor | None,
    block: tuple[int, int] | None,
    operand: torch.Tensor,
    block_k: int,
) -> None:
    if (scale is None) != (block is None):
        raise ValueError(f"{name}_scale and {name}_block go together: give both or neither")
    if scale is None or block is None:
        return
    if scale.dtype != torch.float32:
        raise TypeError(f"{name}_scale has dtype {scale.dtype}: scales are torch.float32")
    if scale.device != operand.device:
        raise ValueError(f"{name}_scale lies on {scale.device}, its operand on {operand.device}")
    if min(block) < 0:
        raise ValueError(f"{name}_block {block}: extents are positive, or 0 for the whole extent")
    grid = tuple(
        1 if size == 0 else -(-extent // size)
        for extent, size in zip(operand.shape, block, strict=True)
    )
    if tuple(scale.shape) != grid:
        raise ValueError(
            f"{name}_scale must have shape {grid} for {name}_block {block}, "
            f"got {tuple(scale.shape)}"
        )
    if block[1] and block[1] % block_k:
        raise ValueError(
            f"block_k {block_k} does not divide the {block[1]} columns under one {name}_scale"
        )


def _check_config(config: Mapping[str, int | bool], num_sms: int | None) -> None:
    if set(config) != set(_FIELDS):
        wrong = sorted(set(config) ^ set(_FIELDS))
        raise ValueError(f"config: wrong or missing field {wrong[0]!r}, need {', '.join(_FIELDS)}")
    if config["persistent"] and (num_sms is None or num_sms < 1):
        raise ValueError("a persistent config needs num_sms, the number of multiprocessors")


def _descriptor(name: str, tensor: torch.Tensor, block: list[int]) -> TensorDescriptor:
    row_bytes = tensor.stride(0) * tensor.element_size()
    if tensor.data_ptr() % 16 or row_bytes % 16:
        raise ValueError(
            f"{name}: rows start {row_bytes} B apart from address {tensor.data_ptr():#x}; "
            "tma needs multiples of 16 B, take a config without tma"
        )
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), block)


def _arguments(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool,
    num_sms: int | None,
) -> tuple[int, list[Any], dict[str, Any]]:
    """Check everything, then return grid size, positional and keyword arguments of the kernel."""
    _check_config(config, num_sms)
    _check_operands(a, b, c)
    block_m, block_n, block_k = (int(config[name]) for name in ("block_m", "block_n", "block_k"))
    _check_scale("a", a_scale, a_block, a, block_k)
    _check_scale("b", b_scale, b_block, b, block_k)
    (m, k), n = a.shape, b.shape[0]
    constexprs = constants(
        config=config,
        k=k,
        a_block=a_block,
        b_block=b_block,
        a_type=_NAMES[a.dtype],
        b_type=_NAMES[b.dtype],
        out_type=_NAMES[c.dtype],
        decode=decode,
        interpreted=a.device.type == "cpu",
    )
    if decode and a.dtype in _FP8:
        a, b = a.view(torch.uint8), b.view(torch.uint8)
    operands: list[Any] = [a, b, c]
    if config["tma"]:
        operands = [
            _descriptor("a", a, [block_m, block_k]),
            _descriptor("b", b, [block_n, block_k]),
            _descriptor("c", c, [block_m, block_n // constexprs["SUBTILES"]]),
        ]
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = min(tiles, num_sms) if config["persistent"] and num_sms else tiles
    positional = [
        *operands,
        # The compiler drops what an unscaled operand never reads; any pointer stands in.
        c if a_scale is None else a_scale,
        c if b_scale is None else b_scale,
        m,
        n,
        k,
        a.stride(0),
        b.stride(0),
        c.stride(0),
        *((0, 0) if a_scale is None else a_scale.stride()),
        *((0, 0) if b_scale is None else b_scale.stride()),
    ]
    options = {"num_warps": int(config["num_warps"]), "num_stages": int(config["num_stages"])}
    return grid, positional, {**constexprs, **options}


def launch(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
    num_sms: int | None = None,
) -> None:
    """Compute ``c = (a · scales) @ (b · scales)^T`` on the current stream.

    Args:
        a: (M, K) bf16, fp16, float8_e4m3fn, float8_e5m2 or int8; rows contiguous, any row stride.
        b: (N, K) of a's dtype (the two 8-bit floats may be mixed).
        c: (M, N) bf16, fp16 or fp32, overwritten.
        a_scale: fp32 grid of scales, any strides: value = code x scale; ``None`` when unscaled.
        b_scale: the same for b.
        a_block: (rows, cols) under one scale, 0 = whole extent: tensor (0, 0), row (1, 0),
            1x128 (1, 128).  The grid has ceil(extent / size) entries a dimension.
        b_block: the same for b.
        config: see the module's docstring.
        decode: multiply 8-bit floats as fp16, for GPUs whose tensor cores do not take them.
        num_sms: number of programs of a persistent launch; other configs ignore it.
    Raises:
        TypeError: a dtype that the kernel does not take.
        ValueError: shapes, strides, devices, scale grids or config do not fit together.
    """
    grid, positional, keywords = _arguments(
        a, b, c, a_scale, b_scale, a_block, b_block, config, decode, num_sms
    )
    gemm_scaled[(grid,)](*positional, **keywords)


def precompile(
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_scale: torch.Tensor | None,
    b_scale: torch.Tensor | None,
    *,
    a_block: tuple[int, int] | None,
    b_block: tuple[int, int] | None,
    config: Mapping[str, int | bool],
    decode: bool = False,
    num_sms: int | None = None,
) -> Any:
    """Compile what :func:`launch` would run, without running it; takes the same arguments.

    Returns:
        Triton's compiled kernel.
    """
    grid, positional, keywords = _arguments(
        a, b, c, a_scale, b_scale, a_block, b_block, config, decode, num_sms
    )
    return gemm_scaled.warmup(*positional, grid=(grid,), **keywords)
