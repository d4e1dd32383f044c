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

__all__ = ["Fold", "Split", "folds", "group", "parse_split", "shape_name"]

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
    FORMAT = "format"  #: the elements and scales of one recipe, under whatever name
    BLOCK_SIZE = "block-size"  #: all formats whose scales lie in blocks of one shape
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


def shape_name(problem: Problem) -> str:
    """What a split by shape holds out together: ``gemm 4096x4096x4096``, whatever the formats."""
    return f"{problem.kind} {'x'.join(map(str, problem.shape))}"


def group(table: MeasuredTable, split: Split) -> str:
    """What of a table is held out together."""
    problem = table.problem
    match split:
        case Split.ROWS:
            raise ValueError("a split by rows has no groups")
        case Split.SHAPE:
            return shape_name(problem)
        case Split.M_REGIME:
            return _regime(problem.tokens, M_REGIMES)
        case Split.K_REGIME:
            return _regime(problem.shape[-1], K_REGIMES)
        case Split.FORMAT:
            return " by ".join(map(_stored, _operands(problem))) or problem.formats[0]
        case Split.BLOCK_SIZE:
            return " by ".join(map(_extent, _operands(problem))) or problem.formats[0]
        case Split.TEMPLATE:
            return table.kernel.name


def _regime(extent: int, regimes: Sequence[tuple[int | None, str]]) -> str:
    return next(name for end, name in regimes if end is None or extent <= end)


def _operands(problem: Problem) -> tuple[TensorFormat, ...]:
    """Formats of a product's operands, or the one that a pass over memory reads or writes.

    Recipes of other names may store them alike, and are the same kernels then.
    """
    recipe = getattr(problem, "recipe", None)
    if recipe is not None:
        return recipe.activation, recipe.weight
    owned = (getattr(problem, owner, None) for owner in ("target", "source"))
    return tuple(one for one in owned if isinstance(one, TensorFormat))


def _stored(one: TensorFormat) -> str:
    """Element, and extent and element of its scales, however they are rounded and chosen."""
    scaling = one.scaling
    return str(one.element) if scaling is None else f"{one.element} {_extent(one)} {scaling.stored}"


def _extent(one: TensorFormat) -> str:
    """Shape of the blocks that have a scale."""
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
    asked = [_asked(one) for one in tables]
    found = []
    for number in range(RANDOM_FOLDS):
        # Another set may have timed the same configuration on the same problem.
        unseen = {
            asked[index][row]
            for index, part in parts.items()
            for row in np.flatnonzero(part == number).tolist()
        }
        kept = [[row for row, one in enumerate(rows) if one not in unseen] for rows in asked]
        train = tuple(
            one if len(rows) == len(one) else one.take(np.array(rows))
            for one, rows in zip(tables, kept, strict=True)
            if rows
        )
        held_out = tuple(
            (index, np.flatnonzero(parts[index] == number))
            for index, _ in judged
            if (parts[index] == number).any()
        )
        if held_out:
            found.append(Fold(name=f"part {number + 1}", train=train, held_out=held_out))
    return tuple(found) if all(one.train for one in found) else ()


def _asked(table: MeasuredTable) -> list[tuple[str, bytes]]:
    """By row: what was timed, the same in whatever set it stands."""
    columns = [np.asarray(column, np.float64) for column in table.table.columns.values()]
    return [(str(table), row.tobytes()) for row in np.stack(columns, axis=1)]
