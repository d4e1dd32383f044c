"""Few configurations that stand for a space: compiling all of it would take hours.

Faults of a compiler or a template mostly need two things to meet, such as a deep pipeline and a
tail, so the sample holds every pair of values of two fields that the space holds (pairwise
testing), the problem being one more field.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from tiles.kernels import ConfigTable, TileConfig

__all__ = ["covering"]


def covering(tables: Sequence[ConfigTable], most: int | None = None) -> list[list[TileConfig]]:
    """Choose configurations greedily, each for the most pairs that are still missing.

    Args:
        tables: what is legal, one of each problem; all of one family.
        most: as many at most, all problems together; None: until no pair is missing.
    Returns:
        Those chosen, a list of each table.
    """
    sizes = [len(table) for table in tables]
    problem = np.repeat(np.arange(len(tables)), sizes)
    columns = [problem] + [
        np.concatenate([table[name] for table in tables]).astype(np.int64)
        for name in tables[0].columns
    ]
    values = [np.unique(column, return_inverse=True)[1] for column in columns]
    pairs = [first * (second.max() + 1) + second for first, second in combinations(values, 2)]
    missing = [np.bincount(pair) > 0 for pair in pairs]
    chosen: list[int] = []
    while any(one.any() for one in missing) and (most is None or len(chosen) < most):
        gains = sum(one[pair].astype(np.int64) for one, pair in zip(missing, pairs, strict=True))
        row = int(np.argmax(gains))
        chosen.append(row)
        for one, pair in zip(missing, pairs, strict=True):
            one[pair[row]] = False
    starts = np.cumsum([0, *sizes])
    return [
        [table.config(row - start) for row in chosen if problem[row] == index]
        for index, (table, start) in enumerate(zip(tables, starts[:-1].tolist(), strict=True))
    ]
