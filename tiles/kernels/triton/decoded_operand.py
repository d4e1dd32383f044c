"""A matrix of packed codes with its scales, as an operand of the decoded product."""

from dataclasses import dataclass

import torch

from .decoded_element import FOLDED, Element

__all__ = ["StoredMatrix"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMatrix:
    """A (rows, columns) operand: (code - zero point) x scale x tensor scale."""

    #: (rows, bytes of a row) uint8, contiguous, packed as ``tile_packing`` says; of 16-bit elements
    #: (rows, columns) bf16 or fp16.
    codes: torch.Tensor
    columns: int
    element: Element
    #: One a block, (grid rows, grid columns), any strides: fp32, or uint8 bit patterns of E8M0 and
    #: e4m3fn.
    scales: torch.Tensor | None = None
    block: tuple[int, int] = (0, 0)  #: rows and columns under one scale, 0 = whole extent
    stored: str = "fp32"  #: format of the scales: fp32, e8m0fnu or e4m3fn
    tensor_scale: torch.Tensor | None = None  #: (1,) fp32, beside folded scales
    zero_points: torch.Tensor | None = None  #: uint8 on the scales' grid; kind ``uint`` only

    @property
    def rows(self) -> int:
        """M or N."""
        return self.codes.shape[0]

    @property
    def folded(self) -> bool:
        """True where the scales are multiplied into the decoded numbers."""
        return self.scales is not None and self.stored in FOLDED

    @property
    def outer(self) -> tuple[torch.Tensor | None, tuple[int, int] | None]:
        """fp32 scales that multiply sums, and what lies under one of them."""
        if not self.folded:
            return self.scales, None if self.scales is None else self.block
        if self.tensor_scale is None:
            return None, None
        return self.tensor_scale.view(1, 1), (0, 0)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors that there are, by name."""
        found = {
            "codes": self.codes,
            "scales": self.scales,
            "tensor_scale": self.tensor_scale,
            "zero_points": self.zero_points,
        }
        return {name: tensor for name, tensor in found.items() if tensor is not None}
