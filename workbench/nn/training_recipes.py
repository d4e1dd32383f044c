"""Which recipes train here, and what of a recipe the layers need."""

import difflib
import math

from tiles.intake import shown
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe, recipe
from workbench.nn.backend import Backend
from workbench.nn.runtime import Runtime, serves_both_directions
from workbench.nn.seeds import SeedStream

__all__ = ["RECIPES", "fallback_share", "training_recipe", "training_runtime"]

#: Recipes that ``convert`` takes by name; those of Jetfire quantise what lies between products too.
RECIPES = (
    "bf16",
    "e4m3-tensor",
    "deepseek-fp8",
    "mxfp8-e4m3",
    "int8-fallback",
    "jetfire",
    "jetfire-64",
    "jetfire-128",
)


def training_recipe(chosen: str | Recipe) -> Recipe:
    """The recipe of a name of ``RECIPES``, or one of your own.

    Raises:
        ValueError: another name, or a recipe that the layers cannot follow.
        TypeError: neither a name nor a recipe.
    """
    if isinstance(chosen, Recipe):
        return _checked(chosen)
    if not isinstance(chosen, str):
        raise TypeError(f"a recipe is a name or a Recipe, not {shown(chosen)}")
    if chosen not in RECIPES:
        near = difflib.get_close_matches(chosen, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"recipe {chosen!r} does not train here: {hint}choose from {', '.join(RECIPES)}"
        )
    return _checked(recipe(chosen))


def _checked(found: Recipe) -> Recipe:
    if isinstance(found.outliers, OutlierColumns):
        raise ValueError(f"recipe {found.name}: columns of outliers are for inference alone")
    formats = {"activation": found.activation, "weight": found.weight, "gradient": found.gradient}
    flows = found.output.scaling is not None
    for name, fmt in formats.items():
        if fmt.scaling is None and fmt.element.bits < 16:
            raise ValueError(
                f"recipe {found.name}: {name} {fmt} has no scales, training needs them"
            )
        if flows and not (fmt.scaling is not None and serves_both_directions(fmt)):
            raise ValueError(
                f"recipe {found.name}: its output {found.output} travels between layers, so "
                f"{name} {fmt} needs square blocks, which serve both directions"
            )
    return found


def fallback_share(found: Recipe, asked: float | None) -> float:
    """Share of activation blocks that fall back to 16 bits: what is asked, or the recipe's own.

    Raises:
        ValueError: not a share, or the recipe has no INT8 blocks of its own for activations.
    """
    own = found.outliers.share if isinstance(found.outliers, OutlierBlocks) else 0.0
    share = own if asked is None else asked
    if not 0 <= share < 1 or math.isnan(share):
        raise ValueError(f"fallback {share}: the share of blocks lies from 0 to below 1")
    fmt = found.activation
    blocks = fmt.scaling is not None and None not in (fmt.scaling.rows, fmt.scaling.cols)
    if share and not (blocks and fmt.plain and fmt.element.name == "int8"):
        raise ValueError(
            f"fallback {share}: blocks of recipe {found.name} are {fmt}, and only INT8 blocks with "
            "fp32 scales fall back; leave it out, or take jetfire"
        )
    return share


def training_runtime(
    chosen: str | Recipe,
    *,
    fallback: float | None = None,
    seed: int = 0,
    backend: Backend | None = None,
) -> Runtime:
    """What the layers of one model share; arguments as of :func:`workbench.nn.convert`.

    Raises:
        ValueError: the recipe, the share or the seed does not fit.
        TypeError: neither a name nor a recipe.
    """
    found = training_recipe(chosen)
    return Runtime(
        recipe=found,
        share=fallback_share(found, fallback),
        seeds=SeedStream(seed),
        given=backend,
    )
