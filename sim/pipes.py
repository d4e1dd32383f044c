"""The pipes of one multiprocessor: clocks that a CTA needs of each for one K-iteration.

Sources: instruction shapes from the PTX ISA (wgmma m64nNk32B, mma.sync m16n8); issue rates derived
from the peaks; CUDA-core rates from the GPU file.  Constants written here are priors to be fitted.
"""

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from sim.parameters import GEMM
from tiles.formats import FloatElement, IntElement, TensorFormat
from tiles.formats import element as lookup

__all__ = [
    "decode_clk",
    "has_warpgroups",
    "issue_clk",
    "mma_clk",
    "promotion_clk",
    "shared_clk",
    "smem_clk",
    "uses_warpgroups",
    "warp_grid",
]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

#: Four schedulers issue one warp instruction of 32 lanes each a clock.
ISSUE_LANES = 128
SCHEDULERS = 4
#: Issue slots that a multiplication of 32 bits to 64 takes: the half of the FMA pipe that has it
#: takes two clocks.  Triton's quantisation with stochastic rounding of 8192 x 8192, 83.3 us on an
#: H200 (``data/h200/later_sweeps``, shapes in view), is told 1 % too fast; by three 6 % too slow.
WIDE_MULTIPLY_SLOTS = 2
#: From this capability on, integers are multiplied by ``mma.sync`` although there is better.  Its
#: rate there is a prior: ``mma_sync_share`` of the element's peak, never measured.
INTEGER_MMA_SYNC_CAPABILITY = 100
#: Instructions an element to decode it to fp16 by integer operations; a prior.
DECODE_INSTRUCTIONS = {"e4m3fn": 2.0, "e5m2": 1.0, "int8": 2.0}


def uses_warpgroups(gpu: Gpu, block_m: I64, warps: I64, *, element: str) -> Bool:
    """Whether the compiler issues warpgroup products (wgmma, tcgen05) rather than ``mma.sync``.

    From capability 100 on, Triton 3.6 and 3.7 multiply floating-point elements by tcgen05 and
    integers by ``mma.sync``: read off the instructions of the template compiled for sm_100.
    """
    # Compiled code decides: tcgen05 itself has integer products.
    integer = isinstance(lookup(element), IntElement)
    if not has_warpgroups(gpu) or (integer and gpu.capability >= INTEGER_MMA_SYNC_CAPABILITY):
        return np.zeros(len(block_m), np.bool_)
    wide: Bool = (block_m >= 64) & (warps % 4 == 0)
    return wide


def warp_grid(block_m: I64, block_n: I64, warps: I64) -> tuple[F64, F64]:
    """Warps along M and along N under ``mma.sync``: parts of a tile as square as they can be.

    Triton doubles the side whose part is longer, M on a tie, as long as 16 rows a warp are left.
    """
    squarest = np.exp2(np.floor(np.log2(2.0 * warps * block_m / block_n) / 2))
    along_m = np.clip(squarest, 1, np.minimum(warps, np.maximum(block_m // 16, 1)))
    return along_m, np.maximum(warps / along_m, 1)


def mma_clk(
    gpu: Gpu,
    block_m: I64,
    block_n: I64,
    block_k: I64,
    warps: I64,
    *,
    element: str,
    warpgroups: Bool,
) -> F64:
    """Tensor-core clocks of ``block_m x block_n x block_k`` products in ``element``.

    A warpgroup instruction covers 64 rows (128 under tcgen05) and up to 256 columns; with both
    operands in shared memory its feed takes 16 + N/4 clocks for N/2 clocks of products, so N < 64
    starves it.  ``mma.sync`` covers 16 rows; where warpgroup instructions exist, it reaches a part
    of their rate only and takes 8-bit floats through fp16.
    """
    wide_rows = 128 if "tcgen05" in gpu.features else 64
    groups = np.maximum(warps // 4, 1)
    groups_m = np.minimum(groups, np.maximum(block_m // 64, 1))
    columns = np.clip(block_n * groups_m // groups, 8, 256)
    starved = np.maximum(1.0, (16 + columns / 4) / (columns / 2))
    wide_m = -(-block_m // wide_rows) * wide_rows
    rate = gpu.tensor_flop_per_clk[element] * gpu.tensor_share
    wide = 2.0 * wide_m * block_n * block_k / rate * starved
    narrow_m = -(-block_m // 16) * 16
    narrow = 2.0 * narrow_m * block_n * block_k / _narrow_rate(gpu, element)
    return np.where(warpgroups, wide, narrow)


def has_warpgroups(gpu: Gpu) -> bool:
    """Whether the GPU multiplies by more than a warp at a time (wgmma, tcgen05)."""
    return bool(gpu.features & {"wgmma", "tcgen05"})


def _widened(gpu: Gpu, element: str) -> bool:
    """8-bit floats in ``mma.sync`` become fp16 products where warpgroup products exist."""
    fmt = lookup(element)
    return has_warpgroups(gpu) and isinstance(fmt, FloatElement) and fmt.bits == 8


def _narrow_rate(gpu: Gpu, element: str) -> float:
    """flop/clk/SM of ``mma.sync``: a share of the element's rate.

    Integers that a GPU multiplies slower than 16-bit floats have few units, not a slow path: they
    are bound by their rate or by ``mma.sync`` at twice that of fp16, whichever is less.
    """
    rate = gpu.tensor_flop_per_clk["fp16" if _widened(gpu, element) else element]
    if isinstance(lookup(element), IntElement):
        twice = 2 * gpu.tensor_flop_per_clk["fp16"]
        return min(rate, gpu.mma_sync_share * max(rate, twice))
    return rate * gpu.mma_sync_share


def promotion_clk(
    gpu: Gpu,
    block_m: I64,
    block_n: I64,
    block_k: I64,
    activation: TensorFormat,
    weight: TensorFormat,
) -> F64:
    """CUDA-core clocks to add one K-iteration's partial sums, scaled, to the fp32 accumulator.

    Per accumulator element and K-block: one FFMA with the scale, and one int32 to fp32 conversion
    for integers.  Where both scales change within the tile, they are multiplied once for each pair
    of scale blocks that a thread's accumulators meet: a thread holds 2 of every 8 columns and 2 of
    every 16 rows.  Conversions and multiply-adds run side by side in pipes of their own: on an H200
    integers take no longer than 1/64 clock an element.  0 for scales that do not change along K:
    those wait for the epilogue.
    """
    depths = [f.scaling.cols for f in (activation, weight) if f.scaling and f.scaling.cols]
    if not depths:
        return np.zeros(len(block_m))
    # A K-iteration deeper than the scales' block is promoted once a block.
    promotions = np.maximum(block_k / min(depths), 1.0)
    rows = activation.scaling.rows if activation.scaling else None
    cols = weight.scaling.rows if weight.scaling else None
    both_vary = (block_m > (rows or np.inf)) & (block_n > (cols or np.inf))
    shared = max((rows or 8) / 8, 1.0) * max((cols or 4) / 4, 1.0)
    fma = 1.0 + both_vary / shared
    convert = 1.0 if isinstance(activation.element, IntElement) else 0.0
    rate = np.maximum(fma / gpu.fma_per_clk, convert / gpu.convert_per_clk)
    return np.asarray(block_m * block_n * promotions * rate, np.float64)


def decode_clk(
    gpu: Gpu,
    block_m: I64,
    block_n: I64,
    block_k: I64,
    warps: I64,
    *,
    element: str,
    emulated: bool,
    warpgroups: Bool,
) -> F64:
    """CUDA-core clocks to widen one K-iteration's operands to fp16.

    Emulated paths decode by integer operations, once an element for warpgroup products and once in
    every warp that needs it for ``mma.sync``.  Native 8-bit floats are widened by conversions of
    two elements an instruction where ``mma.sync`` takes them through fp16.
    """
    along_m, along_n = warp_grid(block_m, block_n, warps)
    replicated = (block_m * along_n + block_n * along_m) * block_k
    if emulated:
        elements = np.where(warpgroups, (block_m + block_n) * block_k, replicated)
        return elements * DECODE_INSTRUCTIONS.get(element, 2.0) / gpu.int_per_clk
    if _widened(gpu, element):
        return np.where(warpgroups, 0.0, replicated * 0.5 / gpu.convert_per_clk)
    return np.zeros(len(block_m))


def issue_clk(
    bytes_loaded: F64, tma: Bool, copy_instructions: float = GEMM.copy_instructions
) -> F64:
    """Issue clocks of copying ``bytes_loaded`` by cp.async, 16 bytes an instruction of a lane."""
    return np.where(tma, 0.0, bytes_loaded / 16 * copy_instructions / ISSUE_LANES)


def smem_clk(
    gpu: Gpu,
    block_m: I64,
    block_n: I64,
    block_k: I64,
    warps: I64,
    *,
    bits: int,
    emulated: bool,
    warpgroups: Bool,
    fill_share: float = GEMM.smem_fill_share,
) -> F64:
    """Clocks of the shared-memory port for one K-iteration: buffers written, operands read.

    Every warpgroup instruction reads its 64 rows of A and its columns of B anew; under ``mma.sync``
    every warp reads its share of both.  Decoded operands of warpgroup products are stored again.
    """
    size = bits / 8
    written = (block_m + block_n) * block_k * size
    groups = np.maximum(warps // 4, 1)
    groups_m = np.minimum(groups, np.maximum(block_m // 64, 1))
    columns = np.clip(block_n * groups_m // groups, 8, 256)
    wide_size = 2.0 if emulated else size
    # Blackwell's instruction covers 128 rows, so it reads B half as often.
    rows = 128 if "tcgen05" in gpu.features else 64
    wide = (block_m * -(-block_n // columns) + block_n * -(-block_m // rows)) * block_k * wide_size
    if emulated:
        wide = wide + written + (block_m + block_n) * block_k * wide_size
    along_m, along_n = warp_grid(block_m, block_n, warps)
    narrow = (block_m * along_n + block_n * along_m) * block_k * size
    clk = (fill_share * written + np.where(warpgroups, wide, narrow)) / gpu.smem_bytes_per_clk
    return clk.astype(np.float64)


def shared_clk(issue_clk: F64, wait_clk: F64, warps: NDArray[np.int64]) -> F64:
    """Clocks in which each of so many warps issues for ``issue_clk`` and waits for ``wait_clk``.

    They share one scheduler and wait side by side.  Source: mean value analysis of a closed network
    of one queue and a delay (Reiser and Lavenberg, J. ACM 27, 1980).
    """
    queued = np.zeros_like(issue_clk)
    round_clk = np.zeros_like(issue_clk)
    for count in range(1, int(warps.max(initial=0)) + 1):
        served = issue_clk * (1.0 + queued)
        now = served + wait_clk
        queued = count * served / now
        round_clk = np.where(warps == count, now, round_clk)
    return round_clk
