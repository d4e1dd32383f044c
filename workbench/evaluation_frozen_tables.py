"""Grids of what was measured after the cost model was frozen."""

from collections.abc import Mapping
from typing import Any

from workbench.grid import NONE, Grid, beside, joined, number, percent

__all__ = ["frozen_grid", "mended_grid"]


def frozen_grid(found: Mapping[str, Any]) -> Grid:
    """What sweeps predicted before they measured, beside what they measured."""
    chosen = [one for one in found["frozen"] if (one["model"], one["shapes"]) == ("frozen", "all")]
    return Grid(
        title="Measured after the model was frozen",
        columns=(
            "family",
            "mode",
            "rows",
            "studies",
            "predicted, us",
            "measured, us",
            "error: mean / median / P90, %",
            "bias, %",
            "Spearman",
            "top-1 (worst), %",
            "in the 90 % interval, %",
        ),
        rows=[
            (
                one["family"],
                one["mode"] or "all",
                str(one["rows"]),
                str(one["tables"]),
                f"{one['predicted_us']:.1f}",
                f"{one['measured_us']:.1f}",
                joined(one, "mape", "median_error", "p90_error"),
                percent(one["bias"]),
                number(one["spearman"]),
                beside(one["top1"], one["top1_worst"], percent),
                percent(one["covered"], 0),
            )
            for one in chosen
        ],
        note="What the sweeps predicted before they measured, nothing mended since; times are "
        "geometric means over the rows. Searches chose these rows by the same predictions: "
        "Spearman is the median over studies of four rows and more, top-1 the best that was "
        "measured over the time of the one predicted fastest.",
    )


def mended_grid(found: Mapping[str, Any]) -> Grid:
    """The same rows as predicted then and now, by the shapes that constants were set on."""
    parts = {(o["family"], o["mode"], o["shapes"], o["model"]): o for o in found["frozen"]}
    rows = []
    for family, mode in dict.fromkeys((o["family"], o["mode"]) for o in found["frozen"]):
        cells = [family, mode or "all"]
        for shapes in ("set on", "held out"):
            for model in ("frozen", "now"):
                one = parts.get((family, mode, shapes, model))
                if model == "frozen":
                    cells.append(NONE if one is None else str(one["rows"]))
                cells.append(
                    NONE if one is None else f"{percent(one['mape'])} ({percent(one['bias'])})"
                )
        rows.append(cells)
    return Grid(
        title="The same rows, before and after constants were set on half of their shapes",
        columns=(
            "family",
            "mode",
            "rows, shapes set on",
            "frozen: MAPE (bias), %",
            "now",
            "rows, shapes held out",
            "frozen: MAPE (bias), %",
            "now",
        ),
        rows=rows,
        note="Which shapes these are stands in the set's card. `now` is the model as it is.",
    )
