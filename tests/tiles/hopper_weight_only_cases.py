"""Configurations of Hopper's weight-only product, and its compiler options."""

from hopper_weight_cases import formats

from tiles.kernels.cuda import gemm_hopper_weight_only as launcher
from tiles.kernels.hopper_weight_only import HopperWeightOnlyConfig
from tiles.problems import Gemm

PLAIN = {
    "block_m": 8, "block_n": 64, "warp_rows": 16, "warps_k": 4, "stages": 16, "per_sm": 0,
    "cluster": 1, "wgmma": False,
}  # fmt: skip


def config(**fields: int) -> HopperWeightOnlyConfig:
    return HopperWeightOnlyConfig.from_dict(PLAIN | fields)


def options(problem: Gemm, one: HopperWeightOnlyConfig) -> tuple[str, ...]:
    return launcher.options(
        element=problem.recipe.activation.element.name,
        out=problem.out,
        config=one.to_dict(),
        **formats(problem),
    )
