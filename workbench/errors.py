"""``workbench error``: what number formats lose, on simulated data and on real weights."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sim.error import Accumulation, numpy_rounder
from tiles.formats import TensorFormat
from tiles.intake import shown
from tiles.recipes import Recipe
from workbench.arguments import path_of
from workbench.error_inputs import (
    accumulation_of,
    chosen_formats,
    chosen_recipes,
    data_kinds,
    extents,
    is_matrix,
    matrices,
)
from workbench.matrix_errors import SAMPLE_ROWS, ProductRow, TensorRow, matrix_errors
from workbench.outfile import check_outfile
from workbench.slices import worker_threads
from workbench.weight_report import WeightReport, error_dict
from workbench.weights import candidate_formats, rank_weights

if TYPE_CHECKING:
    from workbench.checkpoint import StoredTensor

__all__ = ["ErrorReport", "error"]

F32 = NDArray[np.float32]

SCHEMA = "tile-workbench/error/1"
DEFAULT_SHAPE = (1024, 1024)
#: What an element takes: as data, and while it is rounded, once a thread (stochastically: most).
DATA_BYTES, ROUNDED_BYTES = 4, 32
MAX_SEED = 2**61


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorReport:
    """What :func:`error` answers: errors of simulated data, or of a checkpoint's weights."""

    seed: int
    shape: tuple[int, int] | None = None  #: of the activations; ``None`` for a checkpoint
    weight_shape: tuple[int, int] | None = None
    accumulation: str = "exact"  #: as asked for; each product says what was modelled
    tensors: tuple[TensorRow, ...] = ()
    products: tuple[ProductRow, ...] = ()
    weights: WeightReport | None = None

    @property
    def product_shape(self) -> tuple[int, int, int]:
        """(M, N, K) of the products: the first rows of either side, over all of K."""
        assert self.shape is not None
        assert self.weight_shape is not None
        rows, cols = self.shape
        return min(SAMPLE_ROWS, rows), min(SAMPLE_ROWS, self.weight_shape[0]), cols

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping with a schema version; an SQNR of ``null`` is that of no error."""
        answer: dict[str, Any] = {"schema": SCHEMA, "seed": self.seed}
        if self.weights is not None:
            return answer | {"weights": self.weights.to_dict()}
        assert self.shape is not None
        assert self.weight_shape is not None
        return answer | {
            "shape": list(self.shape),
            "weight_shape": list(self.weight_shape),
            "product_shape": list(self.product_shape),
            "accumulation": self.accumulation,
            # The same values under the gradients' formats.
            "gradient_data": "activations",
            "tensors": [
                {
                    "recipe": row.recipe,
                    "data": row.data,
                    "operand": row.operand,
                    "format": str(row.format),
                    "outliers": row.outliers,
                    "bits_per_element": row.bits_per_element,
                    "expected_sqnr_db": _finite(row.expected_sqnr_db),
                    **error_dict(row.error),
                }
                for row in self.tensors
            ],
            "products": [
                {
                    "recipe": row.recipe,
                    "data": row.data,
                    "accumulation": row.error.accumulation,
                    "sqnr_db": _finite(row.error.sqnr_db),
                    "relative_rms": row.error.relative_rms,
                    "relative_max": row.error.relative_max,
                    "output": str(row.output),
                    "output_sqnr_db": _finite(row.output_error.sqnr_db),
                    "output_relative_rms": row.output_error.relative_rms,
                    "output_relative_max": row.output_error.relative_max,
                }
                for row in self.products
            ],
        }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def error(
    *,
    recipes: str | Recipe | Sequence[str | Recipe] | None = None,
    formats: str | TensorFormat | Sequence[str | TensorFormat] | None = None,
    shape: str | tuple[int, int] | None = None,
    weight_shape: str | tuple[int, int] | None = None,
    data: str | Sequence[str] | Mapping[str, Any] | Any = None,
    weights: str | Path | None = None,
    html: str | Path | None = None,
    seed: int = 0,
    accumulation: str | Accumulation | None = None,
    progress: "Callable[[StoredTensor, int, int], None] | None" = None,
) -> ErrorReport:
    """Quantise data under recipes and formats and say what was lost; no GPU is needed.

    Args:
        recipes: names or recipes, or ``"all"``; without any and without formats, all.  With
            ``weights``, their weight formats.
        formats: tensor formats or their texts, e.g. ``e4m3fn.mx``.
        shape: (rows, K) of the activations, or ``"RxC"``; 1024 x 1024 unless said.
        weight_shape: (N, K) of the weights; that of the activations unless said.
        data: kinds of simulated data, or ``"all"``; or a (rows, K) floating-point matrix of your
            own, NumPy's or torch's, or name to several, beside normal weights.  Unless said, normal
            and outlier.
        weights: a ``.safetensors`` checkpoint, its index, or a folder of either: formats are ranked
            on its weight matrices instead of on simulated data.
        html: also write the ranking of ``weights`` as one self-contained page.
        seed: of data and of stochastic rounding.
        accumulation: of products with e4m3fn or e5m2 on both sides: ``exact``, ``hopper-fp8``, or
            with promotion every so many of K, a multiple of 32, ``hopper-fp8+128``; sums of others
            are exact.
        progress: called with the tensor of ``weights`` at hand, and elements done and in all.
    Raises:
        ValueError: an unknown name, an impossible or too large shape, data with a NaN or an
            infinity, or a checkpoint that cannot be read; the message names tensor and rule.
        TypeError: data that are no floating-point numbers, or an argument of another type.
    """
    chosen = chosen_recipes(recipes, default=not formats and weights is None)
    wanted = chosen_formats(formats)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < MAX_SEED:
        raise ValueError(f"seed {shown(seed)}: write an integer of at least 0 and below 2^61")
    if weights is None:
        if html is not None:
            raise ValueError("a page is written about a checkpoint: add --weights, or use --json")
        return _simulated(chosen, wanted, shape, weight_shape, data, seed, accumulation)
    simulated = (shape, weight_shape, data, accumulation)
    for name, value in zip(
        ("shape", "weight shape", "data", "accumulation"), simulated, strict=True
    ):
        if value is not None:
            raise ValueError(f"{name} belongs to simulated data: drop it, or drop --weights")
    page = None if html is None else path_of("html", html)
    if page is not None:
        from workbench.reporting.weights import SCHEMA as PAGE_SCHEMA

        check_outfile(page, PAGE_SCHEMA)  # a checkpoint takes minutes
    candidates = list(dict.fromkeys([*(r.weight for r in chosen), *wanted])) or candidate_formats()
    ranked = rank_weights(
        path_of("weights", weights),
        candidates,
        seed=seed,
        progress=progress or (lambda tensor, done, total: None),
    )
    if page is not None:
        from workbench.reporting import write_weights_page

        write_weights_page(ranked, page)
    return ErrorReport(seed=seed, weights=ranked)


def _simulated(
    recipes: Sequence[Recipe],
    formats: Sequence[TensorFormat],
    shape: str | tuple[int, int] | None,
    weight_shape: str | tuple[int, int] | None,
    data: Any,
    seed: int,
    accumulation: str | Accumulation | None,
) -> ErrorReport:
    accumulation = accumulation_of(accumulation)
    if is_matrix(data):
        data = {"data": data}
    if isinstance(data, Mapping):
        if shape is not None:
            raise ValueError("the shape is that of the data that were given: leave it out")
        activations: dict[str, F32 | None] = matrices(data)
        shape = next(x.shape for x in activations.values() if x is not None)
    else:
        activations = dict.fromkeys(data_kinds(data))
    rows, cols = extents("shape", DEFAULT_SHAPE if shape is None else shape)
    other = extents("weight shape", (rows, cols) if weight_shape is None else weight_shape)
    if other[1] != cols:
        raise ValueError(
            f"weight shape {other[0]}x{other[1]}: its last extent is K, {cols} as in the "
            f"activations: write {other[0]}x{cols}"
        )
    _check_memory(rows * cols, other[0] * cols)
    tensors, products = matrix_errors(
        recipes,
        formats,
        activations,
        shape=(rows, cols),
        weight_shape=other,
        seed=seed,
        accumulation=accumulation,
        rounder=numpy_rounder,
    )
    return ErrorReport(
        seed=seed,
        shape=(rows, cols),
        weight_shape=other,
        accumulation=str(accumulation),
        tensors=tuple(tensors),
        products=tuple(products),
    )


def _check_memory(activations: int, weights: int) -> None:
    """Refuse a shape that would drive the machine out of memory."""
    needed = DATA_BYTES * (activations + weights)
    needed += ROUNDED_BYTES * worker_threads() * max(activations, weights)
    free = _free_bytes()
    if needed > free:
        raise ValueError(
            f"{activations} activations and {weights} weights take about {needed} bytes, "
            f"{free} are free: choose a smaller shape"
        )


def _free_bytes() -> int:
    """Memory that can be had without swapping."""
    try:
        text = Path("/proc/meminfo").read_text()
        return int(text.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):  # not Linux
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
