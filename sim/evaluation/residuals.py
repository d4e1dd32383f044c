"""Where predicted times are wrong: errors by binding limit, and what they go along with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.measured import MeasuredTable
from sim.prediction import PricedTable

__all__ = ["GroupError", "Slope", "by_binding", "by_instruction", "slopes"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupError:
    """Errors of those rows of one family that have something in common."""

    kernel: str
    group: str
    rows: int
    tables: int
    mape: float
    bias: float  #: geometric mean of predicted / measured, less 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """How measured over predicted changes with one quantity of a family, others held."""

    kernel: str
    quantity: str  #: a field of the configuration, by doublings; flags by switching them on
    percent: float  #: change of measured / predicted a doubling, in percent
    stderr: float  #: of the same, by leaving out a table at a time
    explained: float  #: share of the variance within tables that this quantity alone explains


def by_binding(tables: Sequence[MeasuredTable], priced: Sequence[PricedTable]) -> list[GroupError]:
    """Errors by family and by the term that the model holds for the limit, most rows first."""

    def groups(table: MeasuredTable, one: PricedTable) -> list[str]:
        names = list(one.terms_us)
        largest = np.argmax(np.stack([one.terms_us[name] for name in names]), axis=0)
        return [names[place] for place in largest]

    return _by_group(tables, priced, groups)


def by_instruction(
    tables: Sequence[MeasuredTable], priced: Sequence[PricedTable]
) -> list[GroupError]:
    """Errors by family, format and the tensor instruction that the compiler chose, where known."""

    def groups(table: MeasuredTable, one: PricedTable) -> list[str]:
        recipe = getattr(table.problem, "recipe", None)
        name = table.problem.formats[0] if recipe is None else recipe.name
        known = (table.facts.get(row) for row in range(len(table)))
        return ["" if facts is None or not facts.mma else f"{name} {facts.mma}" for facts in known]

    return [one for one in _by_group(tables, priced, groups) if one.group]


def _by_group(
    tables: Sequence[MeasuredTable],
    priced: Sequence[PricedTable],
    groups: Callable[[MeasuredTable, PricedTable], list[str]],
) -> list[GroupError]:
    found: dict[tuple[str, str], list[F64]] = {}
    for table, one in zip(tables, priced, strict=True):
        ratio = one.time_us / table.time_us
        names = np.array(groups(table, one))
        for name in np.unique(names).tolist():
            found.setdefault((table.kernel.name, name), []).append(ratio[names == name])
    errors = []
    for (kernel, name), parts in found.items():
        ratios = np.concatenate(parts)
        errors.append(
            GroupError(
                kernel=kernel,
                group=name,
                rows=len(ratios),
                tables=len(parts),
                mape=float(np.abs(ratios - 1).mean()),
                bias=float(np.expm1(np.log(ratios).mean())),
            )
        )
    return sorted(errors, key=lambda one: (-one.rows, one.kernel, one.group))


def slopes(tables: Sequence[MeasuredTable], priced: Sequence[PricedTable]) -> list[Slope]:
    """What the errors within tables go along with: least squares a family, on its fields.

    The level of each table is taken out first, so that this is about choosing, not about the
    shape.  A model that prices a field rightly leaves a slope of zero.  Families with fewer than
    three tables have no standard error and are left out.
    """
    found: list[Slope] = []
    for kernel in dict.fromkeys(table.kernel.name for table in tables):
        mine = [
            (table, np.log(table.time_us / one.time_us))
            for table, one in zip(tables, priced, strict=True)
            if table.kernel.name == kernel
        ]
        if len(mine) >= 3:
            found += _of_family(kernel, mine)
    return found


def _of_family(kernel: str, mine: Sequence[tuple[MeasuredTable, F64]]) -> list[Slope]:
    names = list(mine[0][0].table.columns)
    blocks, errors = [], []
    for table, error in mine:
        block = np.stack([_doublings(table.table[name]) for name in names], axis=1)
        blocks.append(block - block.mean(axis=0))
        errors.append(error - error.mean())
    x, y = np.concatenate(blocks), np.concatenate(errors)
    varied = np.flatnonzero((x**2).sum(axis=0) > 0)
    whole = _fit(x[:, varied], y)
    without = np.array(
        [
            _fit(
                np.concatenate([b for i, b in enumerate(blocks) if i != left])[:, varied],
                np.concatenate([e for i, e in enumerate(errors) if i != left]),
            )
            for left in range(len(blocks))
        ]
    )
    count = len(blocks)
    spread = np.sqrt((count - 1) / count * ((without - without.mean(axis=0)) ** 2).sum(axis=0))
    correlation = [float(x[:, place] @ y) for place in varied]
    alone = [
        c**2 / float((x[:, place] ** 2).sum() * (y**2).sum()) if (y**2).sum() else 0.0
        for c, place in zip(correlation, varied, strict=True)
    ]
    return sorted(
        (
            Slope(
                kernel=kernel,
                quantity=names[place],
                percent=100 * float(np.expm1(whole[i])),
                stderr=100 * float(spread[i]),
                explained=alone[i],
            )
            for i, place in enumerate(varied)
        ),
        key=lambda one: -one.explained,
    )


def _fit(x: F64, y: F64) -> F64:
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], dtype=np.float64)


def _doublings(column: NDArray[Any]) -> F64:
    plain = column.astype(np.float64)
    return plain if column.dtype == np.bool_ else np.log2(np.maximum(plain, 0.5))
