"""The Hopper product of aligned MX operands opened on a device."""

from types import ModuleType
from typing import Any, ClassVar

import torch

from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.accuracy import Reference, compare
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_aligned
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.gemm_workload import Operands
from tiles.kernels.hopper_skinny_workload import HopperSkinnyWorkload
from tiles.kernels.mx_alignment import aligned_reference

__all__ = ["HopperAlignedWorkload"]


class HopperAlignedWorkload(HopperSkinnyWorkload):
    """Operands of ``gemm_hopper_skinny.cu`` under MX scales, multiplied behind an alignment.

    The bound is that of products promoted every 128 of K, and what the alignment may cost.
    """

    template: ClassVar[ModuleType] = gemm_hopper_aligned

    def _blank_workspace(self, config: TileConfig) -> torch.Tensor:
        size = gemm_hopper_aligned.workspace_bytes(*self.problem.shape)
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def _arguments(self, operands: Operands, config: TileConfig) -> dict[str, Any]:
        workspace = cupy_view(self._blank_workspace(config))
        return super()._arguments(operands, config) | {"workspace": workspace}

    def check(self, config: TileConfig) -> Accuracy:
        """Poisons the workspace as well: what is not aligned shows as NaN."""
        self.operands.c.fill_(float("nan"))
        workspace = self._blank_workspace(config).fill_(0xFF)
        arguments = self._arguments(self.operands, config) | {"workspace": cupy_view(workspace)}
        gemm_hopper_aligned.launch(**arguments, stream=cupy_stream(self.device))
        return compare(self.operands.c, self.reference())

    def reference(self) -> Reference:
        if self._reference is None:
            recipe = self.problem.recipe
            a, b = (
                QuantizedTensor(codes=codes, scales=scales, format=fmt)
                for (codes, scales), fmt in zip(
                    self._drawn, (recipe.activation, recipe.weight), strict=True
                )
            )
            self._reference = aligned_reference(self.problem, a, b)
        return self._reference
