"""A frozen model judged by what was measured after it, and beside it the model as it is now.

Tables here hold what searches chose by the predictions of their time, a handful of rows each, so
they are judged apart from whole spaces and samples of them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sim.evaluation.choice import expected_fraction
from sim.evaluation.errors import time_errors
from sim.evaluation.ranks import spearman
from sim.foretold import Foretold
from sim.gpu import Gpu
from sim.measured import MeasuredTable
from sim.model import price, unpriced
from tiles.kernels import ConfigTable

__all__ = ["MODES", "FrozenPart", "frozen_parts", "modes"]

F64 = NDArray[np.float64]

#: Ways through a scaled product beside the plain one, the first that a row takes names it.
MODES = ("split_k", "stream_k", "specialize", "overlap", "subtiles")
#: Fewer rows have no order to speak of.
MIN_ORDERED = 4
PRODUCTS, MEMORY = "all products", "all memory-bound kernels"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenPart:
    """Some rows of the tables and how one model's predictions stand to them; 0.1 is 10 %.

    Orders and choices are judged within a study: Spearman's of those with at least
    :data:`MIN_ORDERED` rows, the choice of those with two.
    """

    family: str
    mode: str  #: "" for all rows of the family
    shapes: str  #: "all", "set on" or "held out"
    model: str  #: "frozen" or "now"
    rows: int
    tables: int
    predicted_us: float  #: geometric mean over the rows
    measured_us: float  #: likewise
    mape: float
    median_error: float
    p90_error: float
    bias: float
    covered: float  #: share of the rows within the 90 % interval
    spearman: float | None  #: median over studies
    top1: float | None  #: share of the best that was measured, geometric mean over studies
    top1_worst: float | None


def modes(table: ConfigTable) -> NDArray[np.str_]:
    """The mode that each row of a table takes, "plain" where it has none."""
    found = np.full(len(table), "plain", dtype="<U10")
    for name in reversed(MODES):
        if name in table.columns:
            # Of shares of K one is none; everything else is switched on by a value above 0.
            found[np.asarray(table[name]) > (1 if name == "split_k" else 0)] = name
    return found


def frozen_parts(
    tables: Sequence[MeasuredTable], foretold: Sequence[Foretold], gpu: Gpu
) -> list[FrozenPart]:
    """Both models by family, mode and shapes; families in order, sums over all of them last.

    Args:
        tables: measured after their predictions; those in view are the ones that today's constants
            were set on.
        foretold: what was predicted then, of each table.
        gpu: to predict with now.
    """
    now = [
        _now(table, gpu) if unpriced(table.problem, table.kernel) is None else told
        for table, told in zip(tables, foretold, strict=True)
    ]
    named = [modes(table.table) for table in tables]
    families = sorted({one.kernel.name for one in tables})
    parts: list[FrozenPart] = []

    def add(family: str, of: Callable[[MeasuredTable], bool], mode: str = "") -> None:
        picked = [
            (table, told, new, which == mode if mode else np.ones(len(table), np.bool_))
            for table, told, new, which in zip(tables, foretold, now, named, strict=True)
            if of(table)
        ]
        parts.extend(_parts(family, mode, picked))

    for name in families:
        mine = partial(_of_family, name)
        taken = {str(one) for i, table in enumerate(tables) if mine(table) for one in named[i]}
        add(name, mine)
        for mode in ("plain", *MODES) if len(taken) > 1 else ():
            if mode in taken:
                add(name, mine, mode)
    add(PRODUCTS, lambda table: table.problem.flops > 0)
    add(MEMORY, lambda table: table.problem.flops == 0)
    return parts


def _of_family(name: str, table: MeasuredTable) -> bool:
    return table.kernel.name == name


_Picked = tuple[MeasuredTable, Foretold, Foretold, NDArray[np.bool_]]


def _now(table: MeasuredTable, gpu: Gpu) -> Foretold:
    seen = table.blinded()
    priced = price(seen.problem, seen.kernel, seen.table, gpu, seen.facts)
    return Foretold(time_us=priced.time_us, low_us=priced.low_us, high_us=priced.high_us)


def _parts(family: str, mode: str, picked: Sequence[_Picked]) -> Iterator[FrozenPart]:
    for shapes in ("all", "set on", "held out"):
        here = [
            one
            for one in picked
            if one[3].any() and (shapes == "all" or one[0].in_view is (shapes == "set on"))
        ]
        if here:
            yield _part(family, mode, shapes, "frozen", [(t, old, at) for t, old, _, at in here])
            yield _part(family, mode, shapes, "now", [(t, new, at) for t, _, new, at in here])


def _part(
    family: str,
    mode: str,
    shapes: str,
    model: str,
    rows: Sequence[tuple[MeasuredTable, Foretold, NDArray[np.bool_]]],
) -> FrozenPart:
    studies = [(told.time_us[mask], table.time_us[mask]) for table, told, mask in rows]
    predicted, measured = (np.concatenate([one[i] for one in studies]) for i in (0, 1))
    low = np.concatenate([told.low_us[mask] for _, told, mask in rows])
    high = np.concatenate([told.high_us[mask] for _, told, mask in rows])
    errors = time_errors(predicted, measured)
    orders = [spearman(*one) for one in studies if len(one[0]) >= MIN_ORDERED]
    shares = [expected_fraction(*one, 1) for one in studies if len(one[0]) > 1]
    return FrozenPart(
        family=family,
        mode=mode,
        shapes=shapes,
        model=model,
        rows=len(measured),
        tables=len(studies),
        predicted_us=float(np.exp(np.log(predicted).mean())),
        measured_us=float(np.exp(np.log(measured).mean())),
        mape=errors.mape,
        median_error=errors.median,
        p90_error=errors.p90,
        bias=errors.bias,
        covered=float(((low <= measured) & (measured <= high)).mean()),
        spearman=float(np.median(orders)) if orders else None,
        top1=float(np.exp(np.log(shares).mean())) if shares else None,
        top1_worst=float(min(shares)) if shares else None,
    )
