"""The attention core ``softmax(Q·K^T)·V`` in 16 bits, fused: scores never reach memory.

No kernel family of the workbench serves it: public kernels do.  Which of them runs, and what it
reads, writes and counts; :mod:`sim.network.attention_cost` prices it.
"""

from dataclasses import dataclass
from enum import Enum

from tiles.problems.base import check_extents

__all__ = ["BYTES", "SUM_BYTES", "TILE", "Attention", "AttentionKernel"]

#: Queries and keys of a tile of scores.
TILE = 128
#: Bytes of an element of Q, K, V and O, and of the fp32 sums of dQ.
BYTES, SUM_BYTES = 2, 4


class AttentionKernel(Enum):
    """Who computes the core."""

    #: What torch's ``scaled_dot_product_attention`` takes, and the layers of ``workbench.nn`` with
    #: it: cuDNN's kernel of warpgroup products where there are some (a profile on an H200, torch
    #: 2.11, ``evidence/h200/patch.json``), FlashAttention-2 elsewhere.
    TORCH = "torch"
    #: FlashAttention-2 by name: ``mma.sync`` on every GPU (``evidence/h200/block-profile.json``).
    FLASH_2 = "flash-2"


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
    kernel: AttentionKernel = AttentionKernel.TORCH

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
    def sum_bytes(self) -> int:
        """Bytes of the fp32 sums of dQ, which the tiles of all keys add to."""
        return self.query_bytes * SUM_BYTES // BYTES

    @property
    def launches(self) -> tuple[tuple[int, int], ...]:
        """Bytes read and written by each launch, in order.

        Forward is one.  Backward are three: the rows' sums of O·dO, and zeros for the sums of dQ;
        the tiles, which add to those; dQ rounded from them.
        """
        statistics = self.statistics_bytes
        if not self.backward:
            operands = self.query_bytes + 2 * self.key_bytes
            return ((operands, self.query_bytes + statistics),)
        tiles_read = 2 * self.query_bytes + 2 * self.key_bytes + 2 * statistics + self.sum_bytes
        return (
            (2 * self.query_bytes, statistics + self.sum_bytes),
            (tiles_read, 2 * self.key_bytes + self.sum_bytes),
            (self.sum_bytes, self.query_bytes),
        )

    @property
    def read_bytes(self) -> int:
        """By all launches."""
        return sum(read for read, _ in self.launches)

    @property
    def written_bytes(self) -> int:
        """By all launches."""
        return sum(written for _, written in self.launches)

    def __str__(self) -> str:
        extents = (self.sequences, self.heads, self.length, self.head_dim)
        direction = "attention-bwd" if self.backward else "attention"
        causal = ":causal" if self.causal else ""
        named = "" if self.kernel is AttentionKernel.TORCH else f":{self.kernel.value}"
        return f"{direction}:{'x'.join(map(str, extents))}{causal}{named}"
