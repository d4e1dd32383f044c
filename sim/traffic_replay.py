"""Traffic of a tiled product replayed wave by wave against a cache: the twin of the closed form.

CTAs that are resident together advance along K in step; what they load is looked up in a cache that
drops the least recently used piece, and what they store stays there until it is dropped.  It costs
a thousand times the closed form of :mod:`sim.traffic`, and tells apart what that merges: writes
that leave the cache before the kernel ends, stores that push operands out of it, and the order in
which pieces come back.

Left out: the two partitions of a large L2, its true replacement, CTAs that drift apart.
"""

from collections import OrderedDict
from dataclasses import dataclass

__all__ = ["CAPACITY_SHARE", "CacheTraffic", "Raster", "replay"]

#: Of the L2's bytes, what a streaming product finds again: as in :func:`sim.traffic.miss_share`.
CAPACITY_SHARE = 0.75
#: Pieces that the K extent is cut into at most: finer ones change the counts by their size alone.
MOST_PIECES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """Tiles of a product, in the order of their CTAs (or of clusters, which count as one)."""

    tiles_m: int
    tiles_n: int
    group_m: int  #: tile rows that are visited column by column before the next ones
    wave: int  #: CTAs resident together
    iterations: int  #: steps along K
    a_bytes: float  #: of a tile row of A with its scales, all of K
    b_bytes: float  #: of a tile column of B
    c_bytes: float  #: stored by one tile

    def __post_init__(self) -> None:
        for name in ("tiles_m", "tiles_n", "group_m", "wave", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")

    def place(self, number: int) -> tuple[int, int]:
        """Tile row and column of a CTA."""
        group_m = min(self.group_m, self.tiles_m)
        group, within = divmod(number, group_m * self.tiles_n)
        height = min(self.tiles_m - group * group_m, group_m)
        return group * group_m + within % height, within // height


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheTraffic:
    """Bytes of one launch that begins with an empty cache."""

    dram_read_bytes: float
    dram_write_bytes: float  #: written while the kernel runs
    held_bytes: float  #: of the output, still in the cache at its end
    l2_read_bytes: float  #: what CTAs load from the L2, each its own


class _Cache:
    """Pieces by their last use; dropping a written one writes it."""

    def __init__(self, capacity: float) -> None:
        self._capacity = capacity
        self._pieces: OrderedDict[tuple[str, int, int], float] = OrderedDict()
        self._used = 0.0
        self.read = self.written = 0.0

    def load(self, piece: tuple[str, int, int], size: float) -> None:
        if piece in self._pieces:
            self._pieces.move_to_end(piece)
            return
        self.read += size
        self._put(piece, size)

    def store(self, piece: tuple[str, int, int], size: float) -> None:
        self._put(piece, size)

    def _put(self, piece: tuple[str, int, int], size: float) -> None:
        self._pieces[piece] = size
        self._used += size
        while self._used > self._capacity:
            dropped, gone = self._pieces.popitem(last=False)
            self._used -= gone
            if dropped[0] == "c":
                self.written += gone

    @property
    def held(self) -> float:
        """Bytes of written pieces."""
        return sum(size for piece, size in self._pieces.items() if piece[0] == "c")


def replay(raster: Raster, l2_bytes: float, share: float = CAPACITY_SHARE) -> CacheTraffic:
    """Replay a product's loads and stores.

    Args:
        l2_bytes: of the GPU's L2.
        share: of it that is found again.
    """
    cache = _Cache(share * l2_bytes)
    pieces = min(raster.iterations, MOST_PIECES)
    tiles = raster.tiles_m * raster.tiles_n
    for start in range(0, tiles, raster.wave):
        places = [raster.place(one) for one in range(start, min(start + raster.wave, tiles))]
        rows = dict.fromkeys(row for row, _ in places)
        cols = dict.fromkeys(col for _, col in places)
        for piece in range(pieces):
            for row in rows:
                cache.load(("a", row, piece), raster.a_bytes / pieces)
            for col in cols:
                cache.load(("b", col, piece), raster.b_bytes / pieces)
        for row, col in places:
            cache.store(("c", row, col), raster.c_bytes)
    return CacheTraffic(
        dram_read_bytes=cache.read,
        dram_write_bytes=cache.written,
        held_bytes=cache.held,
        l2_read_bytes=tiles * (raster.a_bytes + raster.b_bytes),
    )
