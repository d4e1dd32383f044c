"""Hopper's weight-only product for many rows, opened on a device: operands for its launcher."""

from collections.abc import Callable

from tiles.kernels.accuracy import compare
from tiles.kernels.base import Accuracy
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_weight_prefill as launcher
from tiles.kernels.cupy_views import cupy_stream
from tiles.kernels.hopper_weight_workload import HopperWeightWorkload
from tiles.kernels.weight_only_resources import group_columns
from tiles.kernels.weight_only_workload import Operands

__all__ = ["HopperWeightPrefillWorkload"]


class HopperWeightPrefillWorkload(HopperWeightWorkload):
    """Operands and check of :mod:`tiles.kernels.weight_only_workload`, scales of groups folded."""

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
        launcher.precompile(**self._blank_arguments(config))
