"""Masks that attention adds to its scores: no scale could cover both."""

import torch

from workbench.ptq.operand import Operand

__all__ = ["MASKED", "masked", "rounded_but_masks"]

#: What a mask adds, or more; a scale that covers it would leave nothing of what it is added to.
_MASK = 1e30
#: Half of a type's largest number is one too, where the type ends before that (fp16).
_SHARE = 0.5
MASKED = f"infinite, or beyond {_MASK:g} or half of what its type holds"


def masked(x: torch.Tensor) -> torch.Tensor:
    """Where a tensor of floats holds what only a mask does; NaN is none."""
    return x.abs() > min(_MASK, _SHARE * torch.finfo(x.dtype).max)


def rounded_but_masks(operand: Operand, x: torch.Tensor) -> torch.Tensor:
    """``x`` rounded, but for entries of a mask: they pass as they are and count in no scale.

    An operand that had one in calibration is not rounded at all; calibration on unpadded data has
    none, and the first padded batch may bring it.
    """
    beyond = masked(x)
    return torch.where(beyond, x, operand.rounded(x.masked_fill(beyond, 0)))
