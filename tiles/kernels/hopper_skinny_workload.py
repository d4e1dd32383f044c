"""The Hopper GEMM for few rows or tiles opened on a device."""

from types import ModuleType
from typing import ClassVar

from tiles.kernels.cuda import gemm_hopper_skinny
from tiles.kernels.hopper_gemm_workload import HopperGemmWorkload

__all__ = ["HopperSkinnyWorkload"]


class HopperSkinnyWorkload(HopperGemmWorkload):
    """Operands and check of the other products, multiplied by ``gemm_hopper_skinny.cu``.

    The error bound holds for every split of K.  The parts of a cluster of c CTAs begin from zero,
    so c - 1 truncations of an accumulator fall away that the bound grants, each of up to ``u·M``;
    adding the parts in fp32 rounds c - 1 times by at most half of that.  Under promotion the first
    block of a part is added to zero without rounding, which leaves room for the same additions.
    """

    template: ClassVar[ModuleType] = gemm_hopper_skinny
