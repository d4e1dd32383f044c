"""Recipes on one GPU: speed-up over all shapes, measured and predicted apart, beside the error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.reporting.comparison import BASELINE, Compared, geometric_mean
from workbench.reporting.site.gathered import Product

__all__ = ["FormatRow", "Speedup", "format_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """Over bf16: the geometric mean over shapes."""

    kernel: float  #: operands already quantised
    with_quantize: float | None  #: None where some shape lacks the time to quantise
    shapes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatRow:
    """One recipe on one GPU."""

    recipe: str
    path: str  #: "native", "emulated", or both where shapes differ
    measured: Speedup | None  #: None where nothing of it was measured beside bf16
    predicted: Speedup | None  #: of the same configurations, and of simulated runs
    sqnr_normal_db: float | None  #: of the product on normal data, computed
    sqnr_outlier_db: float | None


def format_rows(products: Sequence[Product], gpu: str) -> list[FormatRow]:
    """Every recipe but bf16 that has a product on a GPU beside one in bf16.

    The fastest first: those that were measured, then those that are only predicted.  Where several
    runs have the same product the fastest counts, measured before simulated.
    """
    best: dict[tuple[Any, bool], Compared] = {}
    for product in products:
        row = product.compared
        if product.gpu != gpu or row.baseline_us is None or row.recipe.name == BASELINE:
            continue
        key = (row.problem, row.simulated)
        if key not in best or row.time_us < best[key].time_us:
            best[key] = row
    measured = {problem for problem, simulated in best if not simulated}
    by_recipe: dict[str, list[Compared]] = {}
    for (problem, simulated), row in best.items():
        if not (simulated and problem in measured):
            by_recipe.setdefault(row.recipe.name, []).append(row)
    found = [_row(name, rows) for name, rows in by_recipe.items()]
    return sorted(found, key=_speed, reverse=True)


def _speed(row: FormatRow) -> tuple[bool, float]:
    found = row.measured or row.predicted
    return row.measured is not None, 0.0 if found is None else found.kernel


def _row(name: str, rows: Sequence[Compared]) -> FormatRow:
    return FormatRow(
        recipe=name,
        path=" and ".join(sorted({row.path for row in rows})),
        measured=_speedup(
            [(row.speedup_kernel, row.speedup_with_quantize) for row in rows if not row.simulated]
        ),
        predicted=_speedup(
            [(row.predicted_speedup_kernel, row.predicted_speedup_with_quantize) for row in rows]
        ),
        sqnr_normal_db=rows[0].sqnr_db("normal"),
        sqnr_outlier_db=rows[0].sqnr_db("outlier"),
    )


def _speedup(pairs: Sequence[tuple[float | None, float | None]]) -> Speedup | None:
    kernel = [one for one, _ in pairs if one is not None]
    if not kernel:
        return None
    whole = [one for _, one in pairs if one is not None]
    return Speedup(
        kernel=geometric_mean(kernel),
        with_quantize=geometric_mean(whole) if len(whole) == len(pairs) else None,
        shapes=len(kernel),
    )
