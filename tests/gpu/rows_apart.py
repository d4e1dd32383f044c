"""Matrices whose rows lie apart, with NaN between and around them."""

import torch


def apart(tensor: torch.Tensor, rows: int, pitch: int) -> torch.Tensor:
    """The same values inside a larger matrix full of NaN, some of its rows down."""
    bits = torch.uint8 if tensor.element_size() == 1 else tensor.dtype
    wide = torch.full((rows + tensor.shape[0] + 8, pitch), 0x7F, device="cuda").to(bits)
    if bits.is_floating_point:
        wide.fill_(float("nan"))
    held = wide[rows : rows + tensor.shape[0], : tensor.shape[1]]
    held.copy_(tensor.view(bits))
    return held.view(tensor.dtype)
