"""How many registers a thread may take, so that a multiprocessor holds two large CTAs."""

import torch

__all__ = ["two_ctas"]

#: 32-bit registers of a multiprocessor (CUDA C++ programming guide, compute capability 7.0 to 9.0).
_REGISTERS = 65536


def two_ctas(num_warps: int) -> dict[str, int]:
    """Launch options of a kernel that holds a tile: one CTA loads while the other computes.

    Of 16 warps; fewer fit twice by themselves, and of more none do.
    """
    fits = num_warps == 16 and torch.version.hip is None
    return {"maxnreg": _REGISTERS // (2 * 32 * num_warps)} if fits else {}
