"""How the blocks of a matrix are dealt to the CTAs of the CUDA C++ quantisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["MAX_SHARED_BYTES", "MIN_TURNED_BLOCK", "Geometry", "geometry_of", "power_of_two"]

#: What a kernel has without asking for more.
MAX_SHARED_BYTES = 48 * 1024
#: Smallest square block with a transposed copy: its rows are stored 16 bytes at once.
MIN_TURNED_BLOCK = 16
#: Rows of a patch that a thread turns.
PATCH_ROWS = 4


def power_of_two(value: int) -> bool:
    """True for 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Blocks of a CTA, one after the other, or with a transposed copy in a tile."""

    block: tuple[int, int]  #: rows and columns under one scale; 0 columns are all of them
    cols: int
    lanes: int
    vector: int
    threads: int
    unroll: int
    transposed: bool

    @property
    def items(self) -> int:
        """Vectors of a block that a thread has."""
        return -(-self.block[0] * -(-(self.block[1] or self.cols) // self.vector) // self.lanes)

    @property
    def blocks_per_cta(self) -> int:
        return self.threads // self.lanes * self.unroll

    @property
    def right(self) -> int:
        """Blocks of a CTA's tile side by side: as many as below one another, or half of them."""
        return 1 << max(self.blocks_per_cta.bit_length() - 1, 0) // 2 if self.transposed else 1

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a CTA's tile of blocks."""
        down = self.blocks_per_cta // self.right
        return down * self.block[0], self.right * self.block[1]

    @property
    def whole_patches(self) -> bool:
        """Whether all of a thread's vectors belong to patches of four rows."""
        vectors = self.block[0] * self.block[1] // max(self.vector, 1)
        return self.vector >= PATCH_ROWS and vectors % (PATCH_ROWS * self.lanes) == 0

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a CTA, with room for the largest values of warps."""
        rows, cols = self.tile
        side = min(self.block[1] // self.vector, 8) or 1
        skew = 1 if self.lanes < 32 else max(32 // side // PATCH_ROWS, 1)
        tile = rows * cols + cols // self.vector * 16 * skew if self.transposed else 0
        return tile + self.unroll * self.threads // 32 * 4

    def ctas(self, shape: tuple[int, int]) -> tuple[int, int]:
        """CTAs of a launch, and what their number is divided by: blocks or tiles across."""
        unit = self.tile if self.transposed else self.block
        across = -(-shape[1] // unit[1]) if unit[1] else 1
        count = -(-shape[0] // unit[0]) * across
        return (count if self.transposed else -(-count // self.blocks_per_cta)), across

    def even(self, shape: tuple[int, int]) -> bool:
        """Whether no block reaches over the edge, and every CTA and thread has all it can have."""
        if self.transposed:
            return shape[0] % self.tile[0] == 0 and shape[1] % self.tile[1] == 0
        cols = self.block[1] or shape[1]
        blocks = shape[0] // self.block[0] * (shape[1] // cols)
        return (
            shape[0] % self.block[0] == 0
            and shape[1] % cols == 0
            and blocks % self.blocks_per_cta == 0
            and self.items * self.lanes * self.vector == self.block[0] * cols
        )


def geometry_of(
    block: tuple[int, int],
    shape: tuple[int, int],
    config: Mapping[str, int | bool],
    *,
    transposed: bool,
) -> Geometry:
    """The geometry of a configuration, the fields of ``CudaQuantizeConfig``."""
    return Geometry(
        block=(block[0], block[1]),
        cols=shape[1],
        lanes=int(config["lanes"]),
        vector=int(config["vector"]),
        threads=int(config["threads"]),
        unroll=int(config["unroll"]),
        transposed=transposed,
    )
