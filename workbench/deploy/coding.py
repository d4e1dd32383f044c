"""How weights are stored, as far as tuned files are named by it."""

from dataclasses import dataclass

from tiles.formats import TensorFormat
from tiles.recipes import Recipe

__all__ = ["Coding", "recipe_coding"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """How a model's weights are stored, as far as files are named by it."""

    label: str | None
    block_shape: tuple[int, int] | None = None
    per_channel: bool = False


def recipe_coding(recipe: Recipe, rows: tuple[int, ...]) -> Coding | None:
    """How files name a recipe; ``None``: they have no name for it.

    Args:
        rows: of activations that may lie under one scale, where scales change along K.
    """
    a, b = recipe.activation, recipe.weight
    element = a.element.name
    if recipe.outliers is not None or b.element.name != element:
        return None
    if a.scaling is None and b.scaling is None:
        return Coding(label=None) if element in ("bf16", "fp16") else None
    label = {"e4m3fn": "fp8_w8a8", "int8": "int8_w8a8"}.get(element)
    if label is None or a.scaling is None or b.scaling is None or not _plain(a, b):
        return None
    if a.scaling.cols is None and b.scaling.cols is None:
        each = (a.scaling.rows, b.scaling.rows)
        if each == (1, 1):
            return Coding(label=label, per_channel=True)
        return Coding(label=label) if each == (None, None) else None
    block = (b.scaling.rows, b.scaling.cols)
    if block[0] is None or block[1] is None or block[0] < 2 or a.scaling.cols != block[1]:
        return None
    return Coding(label=label, block_shape=(block[0], block[1])) if a.scaling.rows in rows else None


def _plain(*formats: TensorFormat) -> bool:
    """fp32 scales by the largest magnitude, as the engines store them."""
    return all(fmt.plain for fmt in formats)
