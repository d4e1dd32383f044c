"""Recipes: which formats the tensors of a linear layer take, by name and with their sources."""

from tiles.recipes.catalogue import RECIPES, recipe
from tiles.recipes.definition import OutlierBlocks, OutlierColumns, Recipe, WeightUpdate

__all__ = ["RECIPES", "OutlierBlocks", "OutlierColumns", "Recipe", "WeightUpdate", "recipe"]
