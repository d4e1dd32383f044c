"""How far the Hopper products reach: extents that 32-bit counters hold, and the launch's grid."""

from __future__ import annotations

from collections.abc import Mapping

from .launches import multiprocessors
from .tensor_maps import MAX_PITCH_BYTES

__all__ = [
    "MAX_EXTENT",
    "MAX_TILES",
    "check_extents",
    "cluster_sides",
    "persistent_grid",
    "tile_grid",
]

#: Coordinates have 31 bits, and a cluster's last tile reaches up to 2 x 256 beyond the matrix.
MAX_EXTENT = 2**31 - 1024
#: Tiles are counted in 31 bits, and each CTA adds the grid to its own once more.
MAX_TILES = 2**31 - 2**16


def check_extents(extents: Mapping[str, int], pitches: Mapping[str, int]) -> None:
    """Refuse what the kernels' coordinates, or the copy engine's strides, do not reach.

    Args:
        extents: by the name that the message takes; rows of matrices that follow each other
            together.
        pitches: bytes from one row, or column of scales, to the next, by argument.
    Raises:
        ValueError: names the extent or the argument, and the rule.
    """
    for name, extent in extents.items():
        if extent > MAX_EXTENT:
            raise ValueError(
                f"{name} = {extent}: the kernel's coordinates reach {MAX_EXTENT}, split the product"
            )
    for name, pitch in pitches.items():
        if pitch >= MAX_PITCH_BYTES:
            raise ValueError(
                f"{name}: its rows lie {pitch} bytes apart, the copy engine's strides are below "
                f"{MAX_PITCH_BYTES}"
            )


def cluster_sides(config: Mapping[str, int | bool]) -> tuple[int, int]:
    """CTAs of a cluster (``hopper_raster.cuh``) along M, which share B, and along N, which share A.

    They share the larger of the two tiles; of equal ones that of B.
    """
    cluster = int(config["cluster"])
    return (1, cluster) if int(config["block_m"]) > int(config["block_n"]) else (cluster, 1)


def tile_grid(rows: int, n: int, config: Mapping[str, int | bool], *, across: int = 1) -> int:
    """Tiles in ``rows`` rows of tiles, each over N columns.

    Args:
        across: columns of tiles that are counted together.
    Raises:
        ValueError: more than the kernel counts.
    """
    columns = -(-n // (int(config["block_n"]) * across))
    if max(rows, int(config.get("group_m", 1))) * columns > MAX_TILES:
        raise ValueError(
            f"{rows} x {columns} tiles, group_m = {config.get('group_m', 1)}: the kernel counts up "
            f"to {MAX_TILES}, take larger tiles or split the product"
        )
    return rows * columns


def persistent_grid(
    device: int, cluster_rows: int, n: int, config: Mapping[str, int | bool], *, across: int = 1
) -> int:
    """CTAs that stay on the multiprocessors and walk over the tiles, whole clusters.

    Args:
        cluster_rows: rows of tiles, those of a cluster together.
        across: CTAs of a cluster along N.
    Raises:
        ValueError: as :func:`tile_grid`.
    """
    cluster = int(config["cluster"])
    tiles = tile_grid(cluster_rows, n, config, across=across)
    return cluster * min(tiles, multiprocessors(device) // cluster)
