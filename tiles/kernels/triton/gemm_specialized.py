"""Scaled GEMM with specialised warps: one warpgroup fetches tiles, two multiply a half each.

The compiler's own warp specialisation on capability 9.0.  It takes loops of four warps, gives each
of two more warpgroups half of the tile's rows (of its columns where there are but 64 rows), and
halves the boxes of descriptors that the kernel makes itself, but not of those that the host made;
so the kernel makes them, in memory that Triton asks its allocator for.  One warpgroup then promotes
while the other one multiplies.

Reached through ``gemm_scaled``.
"""

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import torch
import triton
import triton.language as tl

from .gemm_epilogue import scale_sums, store
from .gemm_tile import accumulate, tile_origin

__all__ = ["gemm_specialized", "with_scratch"]


@triton.jit
def gemm_specialized(
    a, b, c, a_scale, b_scale, m, n, k, stride_am, stride_bn, stride_cm, stride_as_m, stride_as_k,
    stride_bs_n, stride_bs_k, A_SCALED: tl.constexpr, B_SCALED: tl.constexpr, A_ROWS: tl.constexpr,
    A_COLS: tl.constexpr, B_ROWS: tl.constexpr, B_COLS: tl.constexpr, A_GROUP: tl.constexpr,
    B_GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr, INTEGER: tl.constexpr, UPCAST: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Grid: one program a tile."""
    a_box = tl.make_tensor_descriptor(a, [m, k], [stride_am, 1], [BLOCK_M, BLOCK_K])
    b_box = tl.make_tensor_descriptor(b, [n, k], [stride_bn, 1], [BLOCK_N, BLOCK_K])
    row0, col0 = tile_origin(tl.program_id(0), m, n, BLOCK_M, BLOCK_N, GROUP_M)
    acc = accumulate(
        a_box, b_box, a_scale, b_scale, row0, col0, m, n, k, stride_am, stride_bn, stride_as_m,
        stride_as_k, stride_bs_n, stride_bs_k, A_ROWS, A_COLS, B_ROWS, B_COLS, A_GROUP, B_GROUP,
        BLOCK_M, BLOCK_N, BLOCK_K, True, True, INTEGER, "", "", UPCAST, SPECIALIZE=True,
    )  # fmt: skip
    sums = scale_sums(
        acc, a_scale, b_scale, row0, col0, m, n, stride_as_m, stride_bs_n, A_SCALED, B_SCALED,
        A_ROWS, A_COLS, B_ROWS, B_COLS, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    # The compiler leaves descriptor stores whole when it splits a tile between warpgroups.
    store(c, sums, row0, col0, m, n, stride_cm, OUT, BLOCK_M, BLOCK_N, False, 1)


def with_scratch(launch: Callable[[], Any], device: torch.device) -> Any:
    """Call a launch whose kernel makes descriptors: they lie in memory of torch's allocator.

    The memory belongs to the current stream, and inside a CUDA graph to the graph.  Whatever
    allocator Triton has otherwise stays the caller's.
    """

    def allocate(size: int, alignment: int, stream: int | None) -> torch.Tensor:
        # Torch aligns to 512 bytes, a descriptor needs 64.
        return torch.empty(size, dtype=torch.int8, device=device)

    def run() -> Any:
        triton.set_allocator(allocate)
        return launch()

    return copy_context().run(run)
