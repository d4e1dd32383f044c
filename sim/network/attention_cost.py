"""What an attention core takes: clocks of its tiles of scores, on the kernel that runs it.

A CTA walks over tiles of 128 keys for its 128 queries (backward over queries for its keys).  A tile
costs clocks of the tensor cores, and clocks of all else: exponentials, other instructions, and
under ``mma.sync`` the reads that bring every warp its operands from shared memory.

**Warpgroup products** (cuDNN, FlashAttention-3) read operands from shared memory by themselves and
run at the tensor cores' full rate.  **FlashAttention-2** (arXiv 2307.08691) issues ``mma.sync``: a
part of that rate where the GPU has something better (``mma_sync_share``), instructions of its own,
and ``ldmatrix``.  Forward each of its 4 warps has 32 queries and reads all keys and values;
backward 8 warps lie 4 by 2 over a product and read its left operand twice, its right one four
times, P and dS through shared memory.  The tiles are those of heads of 64
(``Flash_fwd_kernel_traits<64, 128, 128, 4>``, ``Flash_bwd_kernel_traits<64, 128, 128, 8, 4, 4, 4>``
in ``evidence/h200/attention.json``), wider heads are taken to be cut likewise.  Either kernel
writes P and dS to shared memory on its way back.

Instructions are counted, rates are the GPU's.  Two constants were set on measurements, see
:data:`EXPOSED` and :data:`FILL`.  Left out: how unevenly the rows of a causal mask end, and the
four launches that the layers of ``workbench.nn`` cut a backward pass into.
"""

from dataclasses import dataclass

import numpy as np

from sim.clock import clock_ghz
from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap
from sim.network.attention import BYTES, SUM_BYTES, TILE, Attention, AttentionKernel
from sim.network.streaming import Streaming, streaming_cost
from sim.parameters import STREAM
from sim.pipes import ISSUE_LANES, has_warpgroups

__all__ = ["TileClocks", "attention_cost", "tile_clocks", "warpgroup_products"]

#: Rows that warpgroup products cover at least.
LEAST_QUERIES = 64
#: Products of a tile: Q·K^T, P·V; backward once more Q·K^T, dO·V^T, P^T·dO, dS^T·Q, dS·K.
PRODUCTS = {False: 2, True: 5}
#: Instructions a score beside its exponential: scaling, maximum, sum, half a conversion, masks and
#: rescaling of the output; backward the difference to the row's sum, a product, two conversions.
INSTRUCTIONS = {False: 5.0, True: 9.0}
#: Operations of one ``mma.sync`` (16 x 8 x 16) and bytes of one ``ldmatrix``, both of a warp.
MMA_FLOP, LOAD_BYTES = 4096.0, 512.0
#: Warps, and issue slots of a multiprocessor in a clock.
WARP_QUERIES, WARP_SLOTS = 32, ISSUE_LANES // 32
#: Share of the shorter of products and all else that the longer one does not cover, by whether
#: warpgroups multiply and whether it is backward.  Forward two CTAs or warpgroups take turns on a
#: multiprocessor.  Backward cuDNN's goes from barrier to barrier: all of it.  Set, like ``FILL``,
#: on every other case of ``evidence/h200/attention.json``, from the first on.
EXPOSED = {(True, False): 0.5, (True, True): 1.0, (False, False): 0.4, (False, True): 0.4}
#: Tiles that a CTA could have computed while it fills its pipeline and writes its results.
FILL = {False: 0.5, True: 1.0}
#: Instructions an element of what backward does before and behind its tiles.
ROW_INSTRUCTIONS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TileClocks:
    """Clocks of a multiprocessor for one tile of scores, each as if it were alone."""

    tensor: float  #: products
    operands: float  #: to shared memory, and of ``mma.sync`` from it
    special: float  #: exponentials
    issue: float  #: all other instructions
    exposed: float  #: share of the shorter side that shows

    @property
    def rest(self) -> float:
        """All but products: a warp does one after the other."""
        return self.operands + self.special + self.issue

    @property
    def total(self) -> float:
        """Both sides, with what the longer one does not cover."""
        return max(self.tensor, self.rest) + self.exposed * min(self.tensor, self.rest)


def warpgroup_products(work: Attention, gpu: Gpu) -> bool:
    """Whether the kernel that runs multiplies by more than a warp at a time."""
    return work.kernel is AttentionKernel.TORCH and has_warpgroups(gpu)


def _queries(work: Attention) -> int:
    """Rows of a tile: short sequences fill a part of it."""
    return max(LEAST_QUERIES, min(TILE, 1 << (work.length - 1).bit_length()))


def _shared_bytes(work: Attention) -> tuple[int, int]:
    """Bytes that the warps of ``mma.sync`` read from shared memory for a tile, and write to it."""
    queries = _queries(work)
    rows, keys = BYTES * queries * work.head_dim, BYTES * TILE * work.head_dim
    if not work.backward:
        warps = queries // WARP_QUERIES
        return rows + warps * 2 * keys, 2 * keys
    scores = BYTES * queries * TILE
    recomputed = 2 * (2 * rows + 4 * keys)  # Q·K^T and dO·V^T
    of_keys = 2 * (2 * scores + 4 * rows)  # P^T·dO and dS^T·Q
    of_queries = 2 * scores + 4 * keys  # dS·K
    return recomputed + of_keys + of_queries, 2 * scores + 2 * rows


def tile_clocks(work: Attention, gpu: Gpu) -> TileClocks:
    """Clocks of one tile of scores, 2·queries·keys·head operations a product."""
    scores = _queries(work) * TILE
    flop = 2.0 * PRODUCTS[work.backward] * scores * work.head_dim
    peak, warpgroups = gpu.tensor_flop_per_clk["fp16"], warpgroup_products(work, gpu)
    issue = scores * INSTRUCTIONS[work.backward] / ISSUE_LANES
    if warpgroups:
        operands = (2 * BYTES * scores if work.backward else 0) / gpu.smem_bytes_per_clk
    else:
        read, written = _shared_bytes(work)
        operands = (read + written) / gpu.smem_bytes_per_clk
        issue += (flop / MMA_FLOP + read / LOAD_BYTES) / WARP_SLOTS
    return TileClocks(
        tensor=flop / (peak * (gpu.tensor_share if warpgroups else gpu.mma_sync_share)),
        operands=operands,
        special=scores / gpu.special_per_clk,
        issue=issue,
        exposed=EXPOSED[warpgroups, work.backward],
    )


def _clock_ghz(work: Attention, gpu: Gpu, tile: TileClocks) -> float:
    """What the power limit leaves: products draw power by their operations, not by their rate."""
    flop = 2.0 * PRODUCTS[work.backward] * _queries(work) * TILE * work.head_dim
    busy = flop / gpu.tensor_flop_per_clk["fp16"] / tile.total
    found = clock_ghz(
        gpu,
        element="fp16",
        tensor_busy=np.array(busy),
        cuda_cores_busy=np.array(tile.issue / tile.total),
    )
    return float(found)


def _tiles_cost(work: Attention, gpu: Gpu, read: int, written: int) -> Cost:
    """The launch that goes over the tiles.

    Tiles are dealt to the multiprocessors, long rows first, so that none does more than its share
    or one CTA's tiles, whichever is larger; every CTA begins and ends where nothing covers it.
    """
    one, tile = np.ones(1), tile_clocks(work, gpu)
    clock = _clock_ghz(work, gpu, tile)
    across = -(-work.length // TILE)
    all_heads = work.sequences * work.heads
    ctas_on_sm = max(all_heads * across / gpu.sm_count, 1.0)
    on_sm = max(all_heads * work.tiles / gpu.sm_count, across) + FILL[work.backward] * ctas_on_sm
    # A tile of scores reads its keys and values; backward reads queries and gradients instead and
    # adds dQ up in fp32.
    tile_bytes = 2 * BYTES * TILE * work.head_dim
    if work.backward:
        tile_bytes += 2 * SUM_BYTES * TILE * work.head_dim
    l2_bytes = float(all_heads * work.tiles * tile_bytes + work.query_bytes)
    l2 = l2_ns(
        gpu, bytes_per_sm=one * on_sm * tile_bytes, bytes_total=one * l2_bytes, clock_ghz=clock
    )
    dram = max(read / gpu.dram_read_gb_per_s, (read + written) / gpu.dram_copy_gb_per_s)
    main = overlap(one * on_sm * tile.total / clock, l2, one * dram)
    ends = ctas_on_sm * (gpu.dram_latency_ns + STREAM.cta_clk / clock)
    return Cost(
        time_us=(main + ends) / 1e3 + gpu.graph_launch_us,
        terms_us={
            "tensor": one * on_sm * tile.tensor / clock / 1e3,
            "cuda_cores": one * on_sm * tile.rest / clock / 1e3,
            "l2": l2 / 1e3,
            "dram": one * dram / 1e3,
            "prologue_epilogue": one * ends / 1e3,
            "launch": one * gpu.graph_launch_us,
        },
        dram_read_bytes=one * read,
        dram_write_bytes=one * written,
        l2_read_bytes=one * l2_bytes,
    )


def attention_cost(work: Attention, gpu: Gpu) -> Cost:
    """The cost of one direction, as columns of one row: its launches one after the other."""
    if not work.backward:
        ((read, written),) = work.launches
        return _tiles_cost(work, gpu, read, written)
    before, tiles, behind = work.launches
    rows = [
        streaming_cost(
            Streaming(
                name=name,
                read_bytes=read,
                written_bytes=written,
                elements=work.query_bytes / BYTES,
                instructions=ROW_INSTRUCTIONS,
            ),
            gpu,
        )
        for name, (read, written) in (("attention-rows", before), ("attention-dq", behind))
    ]
    parts = [_tiles_cost(work, gpu, *tiles), *rows]
    none = np.zeros(1)
    return Cost(
        time_us=sum((one.time_us for one in parts), none),
        terms_us={
            name: sum((one.terms_us.get(name, none) for one in parts), none)
            for name in parts[0].terms_us
        },
        dram_read_bytes=sum((one.dram_read_bytes for one in parts), none),
        dram_write_bytes=sum((one.dram_write_bytes for one in parts), none),
        l2_read_bytes=sum((one.l2_read_bytes for one in parts), none),
    )
