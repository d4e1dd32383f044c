"""Scaled GEMMs whose K extent several programs share: split-K, and stream-K.

Each program leaves its partial sums of a tile in a workspace and counts its arrival there; the last
one to arrive adds all of them up in the order of K, so that the result does not depend on who was
last, scales it and stores it.  No program waits for another one.  Integer sums are kept as
integers.

Split-K gives every tile the same number of programs.  Stream-K has as many programs as the GPU has
multiprocessors: whole tiles first, as long as they fill them, then equal shares of the steps along
K of the tiles that are left, one to two for every program, wherever tiles begin and end.  Its sums
depend on the number of programs, and so on the GPU, alone.

Reached through ``gemm_scaled``.
"""

import triton
import triton.language as tl

from .gemm_epilogue import scale_sums, store
from .gemm_tile import accumulate, tile_origin

__all__ = ["gemm_split", "gemm_stream"]


@triton.jit
def _part(
    a, b, c, a_scale, b_scale, partial, arrived, tile, first, last, mine, one_before, after, others,
    m, n, k, stride_am, stride_bn, stride_cm, stride_as_m, stride_as_k, stride_bs_n, stride_bs_k,
    A_SCALED: tl.constexpr, B_SCALED: tl.constexpr, A_ROWS: tl.constexpr, A_COLS: tl.constexpr,
    B_ROWS: tl.constexpr, B_COLS: tl.constexpr, A_GROUP: tl.constexpr, B_GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    TMA: tl.constexpr, OVERLAP: tl.constexpr, EVEN_K: tl.constexpr, INTEGER: tl.constexpr,
    A_DECODE: tl.constexpr, B_DECODE: tl.constexpr, UPCAST: tl.constexpr, OUT: tl.constexpr,
    STRIDE: tl.constexpr,
):  # fmt: skip
    """Sum steps ``first`` to ``last`` of a tile; the last of ``others`` programs to arrive stores.

    mine: number of the buffer in the workspace that takes this program's partial sums.
    one_before: number of the buffer of the program with the first steps; the program behind it has
        the buffer ``after``, and so on in strides of STRIDE.
    arrived: the tile's counter.
    """
    row0, col0 = tile_origin(tile, m, n, BLOCK_M, BLOCK_N, GROUP_M)
    acc = accumulate(
        a, b, a_scale, b_scale, row0, col0, m, n, k, stride_am, stride_bn, stride_as_m, stride_as_k,
        stride_bs_n, stride_bs_k, A_ROWS, A_COLS, B_ROWS, B_COLS, A_GROUP, B_GROUP, BLOCK_M,
        BLOCK_N, BLOCK_K, TMA, EVEN_K, INTEGER, A_DECODE, B_DECODE, UPCAST, first, last, True,
        OVERLAP,
    )  # fmt: skip
    done = True
    if others > 1:
        inner = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        buffers = partial + inner
        size: tl.constexpr = BLOCK_M * BLOCK_N
        tl.store(buffers + mine.to(tl.int64) * size, acc, cache_modifier=".cg")
        # All of this program's partial sums lie in memory before its arrival is counted.
        tl.debug_barrier()
        done = tl.atomic_add(arrived, 1, sem="acq_rel") == others - 1
        if done:
            acc = tl.load(buffers + one_before.to(tl.int64) * size, cache_modifier=".cg")
            for other in range(others - 1):
                at = after + other * STRIDE
                acc += tl.load(buffers + at.to(tl.int64) * size, cache_modifier=".cg")
            tl.store(arrived, 0)  # ready for the next launch
    if done:
        sums = scale_sums(
            acc, a_scale, b_scale, row0, col0, m, n, stride_as_m, stride_bs_n, A_SCALED, B_SCALED,
            A_ROWS, A_COLS, B_ROWS, B_COLS, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        store(c, sums, row0, col0, m, n, stride_cm, OUT, BLOCK_M, BLOCK_N, False, 1)


@triton.jit
def gemm_split(
    a, b, c, a_scale, b_scale, partial, arrived, m, n, k, stride_am, stride_bn, stride_cm,
    stride_as_m, stride_as_k, stride_bs_n, stride_bs_k, A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr, A_ROWS: tl.constexpr, A_COLS: tl.constexpr, B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr, A_GROUP: tl.constexpr, B_GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, TMA: tl.constexpr,
    OVERLAP: tl.constexpr, EVEN_K: tl.constexpr, INTEGER: tl.constexpr, A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr, UPCAST: tl.constexpr, OUT: tl.constexpr, SPLIT_K: tl.constexpr,
):  # fmt: skip
    """Grid: one program a tile and share of K; the shares of a tile follow a whole raster."""
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    tile = tl.program_id(0) % tiles
    share = tl.program_id(0) // tiles
    steps = tl.cdiv(k, BLOCK_K)
    per_share = tl.cdiv(steps, SPLIT_K)
    first = tl.minimum(share * per_share, steps)
    last = tl.minimum(first + per_share, steps)
    before = tile * SPLIT_K
    _part(
        a, b, c, a_scale, b_scale, partial, arrived + tile, tile, first, last, before + share,
        before, before + 1, SPLIT_K, m, n, k, stride_am, stride_bn, stride_cm, stride_as_m,
        stride_as_k, stride_bs_n, stride_bs_k, A_SCALED, B_SCALED, A_ROWS, A_COLS, B_ROWS, B_COLS,
        A_GROUP, B_GROUP, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, TMA, OVERLAP, EVEN_K, INTEGER,
        A_DECODE, B_DECODE, UPCAST, OUT, 1,
    )  # fmt: skip


@triton.jit
def _first_unit(program, per_program, longer):
    """The first unit of a program: the first ``longer`` of them have one unit more."""
    return program * per_program + tl.minimum(program, longer)


@triton.jit
def _owner(unit, per_program, longer):
    """The program that a unit belongs to."""
    of_longer = longer * (per_program + 1)
    late = longer + (unit - of_longer) // tl.maximum(per_program, 1)
    return tl.where(unit < of_longer, unit // (per_program + 1), late)


@triton.jit
def gemm_stream(
    a, b, c, a_scale, b_scale, partial, arrived, m, n, k, stride_am, stride_bn, stride_cm,
    stride_as_m, stride_as_k, stride_bs_n, stride_bs_k, A_SCALED: tl.constexpr,
    B_SCALED: tl.constexpr, A_ROWS: tl.constexpr, A_COLS: tl.constexpr, B_ROWS: tl.constexpr,
    B_COLS: tl.constexpr, A_GROUP: tl.constexpr, B_GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, TMA: tl.constexpr,
    OVERLAP: tl.constexpr, EVEN_K: tl.constexpr, INTEGER: tl.constexpr, A_DECODE: tl.constexpr,
    B_DECODE: tl.constexpr, UPCAST: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Grid: at most as many programs as all tiles together have steps along K."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    tiles = tl.cdiv(m, BLOCK_M) * tl.cdiv(n, BLOCK_N)
    steps = tl.cdiv(k, BLOCK_K)
    # Whole tiles for every program; the last one to two waves are shared.
    rounds = tl.maximum(tiles // programs - 1, 0)
    whole = rounds * programs
    units = (tiles - whole) * steps
    per_program = units // programs
    longer = units % programs
    start = _first_unit(program, per_program, longer)
    end = _first_unit(program + 1, per_program, longer)
    from_tile = start // steps
    shared = (end - 1) // steps - from_tile + 1
    for item in range(rounds + shared):
        tile = program + item * programs
        first = steps * 0
        last = steps
        one_before = program * 0
        after = program * 0
        others = program * 0 + 1
        mine = program * 0
        counter = program * 0
        if item >= rounds:
            counter = from_tile + (item - rounds)
            tile = whole + counter
            unit = counter * steps
            first = tl.maximum(start - unit, 0)
            last = tl.minimum(end - unit, steps)
            owner = _owner(unit, per_program, longer)
            others = _owner(unit + steps - 1, per_program, longer) - owner + 1
            # A program's first tile has its even buffer, a later one that is shared the odd one.
            mine = 2 * program + (counter != from_tile).to(tl.int32)
            began = _first_unit(owner, per_program, longer) // steps
            one_before = 2 * owner + (counter != began).to(tl.int32)
            after = 2 * owner + 2
        _part(
            a, b, c, a_scale, b_scale, partial, arrived + counter, tile, first, last, mine,
            one_before, after, others, m, n, k, stride_am, stride_bn, stride_cm, stride_as_m,
            stride_as_k, stride_bs_n, stride_bs_k, A_SCALED, B_SCALED, A_ROWS, A_COLS, B_ROWS,
            B_COLS, A_GROUP, B_GROUP, BLOCK_M, BLOCK_N, BLOCK_K, GROUP_M, TMA, OVERLAP, EVEN_K,
            INTEGER, A_DECODE, B_DECODE, UPCAST, OUT, 2,
        )  # fmt: skip
