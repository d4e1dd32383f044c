"""The attention core ``softmax(Q·K^T)·V`` in 16 bits, fused: scores never reach memory.

No kernel family of the workbench serves it: this prices what public fused kernels do
(FlashAttention, arXiv 2205.14135, 2307.08691, 2407.08608).  A CTA holds 128 queries and walks over
tiles of 128 keys; a tile costs tensor clocks for its products and clocks of the special-function
and CUDA cores for its softmax.  Backward recomputes the scores: five products where forward has
two.  Constants are priors from counting instructions; none was fitted to a measurement.
"""

from dataclasses import dataclass

import numpy as np

from sim.cost import Cost
from sim.gpu import Gpu
from sim.memory import l2_ns, overlap
from sim.parameters import STREAM
from sim.pipes import ISSUE_LANES
from tiles.problems.base import check_extents

__all__ = ["Attention", "attention_cost", "softmax_clk", "tensor_clk"]

#: Queries and keys of a tile of scores.
TILE = 128
#: Rows that warpgroup products cover at least.
LEAST_QUERIES = 64
#: Products of a tile: Q·K^T, P·V; backward once more Q·K^T, dO·V^T, P^T·dO, dS^T·Q, dS·K.
PRODUCTS = {False: 2, True: 5}
#: Instructions a score beside its exponential: scaling, maximum, sum, half a conversion, masks and
#: rescaling of the output; backward the difference to the row's sum, a product, two conversions.
INSTRUCTIONS = {False: 5.0, True: 9.0}
#: Share of the shorter of products and softmax that the longer one does not cover.  Forward two
#: warpgroups take turns; backward every product waits for the softmax before it.
EXPOSED = {False: 0.25, True: 1.0}
#: Bytes of an element of Q, K, V and O, and of the fp32 sums of dQ.
BYTES, SUM_BYTES = 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Self-attention of sequences of one length, in 16 bits, one direction of it."""

    sequences: int
    heads: int  #: query heads
    kv_heads: int  #: key and value heads, each for ``heads / kv_heads`` query heads
    length: int  #: queries, and keys, of a sequence
    head_dim: int  #: elements of a head
    causal: bool  #: a query sees the keys up to its own place
    backward: bool = False

    def __post_init__(self) -> None:
        names = ("sequences", "heads", "kv_heads", "length", "head_dim")
        check_extents({name: getattr(self, name) for name in names})

    @property
    def pairs(self) -> int:
        """Scores of one head of one sequence: a query and a key that it sees."""
        square = self.length**2
        return (square + self.length) // 2 if self.causal else square

    @property
    def flops(self) -> int:
        """Operations that count as work: 4 a score and element of a head, backward 8.

        Scores that backward computes a second time do not count.
        """
        forward = 4 * self.sequences * self.heads * self.pairs * self.head_dim
        return forward * (2 if self.backward else 1)

    @property
    def tiles(self) -> int:
        """Tiles of scores that one head of one sequence computes, masked ones left out."""
        across = -(-self.length // TILE)
        return across * (across + 1) // 2 if self.causal else across**2

    @property
    def statistics_bytes(self) -> int:
        """Logarithms of the softmax's sums, fp32, which forward leaves for backward."""
        return SUM_BYTES * self.sequences * self.heads * self.length

    @property
    def query_bytes(self) -> int:
        """Bytes of Q, or of the output."""
        return BYTES * self.sequences * self.heads * self.length * self.head_dim

    @property
    def key_bytes(self) -> int:
        """Bytes of K, or of V."""
        return BYTES * self.sequences * self.kv_heads * self.length * self.head_dim

    @property
    def read_bytes(self) -> int:
        """Q, K and V; backward O, its gradient, the statistics and the sums of dQ besides."""
        forward = self.query_bytes + 2 * self.key_bytes
        if not self.backward:
            return forward
        sums = self.query_bytes * SUM_BYTES // BYTES
        return forward + 2 * self.query_bytes + self.statistics_bytes + sums

    @property
    def written_bytes(self) -> int:
        """The output and the statistics; backward the three gradients and the sums of dQ."""
        if not self.backward:
            return self.query_bytes + self.statistics_bytes
        sums = self.query_bytes * SUM_BYTES // BYTES
        return self.query_bytes + 2 * self.key_bytes + sums

    def __str__(self) -> str:
        extents = (self.sequences, self.heads, self.length, self.head_dim)
        direction = "attention-bwd" if self.backward else "attention"
        return f"{direction}:{'x'.join(map(str, extents))}{':causal' if self.causal else ''}"


def _queries(work: Attention) -> int:
    """Rows of a tile: short sequences fill a part of it."""
    return max(LEAST_QUERIES, min(TILE, 1 << (work.length - 1).bit_length()))


def tensor_clk(work: Attention, gpu: Gpu) -> float:
    """Tensor-core clocks of the products of one tile of scores: 2·queries·keys·head each."""
    products = PRODUCTS[work.backward]
    rate = gpu.tensor_flop_per_clk["fp16"] * gpu.tensor_share
    return 2.0 * products * _queries(work) * TILE * work.head_dim / rate


def softmax_clk(work: Attention, gpu: Gpu) -> float:
    """Clocks of exponentials and other instructions of one tile of scores, one after the other."""
    scores = _queries(work) * TILE
    return scores / gpu.special_per_clk + scores * INSTRUCTIONS[work.backward] / ISSUE_LANES


def attention_cost(work: Attention, gpu: Gpu) -> Cost:
    """The cost of one direction, as columns of one row.

    Tiles are dealt to the multiprocessors, long rows first, so that none does more than its share
    or one CTA's tiles, whichever is larger.
    """
    clock_ghz = gpu.sustained_clock_mhz / 1e3
    one = np.ones(1)
    all_tiles = work.sequences * work.heads * work.tiles
    longest = -(-work.length // TILE)
    on_sm = max(all_tiles / gpu.sm_count, longest)
    tensor, softmax = tensor_clk(work, gpu), softmax_clk(work, gpu)
    exposed = EXPOSED[work.backward] * min(tensor, softmax)
    compute = on_sm * (max(tensor, softmax) + exposed) / clock_ghz
    # A tile of scores reads its keys and values; backward reads queries and gradients instead and
    # adds dQ up in fp32.
    tile_bytes = 2 * BYTES * TILE * work.head_dim
    if work.backward:
        tile_bytes += 2 * SUM_BYTES * TILE * work.head_dim
    l2_bytes = float(all_tiles * tile_bytes + work.query_bytes)
    l2 = l2_ns(
        gpu,
        bytes_per_sm=one * on_sm * tile_bytes,
        bytes_total=one * l2_bytes,
        clock_ghz=clock_ghz,
    )
    moved = work.read_bytes + work.written_bytes
    dram = max(work.read_bytes / gpu.dram_read_gb_per_s, moved / gpu.dram_copy_gb_per_s)
    # Backward starts with the rows' sums of O·dO and ends with the conversion of dQ.
    launches = 3 if work.backward else 1
    ends = (gpu.dram_latency_ns + STREAM.cta_clk / clock_ghz) * launches
    launch_us = gpu.graph_launch_us * launches
    main = overlap(one * compute, l2, one * dram)
    return Cost(
        time_us=(main + ends) / 1e3 + launch_us,
        terms_us={
            "tensor": one * on_sm * tensor / clock_ghz / 1e3,
            "cuda_cores": one * on_sm * softmax / clock_ghz / 1e3,
            "l2": l2 / 1e3,
            "dram": one * dram / 1e3,
            "prologue_epilogue": one * ends / 1e3,
            "launch": one * launch_us,
        },
        dram_read_bytes=one * work.read_bytes,
        dram_write_bytes=one * work.written_bytes,
        l2_read_bytes=one * l2_bytes,
    )
