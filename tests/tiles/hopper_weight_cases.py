"""Problems of Hopper's weight-only products, and what their launchers are told of formats."""

from typing import Any

from tiles.kernels import hopper_weight_only_rules as rules
from tiles.kernels.weight_only_resources import group_columns
from tiles.problems import Gemm
from tiles.recipes import Recipe


def gemm(shape: str, weight: str, activation: str = "bf16", out: str = "bf16") -> Gemm:
    m, n, k = map(int, shape.split("x"))
    recipe = Recipe.of("pair", activation=activation, weight=weight, source="a test")
    return Gemm(m=m, n=n, k=k, recipe=recipe, out=out)


def formats(problem: Gemm) -> dict[str, Any]:
    weight = problem.recipe.weight
    return {
        "weight": weight.element.name,
        "scale_format": rules.scale_format(weight),
        "group": group_columns(weight),
    }
