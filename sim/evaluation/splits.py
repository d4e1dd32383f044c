"""What is held out: a model is judged on rows of which it has seen nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.measured import MeasuredTable
from tiles.formats import TensorFormat
from tiles.intake import nearest, shown
from tiles.problems import Problem

__all__ = ["Fold", "Split", "folds", "group", "parse_split"]

#: Upper ends of the regimes of M: decoding, mixed, prefill and training.
M_REGIMES = ((64, "M <= 64"), (1024, "M 65..1024"), (None, "M > 1024"))
K_REGIMES = ((1024, "K <= 1024"), (4096, "K 1025..4096"), (None, "K > 4096"))
RANDOM_FOLDS = 5
#: Where there are more groups, several are held out together: every fold is a fit.
MAX_FOLDS = 8


class Split(Enum):
    """What a fold holds out."""

    ROWS = "rows"  #: a random fifth of every table's rows: weak, neighbours remain
    SHAPE = "shape"  #: one M x N x K, in every format and family
    M_REGIME = "m-regime"  #: all of decoding, of mixed, or of prefill
    K_REGIME = "k-regime"  #: short, middle or long products
    FORMAT = "format"  #: one recipe
    BLOCK_SIZE = "block-size"  #: all recipes whose scales lie in blocks of one shape
    TEMPLATE = "template"  #: one kernel family


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One part of a split."""

    name: str  #: what is held out
    train: tuple[MeasuredTable, ...]
    held_out: tuple[tuple[int, NDArray[np.int64]], ...]  #: index of a judged table, and its rows


def parse_split(text: str) -> Split:
    """The split of that name.

    Raises:
        ValueError: no such split.
    """
    try:
        return Split(text)
    except ValueError:
        known = [one.value for one in Split]
        raise ValueError(
            f"unknown split {shown(text)}: {nearest(text, known)}choose from {', '.join(known)}"
        ) from None


def group(table: MeasuredTable, split: Split) -> str:
    """What of a table is held out together."""
    problem = table.problem
    match split:
        case Split.ROWS:
            raise ValueError("a split by rows has no groups")
        case Split.SHAPE:
            return f"{problem.kind} {'x'.join(map(str, problem.shape))}"
        case Split.M_REGIME:
            return _regime(problem.tokens, M_REGIMES)
        case Split.K_REGIME:
            return _regime(problem.shape[-1], K_REGIMES)
        case Split.FORMAT:
            recipe = getattr(problem, "recipe", None)
            return problem.formats[0] if recipe is None else str(recipe.name)
        case Split.BLOCK_SIZE:
            return _blocks(problem)
        case Split.TEMPLATE:
            return table.kernel.name


def _regime(extent: int, regimes: Sequence[tuple[int | None, str]]) -> str:
    return next(name for end, name in regimes if end is None or extent <= end)


def _blocks(problem: Problem) -> str:
    """Shapes of the scaled blocks of both operands, whatever the elements."""
    recipe = getattr(problem, "recipe", None)
    if recipe is None:
        return problem.formats[0]
    return f"{_extent(recipe.activation)} by {_extent(recipe.weight)}"


def _extent(one: TensorFormat) -> str:
    scaling = one.scaling
    if scaling is None:
        return "unscaled"
    return "x".join(
        "all" if extent is None else str(extent) for extent in (scaling.rows, scaling.cols)
    )


def folds(tables: Sequence[MeasuredTable], split: Split, *, seed: int = 0) -> tuple[Fold, ...]:
    """Hold out everything once.

    Tables whose times were in view when the model's constants were set are fitted with and never
    judged; nor are they fitted with where they belong to what is held out.

    Args:
        seed: of a split by rows, and of how groups share folds.

    Where there are more groups than :data:`MAX_FOLDS`, a fold holds out several.

    Returns:
        Folds that hold out every row of every judged table exactly once; none where all tables are
        of one group, so that nothing would be left to fit with.
    """
    judged = [(index, one) for index, one in enumerate(tables) if not one.in_view]
    if split is Split.ROWS:
        return _by_rows(tables, judged, seed)
    names = [group(one, split) for one in tables]
    groups = list(dict.fromkeys(names[index] for index, _ in judged))
    found = []
    for together in _dealt(groups, seed):
        train = tuple(one for one, name in zip(tables, names, strict=True) if name not in together)
        held_out: tuple[tuple[int, NDArray[Any]], ...] = tuple(
            (index, np.arange(len(one))) for index, one in judged if names[index] in together
        )
        found.append(Fold(name=", ".join(together), train=train, held_out=held_out))
    return tuple(found) if all(one.train for one in found) else ()


def _dealt(groups: list[str], seed: int) -> list[list[str]]:
    """Groups by fold: one each, or dealt after a shuffle where there are too many."""
    if len(groups) <= MAX_FOLDS:
        return [[name] for name in groups]
    order = np.random.default_rng(seed).permutation(len(groups))
    return [[groups[place] for place in order[first::MAX_FOLDS]] for first in range(MAX_FOLDS)]


def _by_rows(
    tables: Sequence[MeasuredTable], judged: Sequence[tuple[int, MeasuredTable]], seed: int
) -> tuple[Fold, ...]:
    drawn = np.random.default_rng(seed)
    # Dealt in turn after a shuffle: parts of one table differ by one row at most.
    parts = {index: drawn.permutation(len(one)) % RANDOM_FOLDS for index, one in judged}
    found = []
    for number in range(RANDOM_FOLDS):
        train = tuple(
            one.take(np.flatnonzero(parts[index] != number)) if index in parts else one
            for index, one in enumerate(tables)
            if index not in parts or (parts[index] != number).any()
        )
        held_out = tuple(
            (index, np.flatnonzero(parts[index] == number))
            for index, _ in judged
            if (parts[index] == number).any()
        )
        if held_out:
            found.append(Fold(name=f"part {number + 1}", train=train, held_out=held_out))
    return tuple(found)
