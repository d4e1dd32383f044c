"""The plots of ``docs/cost-model.md``, as SVG texts by file name."""

from collections.abc import Sequence

import numpy as np

import sim
from sim.measured import MeasuredTable
from tiles.kernels import Kernel
from tiles.problems import Gemm
from tiles.recipes import recipe
from workbench.reporting.figure import recipe_colour
from workbench.reporting.svg import Bars, Points, bar_chart, plot

__all__ = ["evaluation_plots"]

#: Recipes by the elements along K that share a scale, for one element each.
_BLOCKS = {
    "int8": ("jetfire", "jetfire-64", "int8-b128", "int8-row"),
    "e4m3fn": ("deepseek-fp8", "e4m3-row"),
}
_LINES = {"int8": "#d9480f", "e4m3fn": "#3b66d6"}
_PREDICTED, _MEASURED, _TERM = "#8a8f98", "#1a7f4b", "#9ecae1"
#: Products whose terms are shown.
_BROKEN_DOWN = 4


def evaluation_plots(tables: Sequence[MeasuredTable], gpu: sim.Gpu) -> dict[str, str]:
    """Every plot that the tables allow.

    Args:
        tables: measured ones; of those in view only the speed-ups are drawn, and called so.
    """
    priced = [
        (table, sim.price(table.problem, table.kernel, table.table, gpu, table.facts))
        for table in tables
        if sim.unpriced(table.problem, table.kernel) is None
    ]
    found = {
        "predicted-measured.svg": _scatter(priced),
        "block-size.svg": _block_sizes(tables, gpu),
        "terms.svg": _terms(priced),
    }
    return {name: text for name, text in found.items() if text is not None}


def _scatter(priced: Sequence[tuple[MeasuredTable, sim.PricedTable]]) -> str | None:
    groups: dict[tuple[str, str, bool], list[tuple[float, float]]] = {}
    for table, one in priced:
        named = getattr(table.problem, "recipe", None)
        key = (table.kernel.name, "" if named is None else named.name, table.in_view)
        # Both axes to a tenth of a percent: files stay small.
        pairs = zip(table.time_us.tolist(), one.time_us.tolist(), strict=True)
        groups.setdefault(key, []).extend(pairs)
    judged = {key: xy for key, xy in groups.items() if not key[2]}
    if not judged:
        return None
    return plot(
        "Predicted against measured, every judged configuration",
        [
            Points(name=f"{kernel} {name}", colour=recipe_colour(name), xy=xy, size=1.8)
            for (kernel, name, _), xy in judged.items()
        ],
        x_title="measured, us",
        y_title="predicted, us",
        log=True,
        diagonal=True,
    )


def _block_sizes(tables: Sequence[MeasuredTable], gpu: sim.Gpu) -> str | None:
    """Speed-up over bf16 against the scales' block: the model's line, measured points."""
    gemms = [one for one in tables if isinstance(one.problem, Gemm) and one.cold]
    best: dict[tuple[str, tuple[int, ...], str], tuple[float, MeasuredTable]] = {}
    for one in gemms:
        name = one.problem.recipe.name  # type: ignore[attr-defined]
        key = (one.kernel.name, one.problem.shape, name)
        time = float(one.time_us.min())
        if key not in best or time < best[key][0]:
            best[key] = (time, one)
    blocks = {name for names in _BLOCKS.values() for name in names}
    counts: dict[tuple[str, tuple[int, ...]], int] = {}
    for kernel, shape, name in best:
        if (kernel, shape, "bf16") in best and name in blocks:
            counts[kernel, shape] = counts.get((kernel, shape), 0) + 1
    if not counts:
        return None
    kernel_name, shape = max(counts, key=lambda key: (counts[key], key))
    m, n, k = shape
    baseline_us, table = best[kernel_name, shape, "bf16"]
    series = []
    predicted_bf16 = _best_us(table.kernel, shape, "bf16", gpu)
    for element, names in _BLOCKS.items():
        line, points = [], []
        for name in names:
            place = _place(name)
            told = _best_us(table.kernel, shape, name, gpu)
            if told is not None and predicted_bf16 is not None:
                line.append((place, predicted_bf16 / told))
            if (kernel_name, shape, name) in best:
                points.append((place, baseline_us / best[kernel_name, shape, name][0]))
        colour = _LINES[element]
        if line:
            series.append(
                Points(name=f"{element}, model", colour=colour, xy=line, line=True, marks=False)
            )
        if points:
            seen = " (in view)" if table.in_view else ""
            series.append(
                Points(name=f"{element}, measured{seen}", colour=colour, xy=points, size=5.0)
            )
    return plot(
        f"Speed-up over bf16 against the scales' block, {m} x {n} x {k}, {kernel_name}",
        series,
        x_title="elements along K under one scale",
        y_title="speed-up over bf16",
        x_ticks=[(5, "32"), (6, "64"), (7, "128"), (8, "a row")],
        level=1.0,
    )


def _place(name: str) -> float:
    """Where a recipe stands on the axis: log2 of its weights' block along K, rows behind them."""
    scaling = recipe(name).weight.scaling
    assert scaling is not None
    return 8.0 if scaling.cols is None else float(np.log2(scaling.cols))


def _best_us(kernel: Kernel, shape: tuple[int, ...], name: str, gpu: sim.Gpu) -> float | None:
    """The fastest predicted time over the whole legal space."""
    m, n, k = shape
    problem = Gemm(m=m, n=n, k=k, recipe=recipe(name))
    if kernel.refusal(problem, gpu.limits) is not None:
        return None
    space = kernel.legal_space(problem, gpu.limits).accepted
    return float(sim.price(problem, kernel, space, gpu).time_us.min()) if len(space) else None


def _terms(priced: Sequence[tuple[MeasuredTable, sim.PricedTable]]) -> str | None:
    """What each resource alone would take, of the fastest measured row of some products."""
    chosen: dict[str, tuple[MeasuredTable, sim.PricedTable]] = {}
    for table, one in priced:
        if not table.in_view:
            chosen.setdefault(f"{table.kernel.name} {table.problem.tokens}", (table, one))
    groups = []
    for table, one in list(chosen.values())[:_BROKEN_DOWN]:
        row = int(np.argmin(table.time_us))
        groups.append(
            Bars(
                title=str(table),
                bars=[
                    *((name, float(column[row]), _TERM) for name, column in one.terms_us.items()),
                    ("predicted time", float(one.time_us[row]), _PREDICTED),
                    ("measured time", float(table.time_us[row]), _MEASURED),
                ],
            )
        )
    if not groups:
        return None
    return bar_chart(
        "Terms of the fastest measured configuration: what each resource alone would take",
        groups,
        x_title="microseconds; terms overlap and do not add up",
    )
