"""Hopper's weight-only product for many rows, opened on a device: operands for its launcher."""

from collections.abc import Callable
from typing import Any

import torch

from tiles.kernels.accuracy import compare
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_weight_prefill as launcher
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.weight_only_resources import group_columns
from tiles.kernels.weight_only_workload import Operands, WeightOnlyWorkload

__all__ = ["HopperWeightPrefillWorkload"]


class HopperWeightPrefillWorkload(WeightOnlyWorkload):
    """Operands and check of :mod:`tiles.kernels.weight_only_workload`, scales of groups folded."""

    def _arguments(self, operands: Operands, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments: zero-copy CuPy views of the torch tensors."""
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

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(operands, config)

        def run() -> None:
            launcher.launch(**arguments, stream=cupy_stream(self.device))

        return run

    def check(self, config: TileConfig) -> Accuracy:
        self.operands.c.fill_(float("nan"))
        self._launcher(self.operands, config)()
        folded = group_columns(self.problem.recipe.weight) > 0
        return compare(self.operands.c, self.reference(fold=folded))

    def compile(self, config: TileConfig) -> None:
        m, n, k = self.problem.shape
        x = torch.empty(m, k, dtype=self._activation, device=self.device)
        blank = Operands(x=x, weight=self._blank_weight(n, k), c=self._output())
        launcher.precompile(**self._arguments(blank, config))
