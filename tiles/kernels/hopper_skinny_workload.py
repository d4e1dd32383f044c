"""The Hopper GEMM for few rows or tiles opened on a device."""

from types import ModuleType
from typing import ClassVar

import torch

from tiles.formats import Scaling, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.cuda import gemm_hopper_skinny
from tiles.kernels.hopper_gemm_workload import HopperGemmWorkload
from tiles.kernels.hopper_skinny import MX, skinny_mode

__all__ = ["HopperSkinnyWorkload"]


class HopperSkinnyWorkload(HopperGemmWorkload):
    """Operands and check of the other products, multiplied by ``gemm_hopper_skinny.cu``.

    The error bound holds for every split of K.  The parts of a cluster of c CTAs begin from zero,
    so c - 1 truncations of an accumulator fall away that the bound grants, each of up to ``u·M``;
    adding the parts in fp32 rounds c - 1 times by at most half of that.  Under promotion the first
    block of a part is added to zero without rounding, which leaves room for the same additions.

    MX scales lie in memory as E8M0 bytes, row-major.
    """

    template: ClassVar[ModuleType] = gemm_hopper_skinny

    def _scale_mode(self) -> str | None:
        return skinny_mode(self.problem.recipe.activation, self.problem.recipe.weight)

    def _blank_scales(self, rows: int, scaling: Scaling) -> torch.Tensor:
        if self._scale_mode() != MX:
            return super()._blank_scales(rows, scaling)
        grid = scaling.grid(rows, self.problem.k)
        return torch.empty(grid, dtype=torch.uint8, device=self.device)

    def _copy_scales(
        self, scales: torch.Tensor | None, rows: int, fmt: TensorFormat
    ) -> torch.Tensor | None:
        if scales is None or self._scale_mode() != MX:
            return super()._copy_scales(scales, rows, fmt)
        return QuantizedTensor(codes=scales, scales=scales, format=fmt).scale_bits
