"""The Hopper GEMM opened on a device: torch operands handed to the CUDA C++ launcher."""

from collections.abc import Callable
from types import ModuleType
from typing import Any, ClassVar

from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.gemm_workload import GemmWorkload, Operands
from tiles.kernels.hopper_gemm import scale_mode

__all__ = ["HopperGemmWorkload"]


class HopperGemmWorkload(GemmWorkload):
    """Random normal operands, quantised under the recipe, multiplied by ``gemm_hopper.cu``."""

    template: ClassVar[ModuleType] = gemm_hopper  #: the launcher

    def _scale_mode(self) -> str | None:
        """The launcher's name of the recipe's scales."""
        return scale_mode(self.problem.recipe.activation, self.problem.recipe.weight)

    def _arguments(self, operands: Operands, config: TileConfig) -> dict[str, Any]:
        """The launcher's arguments: zero-copy CuPy views of the torch tensors."""
        views = {
            name: None if tensor is None else cupy_view(tensor)
            for name, tensor in (
                ("a", operands.a),
                ("b", operands.b),
                ("c", operands.c),
                ("a_scale", operands.a_scale),
                ("b_scale", operands.b_scale),
            )
        }
        return views | {
            "element": self.problem.recipe.activation.element.name,
            "out": self.problem.out,
            "scales": self._scale_mode(),
            "config": config.to_dict(),
        }

    def _launcher(self, operands: Operands, config: TileConfig) -> Callable[[], None]:
        arguments = self._arguments(operands, config)

        def run() -> None:
            self.template.launch(**arguments, stream=cupy_stream(self.device))

        return run

    def compile(self, config: TileConfig) -> None:
        self.template.precompile(**self._arguments(self._blank(), config))
