"""Few configurations that stand for the legal ones of several recipes.

A compilation takes a second.  What may spill is the largest tile, so that of every recipe is there;
which tile it is otherwise, and what the other fields are, changes code that the recipes share, so
once for all of them is enough.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tiles.kernels import ConfigTable, TileConfig

__all__ = ["sample"]


def sample(
    tables: Mapping[str, ConfigTable], *, apart: Sequence[str], free: Sequence[str] = ()
) -> dict[str, list[TileConfig]]:
    """Choose configurations greedily, each for the most that is still missing.

    Of every recipe and kind (the values of ``apart``) there is the largest tile; of all recipes
    together, every tile of every kind, and every value of every field that is not ``free``.

    Args:
        tables: what is legal, by recipe; all of one family.
        apart: fields that change how registers are shared out.
        free: fields that are but constants of one program.
    Returns:
        Those chosen, by recipe.
    """
    names = list(tables)
    sizes = [len(tables[name]) for name in names]
    recipe = np.repeat(np.arange(len(names)), sizes)
    columns = {
        field: np.concatenate([tables[name][field] for name in names]).astype(np.int64)
        for field in tables[names[0]].columns
    }
    area = columns["block_m"] * columns["block_n"]
    kind = _numbered([columns[field] for field in apart])
    group = _numbered([recipe, kind])
    largest = np.zeros(len(recipe), dtype=bool)
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        largest[rows] = area[rows] == area[rows].max()
    values = [_numbered([np.where(largest, group, -1)])]
    values += [_numbered([columns["block_m"], columns["block_n"], kind])]
    values += [_numbered([column]) for field, column in columns.items() if field not in free]
    missing = [np.ones(value.max() + 1, dtype=bool) for value in values]
    if not largest.all():
        missing[0][0] = False  # a smaller tile is nothing that is missing
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    while any(one.any() for one in missing):
        gains = sum(one[value].astype(np.int64) for one, value in zip(missing, values, strict=True))
        chosen.append(int(rng.choice(np.flatnonzero(gains == gains.max()))))
        for one, value in zip(missing, values, strict=True):
            one[value[chosen[-1]]] = False
    starts = np.cumsum([0, *sizes]).tolist()
    return {
        name: [tables[name].config(row - start) for row in chosen if names[recipe[row]] == name]
        for name, start in zip(names, starts[:-1], strict=True)
    }


def _numbered(columns: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """A number from 0 for every row of columns that another row does not repeat."""
    return np.unique(np.stack(columns), axis=1, return_inverse=True)[1]
