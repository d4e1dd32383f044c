"""Device functions of the scaled GEMM: decoding, scales, the K loop of a tile."""

import triton
import triton.language as tl

__all__ = ["accumulate", "multiplicand", "tile_origin"]


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
def multiplicand(x, DECODE: tl.constexpr, UPCAST: tl.constexpr):
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
def tile_origin(tile, m, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP_M: tl.constexpr):
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
            return tl.load(at_k).to(tl.float32)
        else:
            return tl.load(at_k + (row0 // ROWS).to(tl.int64) * stride_row).to(tl.float32)
    else:
        # Rows beyond the matrix repeat the last scale; their products are never stored.
        row = tl.minimum(row0 + tl.arange(0, BLOCK // GROUP) * GROUP, rows - 1)
        return tl.load(at_k + (row // ROWS).to(tl.int64) * stride_row).to(tl.float32)


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
def accumulate(
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
    EVEN_K: tl.constexpr,
    INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr,
    UPCAST: tl.constexpr,
    first=0,
    last=0,
    PART: tl.constexpr = False,
    OVERLAP: tl.constexpr = False,
    SPECIALIZE: tl.constexpr = False,
):
    """The K loop of one tile: (BLOCK_M, BLOCK_N) sums, scaled where scales change along K.

    first, last: with PART, the steps of BLOCK_K that are summed; otherwise all of K is.
    OVERLAP: a step's product is promoted while the next one runs; it takes registers of its own.
    SPECIALIZE: a warp fetches for two warpgroups that multiply.
    """
    A_IN_K: tl.constexpr = A_COLS > 0
    B_IN_K: tl.constexpr = B_COLS > 0
    PROMOTE: tl.constexpr = A_IN_K or B_IN_K
    DOT_TYPE: tl.constexpr = tl.int32 if INTEGER else tl.float32
    A_SPLIT: tl.constexpr = A_GROUP != 1 and A_GROUP != BLOCK_M
    B_SPLIT: tl.constexpr = B_GROUP != 1 and B_GROUP != BLOCK_N
    GROUPED: tl.constexpr = A_SPLIT or B_SPLIT
    begin = 0
    end = tl.cdiv(k, BLOCK_K)
    if PART:
        begin = first
        end = last
    # Scales of the step after are carried: not where a step applies those of the one before, and
    # not where the compiler splits what a step holds between warpgroups, which it refuses to do
    # with carried vectors.
    AHEAD: tl.constexpr = PROMOTE and not (OVERLAP or SPECIALIZE)
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
        if AHEAD:
            start = row0 * 0
            if PART:
                # An empty share begins behind the last step, where there need not be scales.
                start = tl.minimum(begin, tl.cdiv(k, BLOCK_K) - 1)
            if A_IN_K:
                block = start // (A_COLS // BLOCK_K) if PART else start
                s_a = _load_scales(
                    a_scale, row0, block, m, stride_as_m, stride_as_k, A_ROWS, BLOCK_M, A_GROUP
                )
            if B_IN_K:
                block = start // (B_COLS // BLOCK_K) if PART else start
                s_b = _load_scales(
                    b_scale, col0, block, n, stride_bs_n, stride_bs_k, B_ROWS, BLOCK_N, B_GROUP
                )
        if OVERLAP:
            # Nothing lies before the first step: a product of zeros under scales of one.
            before = tl.zeros((BLOCK_M, BLOCK_N), dtype=DOT_TYPE)
            if A_IN_K and A_GROUP != BLOCK_M:
                s_a = tl.full((BLOCK_M // A_GROUP,), 1.0, dtype=tl.float32)
            if B_IN_K and B_GROUP != BLOCK_N:
                s_b = tl.full((BLOCK_N // B_GROUP,), 1.0, dtype=tl.float32)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=DOT_TYPE)
    if not TMA:
        offs_k = tl.arange(0, BLOCK_K)
        # Rows beyond the matrix read its last row; their products are never stored.
        rows_a = tl.minimum(row0 + tl.arange(0, BLOCK_M), m - 1).to(tl.int64)
        rows_b = tl.minimum(col0 + tl.arange(0, BLOCK_N), n - 1).to(tl.int64)
        a_at = a + rows_a[:, None] * stride_am + offs_k[None, :]
        b_at = b + rows_b[:, None] * stride_bn + offs_k[None, :]
    fetch_row = row0
    if SPECIALIZE:
        # The second warpgroup's tile is fetched from half a tile below.  The compiler writes that
        # distance into the value that the descriptor is given, wherever else that value is used: a
        # row that served the scales and the store too would move them by half a tile twice.  This
        # is the same row as another value, which nothing else uses.
        fetch_row = tl.maximum(row0, 0)
    for step in tl.range(begin, end, warp_specialize=SPECIALIZE):
        k0 = step * BLOCK_K
        if PROMOTE:
            # The next iteration's scales are asked for before this one's product is waited for;
            # those of a step that is promoted under the next one, with the step.
            next_step = tl.minimum(step + 1, end - 1) if AHEAD else step
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
            a_tile = a.load([fetch_row, k0])
            b_tile = b.load([col0, k0])
        elif EVEN_K:
            a_tile = tl.load(a_at + k0)
            b_tile = tl.load(b_at + k0)
        else:
            inside = offs_k[None, :] < k - k0
            zero = 0 if INTEGER or A_DECODE != "" else 0.0
            a_tile = tl.load(a_at + k0, mask=inside, other=zero)
            b_tile = tl.load(b_at + k0, mask=inside, other=zero)
        a_tile = multiplicand(a_tile, A_DECODE, UPCAST)
        b_tile = multiplicand(b_tile, B_DECODE, UPCAST)
        if PROMOTE:
            product = tl.dot(a_tile, b_tile.T, out_dtype=DOT_TYPE)
            if SPECIALIZE:
                acc = _promote(
                    acc, product, next_a, next_b, BLOCK_M, BLOCK_N, A_GROUP, B_GROUP, GROUPED
                )
            else:
                if OVERLAP:
                    acc = _promote(
                        acc, before, s_a, s_b, BLOCK_M, BLOCK_N, A_GROUP, B_GROUP, GROUPED
                    )
                    before = product
                else:
                    acc = _promote(
                        acc, product, s_a, s_b, BLOCK_M, BLOCK_N, A_GROUP, B_GROUP, GROUPED
                    )
                s_a = next_a
                s_b = next_b
        else:
            acc = tl.dot(a_tile, b_tile.T, acc, out_dtype=DOT_TYPE)
    if PROMOTE and OVERLAP:
        acc = _promote(acc, before, s_a, s_b, BLOCK_M, BLOCK_N, A_GROUP, B_GROUP, GROUPED)
    if PROMOTE and GROUPED:
        acc = acc.reshape(BLOCK_M, BLOCK_N)
    return acc
