"""What formats leave of a matrix, and recipes of a product; a matrix meets every format once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.error import (
    Accumulation,
    MatmulError,
    Rounder,
    TensorError,
    expected_sqnr_db,
    outlier_error,
    product_errors,
    sample,
    tensor_error,
)
from tiles.formats import TensorFormat
from tiles.recipes import Recipe
from workbench.slices import worker_threads

__all__ = ["OPERANDS", "SAMPLE_ROWS", "ProductRow", "TensorRow", "matrix_errors"]

F32 = NDArray[np.float32]

#: Rows of activations and of weights, from the top, whose product is compared over all of K.
SAMPLE_ROWS = 256
#: Gradients are stood for by the activations' data: same values, another format.
OPERANDS = ("activation", "weight", "gradient")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """A tensor format on one operand."""

    recipe: str | None  #: ``None`` for a format that was asked for by itself
    data: str
    operand: str  #: one of :data:`OPERANDS`
    format: TensorFormat
    outliers: str | None  #: what of it the recipe stores apart; counted in as it is stored
    bits_per_element: float  #: packed codes with their scales, and the outliers
    error: TensorError
    #: From the distribution; ``None`` where there is no closed form, or beside outliers.
    expected_sqnr_db: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductRow:
    """A recipe's product of up to :data:`SAMPLE_ROWS` rows a side, over all of K."""

    recipe: str
    data: str
    error: MatmulError  #: of the product as it leaves the sums
    output: TensorFormat  #: what the recipe leaves for the operator after it
    output_error: MatmulError  #: of the product rounded to that


@dataclass(slots=True)
class _Matrix:
    """A matrix and what formats make of it."""

    x: F32
    kind: str | None  #: of its distribution; ``None`` for a caller's own
    rounder: Rounder
    seed: int
    top: F32 = field(init=False)
    errors: dict[TensorFormat, TensorError] = field(default_factory=dict)
    tops: dict[TensorFormat, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.top = self.x[:SAMPLE_ROWS]

    def round_all(self, formats: Iterable[TensorFormat]) -> None:
        """Round under every format, a few at a time: NumPy's loops let other threads run."""
        wanted = [fmt for fmt in dict.fromkeys(formats) if fmt not in self.errors]
        with ThreadPoolExecutor(worker_threads()) as pool:
            for _ in pool.map(self.error, wanted):
                pass

    def error(self, fmt: TensorFormat) -> TensorError:
        if fmt not in self.errors:
            self.errors[fmt] = tensor_error(self.x, fmt, self._keep_top, self.seed)
        return self.errors[fmt]

    def _keep_top(self, x: F32, fmt: TensorFormat, seed: int) -> NDArray[Any]:
        rounded = self.rounder(x, fmt, seed)
        self.tops[fmt] = rounded[:SAMPLE_ROWS].copy()
        return rounded

    def rounded_top(self, fmt: TensorFormat) -> NDArray[Any]:
        """The sample's rows under the scales of the whole matrix."""
        self.error(fmt)
        return self.tops[fmt]

    def row(self, fmt: TensorFormat, recipe: str | None, data: str, operand: str) -> TensorRow:
        rows, cols = self.x.shape
        return TensorRow(
            recipe=recipe,
            data=data,
            operand=operand,
            format=fmt,
            outliers=None,
            bits_per_element=8 * fmt.storage_bytes(rows, cols) / self.x.size,
            error=self.error(fmt),
            expected_sqnr_db=(
                None if self.kind is None else expected_sqnr_db(fmt, self.kind, rows, cols)
            ),
        )

    def outlier_row(self, recipe: Recipe, data: str) -> TensorRow:
        """The activations of a recipe that stores outliers apart."""
        assert recipe.outliers is not None
        fmt = recipe.activation
        found = outlier_error(self.x, fmt, recipe.outliers, self.rounder, self.seed)
        return TensorRow(
            recipe=recipe.name,
            data=data,
            operand="activation",
            format=fmt,
            outliers=str(recipe.outliers),
            bits_per_element=found.bits_per_element,
            error=found.error,
            expected_sqnr_db=None,
        )


def _recipe_rows(recipe: Recipe, a: _Matrix, b: _Matrix, data: str) -> Iterator[TensorRow]:
    """Activations, weights and, where the recipe trains, gradients."""
    for operand, matrix in zip(OPERANDS, (a, b, a), strict=True):
        if operand == "activation" and recipe.outliers is not None:
            yield matrix.outlier_row(recipe, data)
        elif operand != "gradient" or recipe.trains:
            yield matrix.row(getattr(recipe, operand), recipe.name, data, operand)


def _product(
    recipe: Recipe, a: _Matrix, b: _Matrix, data: str, accumulation: Accumulation, rounder: Rounder
) -> ProductRow:
    def known(x: F32, fmt: TensorFormat, seed: int) -> NDArray[Any]:
        for matrix in (a, b):
            if x is matrix.top:
                return matrix.rounded_top(fmt)
        return rounder(x, fmt, seed)  # what is left when outliers are taken out

    error, output_error = product_errors(
        recipe,
        a.top,
        b.top,
        rounder=known,
        accumulation=accumulation,
        whole=a.x,
        data=data,
        seed=a.seed,
    )
    return ProductRow(
        recipe=recipe.name,
        data=data,
        error=error,
        output=recipe.output,
        output_error=output_error,
    )


def matrix_errors(
    recipes: Sequence[Recipe],
    formats: Sequence[TensorFormat],
    activations: Mapping[str, F32 | None],
    *,
    shape: tuple[int, int],
    weight_shape: tuple[int, int],
    seed: int,
    accumulation: Accumulation,
    rounder: Rounder,
) -> tuple[list[TensorRow], list[ProductRow]]:
    """Errors of tensors and products, kind of data by kind of data.

    Args:
        recipes: each gives two tensor rows, three where it trains, and a product a kind of data.
        formats: each gives a row on the activations and one on the weights.
        activations: name of the data to a finite (rows, K) matrix, or to ``None`` for a sample of
            the distribution of that name; weights are a sample of it too, and normal beside a
            caller's own matrix.
        shape: of the sampled activations.
        weight_shape: (N, K).
        seed: of data and of stochastic rounding.
    """
    tensors: list[TensorRow] = []
    products: list[ProductRow] = []
    weights: dict[str, _Matrix] = {}
    for data, own in activations.items():
        # Layers whose activations have outlier channels have none in their weights.
        kind = "normal" if own is not None or data == "outlier" else data
        if kind not in weights:
            weights.clear()  # one kind at a time is held
            drawn = sample(kind, *weight_shape, seed=seed, side="weight")
            weights[kind] = _Matrix(drawn, kind, rounder, (4 * seed + 1) % 2**64)
        b = weights[kind]
        x = sample(data, *shape, seed=seed) if own is None else own
        a = _Matrix(x, data if own is None else None, rounder, 4 * seed % 2**64)
        activation = [r.activation for r in recipes]
        a.round_all([*activation, *(r.gradient for r in recipes if r.trains), *formats])
        b.round_all([r.weight for r in recipes] + list(formats))
        for recipe in recipes:
            tensors += _recipe_rows(recipe, a, b, data)
            products.append(_product(recipe, a, b, data, accumulation, rounder))
        for fmt in formats:
            tensors += [a.row(fmt, None, data, "activation"), b.row(fmt, None, data, "weight")]
    return tensors, products
