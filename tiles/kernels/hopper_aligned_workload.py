"""The Hopper product of aligned MX operands opened on a device."""

from dataclasses import replace
from types import ModuleType
from typing import Any, ClassVar

import torch

from tiles.formats import TensorFormat
from tiles.kernels.accuracy import Reference, gemm_arithmetic, gemm_reference
from tiles.kernels.config import TileConfig
from tiles.kernels.cuda import gemm_hopper_aligned
from tiles.kernels.cuda.align_mx_scales import ERRORS
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.gemm_workload import Operands, dequantize
from tiles.kernels.hopper_gemm import QUANT
from tiles.kernels.hopper_skinny_workload import HopperSkinnyWorkload
from tiles.kernels.mx_alignment import allow_alignment, largest_errors

__all__ = ["HopperAlignedWorkload"]


class HopperAlignedWorkload(HopperSkinnyWorkload):
    """Operands of ``gemm_hopper_skinny.cu`` under MX scales, multiplied behind an alignment.

    The bound is that of products promoted every 128 of K, and what the alignment may cost.
    """

    template: ClassVar[ModuleType] = gemm_hopper_aligned

    def _workspace(self, config: TileConfig) -> torch.Tensor:
        """Poisoned: what is not written shows as NaN."""
        return self._memory().fill_(0xFF)

    def _memory(self) -> torch.Tensor:
        size = gemm_hopper_aligned.workspace_bytes(*self.problem.shape)
        return torch.empty(size, dtype=torch.uint8, device=self.device)

    def _arguments(self, operands: Operands, config: TileConfig) -> dict[str, Any]:
        workspace = self._workspace(config)
        return super()._arguments(operands, config) | {"workspace": cupy_view(workspace)}

    def reference(self) -> Reference:
        if self._reference is None:
            recipe = self.problem.recipe
            arithmetic = replace(gemm_arithmetic(self.problem, decode=False), promote_k=QUANT)
            unit = ERRORS[recipe.activation.element.name]
            sides = [
                self._values_and_errors(*drawn, fmt, unit)
                for drawn, fmt in zip(self._drawn, (recipe.activation, recipe.weight), strict=True)
            ]
            (a, a_error), (b, b_error) = sides
            self._reference = allow_alignment(
                gemm_reference(a, b, arithmetic),
                a,
                b,
                a_error,
                b_error,
                epsilon=float(torch.finfo(self.operands.c.dtype).eps),
            )
        return self._reference

    @staticmethod
    def _values_and_errors(
        codes: torch.Tensor, scales: torch.Tensor | None, fmt: TensorFormat, unit: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What codes stand for, and how far the alignment may move it."""
        assert scales is not None
        return dequantize(codes, scales, fmt), largest_errors(codes.float(), scales, unit)
