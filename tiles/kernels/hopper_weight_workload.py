"""What the weight-only products on Hopper hand to their CUDA launchers."""

from typing import Any

import torch

from tiles.kernels.config import TileConfig
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.weight_only_workload import Operands, WeightOnlyWorkload

__all__ = ["HopperWeightWorkload"]


class HopperWeightWorkload(WeightOnlyWorkload):
    """Operands of :mod:`tiles.kernels.weight_only_workload` as zero-copy CuPy views."""

    def _arguments(self, operands: Operands, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments."""
        weight = operands.weight
        tensors = {
            "x": operands.x,
            "codes": weight.codes,
            "c": operands.c,
            "scale": weight.scale,
            "zero": weight.zero,
            "row_scale": weight.row_scale,
        }
        views = {name: None if t is None else cupy_view(t) for name, t in tensors.items()}
        return views | {
            "element": self.problem.recipe.activation.element.name,
            "out": self.problem.out,
            "weight": weight.element,
            "scale_format": weight.scale_format,
            "group": weight.group,
            "config": config.to_dict(),
        }

    def _blank_arguments(self, config: TileConfig) -> dict[str, Any]:
        """Those of operands that hold anything."""
        m, n, k = self.problem.shape
        x = torch.empty(m, k, dtype=self._activation, device=self.device)
        blank = Operands(x=x, weight=self._blank_weight(n, k), c=self._output())
        return self._arguments(blank, config)
