"""The grouped Hopper GEMM opened on a device: torch operands handed to the CUDA C++ launcher."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_grouped
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.grouped_workload import GroupedOperands, GroupedWorkload
from tiles.kernels.hopper_gemm import scale_mode

__all__ = ["HopperGroupedWorkload"]


class HopperGroupedWorkload(GroupedWorkload):
    """Random operands and routing, multiplied by ``gemm_hopper.cu``."""

    def _arguments(self, operands: GroupedOperands, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments: zero-copy CuPy views of the torch tensors."""
        recipe = self.problem.recipe
        tensors = {f.name: getattr(operands, f.name) for f in fields(operands) if f.name != "ids"}
        return {
            **{name: None if t is None else cupy_view(t) for name, t in tensors.items()},
            "element": recipe.activation.element.name,
            "out": self.problem.out,
            "scales": scale_mode(recipe.activation, recipe.weight),
            "config": config.to_dict(),
        }

    def _launcher(self, operands: GroupedOperands, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(operands, config)

        def run() -> None:
            gemm_hopper_grouped.launch(**arguments, stream=cupy_stream(self.device))

        return run

    def compile(self, config: TileConfig) -> None:
        gemm_hopper_grouped.precompile(**self._arguments(self._blank(self.device), config))
