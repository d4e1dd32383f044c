"""Which formats a recipe gives to an operator, or why none."""

from collections.abc import Iterable

from tiles.formats import Rounding, TensorFormat
from tiles.intake import shown
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe, recipe
from workbench.ptq.scheme import Kind

__all__ = ["ptq_recipe", "refusal", "roles", "weight_only"]

#: Operands of each kind that are activations.
_ROLES = {
    Kind.LINEAR: ("input",),
    Kind.CONV: ("input",),
    Kind.MATMUL: ("left", "right"),
    Kind.EMBEDDING: (),
    Kind.LAYERNORM: ("input",),
    Kind.BATCHNORM: ("input",),
    Kind.ADD: ("left", "right"),
    Kind.MUL: ("left", "right"),
}


def ptq_recipe(chosen: str | Recipe) -> Recipe:
    """A recipe by its name, or one of your own, that trained models can be quantised by.

    Raises:
        ValueError: an unknown name, or a recipe of training alone.
        TypeError: neither a name nor a recipe.
    """
    if not isinstance(chosen, str | Recipe):
        raise TypeError(f"a recipe is a name or a Recipe, not {shown(chosen)}")
    found = recipe(chosen) if isinstance(chosen, str) else chosen
    if isinstance(found.outliers, OutlierBlocks):
        raise ValueError(
            f"recipe {found.name}: blocks that fall back are chosen step by step in training; "
            "for a trained model take int8-b128, or llm-int8 for outliers apart"
        )
    for what, fmt in (("activation", found.activation), ("weight", found.weight)):
        if fmt.rounding is Rounding.STOCHASTIC:
            raise ValueError(
                f"recipe {found.name}: {what} {fmt} is rounded stochastically, which is for "
                "training; leave out +sr"
            )
    return found


def weight_only(found: Recipe) -> bool:
    """True where activations keep 16 bits and weights do not."""
    return found.activation.element.bits >= 16 > found.weight.element.bits


def refusal(kind: Kind, found: Recipe, kinds: Iterable[Kind], scheme: str) -> str:
    """Why an operator of a kind stays in high precision; empty when it does not."""
    if kind not in kinds:
        return f"the {scheme} scheme leaves {kind} alone"
    if weight_only(found) and kind not in (Kind.LINEAR, Kind.CONV):
        return f"{found.name} quantises the weights of products alone"
    if isinstance(found.outliers, OutlierColumns) and kind is not Kind.LINEAR:
        return f"{found.name} is about linear layers"
    return ""


def roles(kind: Kind, found: Recipe) -> dict[str, TensorFormat]:
    """Formats of an operator's activations, by their role."""
    return dict.fromkeys(_ROLES[kind], found.activation)
