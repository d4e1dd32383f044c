"""Arguments of ``workbench.error``, read and checked once; what is wrong is told in one line."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.error import DATA_KINDS, Accumulation
from tiles.formats import TensorFormat
from tiles.intake import nearest, shown
from tiles.problems import parse_shape
from tiles.recipes import RECIPES, Recipe, recipe
from workbench.arguments import items_of
from workbench.outfile import check_name

__all__ = [
    "accumulation_of",
    "chosen_formats",
    "chosen_recipes",
    "data_kinds",
    "extents",
    "is_matrix",
    "matrices",
]

F32 = NDArray[np.float32]

DEFAULT_DATA = ("normal", "outlier")


def chosen_recipes(recipes: object, *, default: bool) -> list[Recipe]:
    """The recipes that were asked for, in the catalogue's order, a caller's own after them.

    Args:
        default: all of them where none was asked for.
    Raises:
        TypeError: neither names nor recipes.
        ValueError: an unknown name.
    """
    listed = items_of("recipes", recipes, (str, Recipe), "names, recipes or all")
    if "all" in listed or (not listed and default):
        return list(RECIPES.values())
    wanted = [one if isinstance(one, Recipe) else recipe(one) for one in listed]
    known = [one for one in RECIPES.values() if one in wanted]
    return known + [one for one in dict.fromkeys(wanted) if one not in known]


def chosen_formats(formats: object) -> list[TensorFormat]:
    """The tensor formats that were asked for, each once.

    Raises:
        TypeError: neither formats nor texts.
        ValueError: a text that is no format.
    """
    listed = items_of("formats", formats, (str, TensorFormat), "tensor formats or their texts")
    parsed = (one if isinstance(one, TensorFormat) else TensorFormat.parse(one) for one in listed)
    return list(dict.fromkeys(parsed))


def accumulation_of(value: object) -> Accumulation:
    """How sums are modelled; exactly unless said.

    Raises:
        TypeError: neither an accumulation nor a text.
        ValueError: an unknown one.
    """
    if value is None:
        return Accumulation.EXACT
    if isinstance(value, Accumulation):
        return value
    if not isinstance(value, str):
        raise TypeError(f"accumulation {shown(value)}: give a text, e.g. hopper-fp8+128")
    return Accumulation.parse(value)


def is_matrix(data: object) -> bool:
    """True for an array or a tensor, which is data without a name."""
    return isinstance(data, np.ndarray) or hasattr(data, "detach")


def data_kinds(data: object) -> list[str]:
    """The kinds of simulated data that were asked for.

    Raises:
        TypeError: neither names nor matrices.
        ValueError: none, or an unknown one.
    """
    listed = items_of("data", DEFAULT_DATA if data is None else data, str, "names or a matrix")
    if not listed:
        raise ValueError(f"no data given: choose all, {', '.join(DATA_KINDS)}")
    if "all" in listed:
        return list(DATA_KINDS)
    for kind in listed:
        if kind not in DATA_KINDS:
            raise ValueError(
                f"unknown data {shown(kind)}: {nearest(kind, DATA_KINDS)}"
                f"choose all, {', '.join(DATA_KINDS)}"
            )
    return list(dict.fromkeys(listed))


def matrices(data: Mapping[str, Any]) -> "dict[str, F32 | None]":
    """A caller's matrices as contiguous float32, all of one shape.

    Raises:
        TypeError: a name is no text, or a matrix holds no floating-point numbers.
        ValueError: none, several shapes, or a matrix without an error; the message names it.
    """
    found: dict[str, F32 | None] = {}
    first: tuple[int, ...] | None = None
    for name, value in data.items():
        if not isinstance(name, str):
            raise TypeError(f"data {shown(name)}: name a matrix by a text")
        check_name(name)
        x = _matrix(name, value)
        if first is not None and x.shape != first:
            raise ValueError(f"{name}: shape {x.shape} beside {first}: give matrices of one shape")
        first, found[name] = x.shape, x
    if not found:
        raise ValueError("no data given: name a matrix, or leave data out")
    return found


def _matrix(name: str, value: Any) -> F32:
    if hasattr(value, "detach"):  # a torch tensor, of a type that NumPy may not know
        value = value.detach().cpu()
        if not value.is_floating_point():
            raise TypeError(f"{name}: {value.dtype} are no floating-point numbers: cast them first")
        value = value.float().numpy()
    try:
        value = np.asarray(value)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"{name}: {error}: give a matrix (rows, K)") from error
    if not np.issubdtype(value.dtype, np.floating) and value.dtype.name != "bfloat16":
        raise TypeError(f"{name}: {value.dtype} are no floating-point numbers: cast them first")
    if value.ndim != 2 or value.size == 0:
        raise ValueError(f"{name}: shape {value.shape}: give a non-empty matrix (rows, K)")
    with np.errstate(over="ignore"):  # what is beyond fp32 is told below
        x: F32 = np.ascontiguousarray(value, np.float32)
    finite = np.isfinite(x)
    if not finite.all():
        row, col = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name}: {x[row, col]} at row {row}, column {col}, {np.count_nonzero(~finite)} values "
            "that are not finite in fp32: give finite data"
        )
    if not x.any():
        raise ValueError(f"{name}: every value is zero: there is nothing to compare an error with")
    return x


def extents(name: str, shape: object) -> tuple[int, int]:
    """Two extents, from a text or a pair.

    Raises:
        ValueError: neither, or an extent below 1.
    """
    found = parse_shape(shape, 2) if isinstance(shape, str) else shape
    good = isinstance(found, Sequence) and all(
        isinstance(e, int) and not isinstance(e, bool) and e >= 1 for e in found
    )
    if not good or not isinstance(found, Sequence) or len(found) != 2:
        raise ValueError(f"{name} {shown(shape)}: give two extents of at least 1, e.g. 1024x1024")
    return found[0], found[1]
