"""The named recipes."""

from tiles.intake import check_text, nearest, shown
from tiles.recipes.block_recipes import BLOCK_RECIPES
from tiles.recipes.definition import Recipe
from tiles.recipes.float_recipes import FLOAT_RECIPES
from tiles.recipes.int_recipes import INT_RECIPES

__all__ = ["RECIPES", "recipe"]

RECIPES: dict[str, Recipe] = {r.name: r for r in (*FLOAT_RECIPES, *INT_RECIPES, *BLOCK_RECIPES)}


def recipe(name: str) -> Recipe:
    """Look a recipe up by name.

    Raises:
        ValueError: no such recipe; the message names the nearest and lists all.
        TypeError: not a text.
    """
    check_text("a recipe", name)
    if name not in RECIPES:
        raise ValueError(
            f"unknown recipe {shown(name)}: {nearest(name, RECIPES)}"
            f"choose from {', '.join(RECIPES)}"
        )
    return RECIPES[name]
