"""Products of weights: linear layers, and convolutions as implicit GEMMs."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from workbench.ptq.operand import Operand

__all__ = ["Convolution", "per_tensor"]


def per_tensor(fmt: TensorFormat) -> bool:
    """True where rounding does not depend on how a tensor is laid out as a matrix."""
    scaling = fmt.scaling
    return scaling is None or (scaling.rows is None and scaling.cols is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolution:
    """A convolution over one or two axes, its extents written for two.

    As a GEMM it has a row for every output pixel, and columns for (channel, kernel row, kernel
    column), as ``weight.reshape(out, -1)`` has them.
    """

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  #: left, right, above, below, as ``F.pad`` takes them
    dilation: tuple[int, int]
    groups: int
    axes: int  #: 1 or 2
    padding_mode: str = "constant"  #: as ``F.pad`` spells it

    @classmethod
    def of(cls, layer: nn.Conv1d | nn.Conv2d) -> "Convolution":
        """The convolution of a layer."""
        axes = 1 if isinstance(layer, nn.Conv1d) else 2
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        ahead = (0,) * (4 - 2 * axes)
        # As the layer's own forward has it: last axis first, both sides of each.
        sides = (*layer._reversed_padding_repeated_twice, *ahead)
        return cls(
            stride=_two(layer.stride, 1),
            padding=sides,  # type: ignore[arg-type]  # four of them
            dilation=_two(layer.dilation, 1),
            groups=layer.groups,
            axes=axes,
            padding_mode=mode,
        )

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, W) or (B, C, H, W), or without B, to (B, C, H, W) with its padding."""
        batched = x if x.ndim == self.axes + 2 else x[None]
        sides = self.padding if self.axes == 2 else self.padding[:2]
        if any(sides):
            batched = F.pad(batched, sides, mode=self.padding_mode)
        return batched if self.axes == 2 else batched[:, :, None, :]

    def shaped(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """A (B, N, H, W) output as the layer has it for an input ``x``."""
        y = y if self.axes == 2 else y[:, :, 0, :]
        return y if x.ndim == self.axes + 2 else y[0]

    def product(
        self,
        x: torch.Tensor,
        values: torch.Tensor,
        bias: torch.Tensor | None,
        operand: Operand,
    ) -> torch.Tensor:
        """The convolution of a rounded input with (N, C / groups, h, w) rounded weights."""
        wide = values if self.axes == 2 else values[:, :, None, :]
        if per_tensor(operand.format):
            # Rounded before the padding: zeros are exact under every scale.
            ready = self.padded(operand.rounded(x))
            y = F.conv2d(ready, wide, bias, self.stride, 0, self.dilation, self.groups)
            return self.shaped(y, x)
        image = self.padded(x)
        rows = operand.rounded(self.columns(image, wide))
        weights = wide.reshape(self.groups, wide.shape[0] // self.groups, -1)
        y = torch.einsum("bgpk,gnk->bgnp", rows, weights)
        y = y.reshape(len(image), wide.shape[0], *self._extents(image, wide))
        y = y if bias is None else y + bias[:, None, None]
        return self.shaped(y, x)

    def columns(self, image: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
        """The GEMM's left side: (B, groups, pixels, K) of a padded image."""
        found = F.unfold(image, wide.shape[2:], self.dilation, 0, self.stride)
        split = found.view(len(image), self.groups, -1, found.shape[-1])
        return split.transpose(2, 3)

    def _extents(self, image: torch.Tensor, wide: torch.Tensor) -> tuple[int, int]:
        down, across = (
            (image.shape[2 + i] - self.dilation[i] * (wide.shape[2 + i] - 1) - 1) // self.stride[i]
            + 1
            for i in (0, 1)
        )
        return down, across


def _two(extents: tuple[int, ...], fill: int) -> tuple[int, int]:
    return (extents[0], extents[1]) if len(extents) == 2 else (fill, extents[0])
