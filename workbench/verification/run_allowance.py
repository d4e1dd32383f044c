"""What a tuned product whose accumulators run on over units along K may be off by besides."""

from collections.abc import Mapping

import torch

from tiles.kernels.accuracy import Reference
from tiles.kernels.accuracy_of_runs import allow_runs, scales_that_count
from tiles.recipes import Recipe

__all__ = ["allow_for"]


def allow_for(
    reference: Reference,
    config: Mapping[str, int | bool],
    recipe: Recipe,
    codes: tuple[torch.Tensor, torch.Tensor],
    scales: tuple[torch.Tensor | None, torch.Tensor | None],
    kept: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Reference:
    """The reference itself, or with wider limits where the configuration has runs.

    Args:
        config: fields of a product's configuration; ``run`` above 1 says that it has runs.
        codes: of A and B.
        scales: of blocks of both, where there are runs.
        kept: rows of A and of B that the reference is of, as bools; ``None``: all.
    """
    if config.get("run", 1) == 1:
        return reference
    sides = []
    for code, scale, fmt in zip(codes, scales, (recipe.activation, recipe.weight), strict=True):
        assert scale is not None
        assert fmt.scaling is not None
        assert fmt.scaling.cols is not None
        sides.append(scales_that_count(code, scale, fmt.scaling.cols))
    if kept is not None:
        sides = [side[rows] for side, rows in zip(sides, kept, strict=True)]
    # 2^-7, of bf16, is the coarsest output's epsilon.
    return allow_runs(reference, sides[0], sides[1], 2.0**-7)
