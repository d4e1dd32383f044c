"""The workspace of products whose K extent several programs share: counters, then partial sums."""

from collections.abc import Mapping

import torch

__all__ = ["MAX_SPLIT_TILES", "check_workspace", "stream_programs", "workspace_words"]

#: Tiles that programs may share: a workspace begins with so many counters, whatever the launch,
#: so that no launch finds another's partial sums among its counters.
MAX_SPLIT_TILES = 2**14
#: Steps along K that a program of a stream-K launch should have, so that its loop gets going.
_LEAST_STEPS = 4


def stream_programs(
    config: Mapping[str, int | bool], m: int, n: int, k: int, num_sms: int | None
) -> int:
    """Programs of a stream-K launch: one a multiprocessor, fewer where there is little to share.

    Raises:
        ValueError: the kernel's 32 bits do not count the steps that are shared.
    """
    tiles = _tiles(config, m, n)
    steps = -(-k // int(config["block_k"]))
    # Less than two tiles a program are shared, and each of them is counted.
    programs = min(num_sms or 1, max(tiles, tiles * steps // _LEAST_STEPS), MAX_SPLIT_TILES // 2)
    if 2 * programs * steps >= 2**31:
        raise ValueError(
            f"stream_k of K {k}: {programs} programs share {steps} steps a tile, too many for 32 "
            "bits; take split_k"
        )
    return programs


def workspace_words(
    config: Mapping[str, int | bool], m: int, n: int, k: int = 0, num_sms: int | None = None
) -> int:
    """int32 words that a launch on an M x N output needs; 0 where nothing is shared.

    Args:
        config: ``block_m``, ``block_n`` and ``split_k``, or ``stream_k`` and ``block_k``.
        k: contracted extent, elements, and
        num_sms: programs of a persistent launch: both for stream-K only.
    """
    tile = int(config["block_m"]) * int(config["block_n"])
    if config.get("stream_k", False):
        # The first and the last tile of a program may be shared.
        return MAX_SPLIT_TILES + 2 * stream_programs(config, m, n, k, num_sms) * tile
    if config["split_k"] == 1:
        return 0
    return MAX_SPLIT_TILES + _tiles(config, m, n) * int(config["split_k"]) * tile


def check_workspace(
    config: Mapping[str, int | bool],
    workspace: torch.Tensor | None,
    *,
    words: int,
    m: int,
    n: int,
    like: torch.Tensor,
    name: str = "x",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Partial sums (int32 words) and counters within a workspace.

    Args:
        words: from :func:`workspace_words`.
        like: an operand, whose device counts.
        name: that operand's name.
    Raises:
        TypeError, ValueError: more tiles than are counted, or a workspace that does not fit.
    """
    tiles = _tiles(config, m, n)
    # Of a stream-K launch, less than two tiles a program are shared.
    if not config.get("stream_k", False) and tiles > MAX_SPLIT_TILES:
        raise ValueError(
            f"split_k {config['split_k']} of {tiles} tiles: a workspace counts {MAX_SPLIT_TILES}, "
            "take split_k 1"
        )
    if workspace is None:
        what = "stream_k" if config.get("stream_k", False) else f"split_k {config['split_k']}"
        raise ValueError(f"{what} needs a workspace of {words} int32 zeros")
    if workspace.dtype != torch.int32:
        raise TypeError(f"workspace has dtype {workspace.dtype}: it must be torch.int32")
    if workspace.device != like.device:
        raise ValueError(
            f"workspace lies on {workspace.device} and {name} on {like.device}: move it there"
        )
    if workspace.ndim != 1 or not workspace.is_contiguous() or workspace.numel() < words:
        raise ValueError(
            f"workspace must be {words} contiguous words or more, got {tuple(workspace.shape)}"
        )
    return workspace[MAX_SPLIT_TILES:], workspace


def _tiles(config: Mapping[str, int | bool], m: int, n: int) -> int:
    return -(-m // int(config["block_m"])) * -(-n // int(config["block_n"]))
