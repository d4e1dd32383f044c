"""Recipes and configurations of the Hopper GEMM for few rows or tiles, and compiler options."""

from hopper_gemm_cases import RECIPES as PLAIN_RECIPES

from tiles.kernels.cuda import gemm_hopper_skinny
from tiles.kernels.hopper_skinny import HopperSkinnyConfig, HopperSkinnyGemm, skinny_mode
from tiles.problems import Gemm

FAMILY = HopperSkinnyGemm()
RECIPES = (*PLAIN_RECIPES, "mxfp8-e4m3", "mxfp8-e5m2")


def config(**fields: int | bool) -> HopperSkinnyConfig:
    plain = {"block_m": 16, "block_n": 64, "stages": 4, "cluster": 1, "interleaved": False}
    return HopperSkinnyConfig.from_dict(plain | fields)


def options(problem: Gemm, one: HopperSkinnyConfig) -> tuple[str, ...]:
    """What the launcher would compile."""
    activation, weight = problem.recipe.activation, problem.recipe.weight
    scales = skinny_mode(activation, weight)
    assert scales is not None
    return gemm_hopper_skinny.options(
        element=activation.element.name, out=problem.out, scales=scales, config=one.to_dict()
    )
