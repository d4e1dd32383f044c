"""The three products of a linear layer under a recipe: forward, dgrad and wgrad.

For ``Y = X·W^T`` with gradient G of Y: ``dX = G·W`` contracts over output features and
``dW = G^T·X`` over tokens.  All are problems ``A·B^T`` with K contiguous; a tensor that enters
another product with its other axis contracted is there as a transposed copy, codes at least.
A recipe's formats say what every scaling runs along: the contraction of the product at hand.
"""

from dataclasses import replace

from sim.network.block import Linear
from tiles.formats import TensorFormat
from tiles.formats.rounding import Rounding
from tiles.problems import Gemm
from tiles.recipes import Recipe

__all__ = ["codes_between", "dgrad", "forward", "nearest", "wgrad", "wide_name"]


def wide_name(recipe: Recipe) -> str:
    """The 16-bit element of the residual stream and of weight gradients."""
    return recipe.residual.element.name


def codes_between(recipe: Recipe) -> bool:
    """True where products leave codes, and operators between them take and leave codes."""
    return recipe.output.scaling is not None


def nearest(fmt: TensorFormat) -> TensorFormat:
    """The format as its readers see it: how codes were rounded is no matter of theirs."""
    return replace(fmt, rounding=Rounding.NEAREST_EVEN)


def _of(recipe: Recipe, pass_: str, left: TensorFormat, right: TensorFormat) -> Recipe:
    return replace(
        recipe,
        name=f"{recipe.name}-{pass_}",
        activation=nearest(left),
        weight=nearest(right),
        source=f"{pass_} of {recipe.name}",
    )


def forward(linear: Linear, tokens: int, recipe: Recipe) -> Gemm:
    """``Y[tokens, n] = X[tokens, k] · W[n, k]^T`` in the recipe's output format."""
    return Gemm(m=tokens, n=linear.n, k=linear.k, recipe=recipe, out=str(recipe.output))


def dgrad(linear: Linear, tokens: int, recipe: Recipe) -> Gemm:
    """``dX[tokens, k] = G[tokens, n] · W[n, k]``: gradients by weights."""
    out = str(recipe.gradient) if codes_between(recipe) else wide_name(recipe)
    one = _of(recipe, "dgrad", recipe.gradient, recipe.weight)
    return Gemm(m=tokens, n=linear.k, k=linear.n, recipe=one, out=out)


def wgrad(linear: Linear, tokens: int, recipe: Recipe) -> Gemm:
    """``dW[n, k] = G[tokens, n]^T · X[tokens, k]``: gradients by activations, in 16 bits."""
    one = _of(recipe, "wgrad", recipe.gradient, recipe.activation)
    return Gemm(m=linear.n, n=linear.k, k=tokens, recipe=one, out=wide_name(recipe))
