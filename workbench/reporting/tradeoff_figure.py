"""The plot of time, energy and error: where a bubble stands, and how large it is."""

from collections.abc import Sequence
from typing import Any

from workbench.reporting.download import csv_text
from workbench.reporting.figure import GREY, Figure, View, axis, label, recipe_colour
from workbench.reporting.tradeoff import Tradeoff, TradeoffFront, names

__all__ = ["HEADS", "cells", "tradeoff_csv", "tradeoff_figure"]

#: Diameter of the bubble with the most energy, and the least of any, in pixels.
LARGEST, LEAST = 32.0, 7.0
#: Columns of the data; what is measured, simulated and predicted has columns of its own.
HEADS = (
    "shape",
    "recipe",
    "kernel",
    "path",
    "measured time, us",
    "simulated time, us",
    "predicted time, us",
    "measured energy, mJ",
    "simulated energy, mJ",
    "predicted energy, mJ",
    "SQNR normal, dB",
    "SQNR outlier, dB",
    "launches",
    "Pareto",
    "configuration",
)


def cells(shape: str, row: Tradeoff, kept: bool) -> list[object]:
    """A row of the data."""
    told, nothing = (row.time_us, row.energy_mj), (None, None)
    measured, simulated = (nothing, told) if row.simulated else (told, nothing)
    return [
        shape,
        row.recipe,
        row.kernel,
        row.path,
        measured[0],
        simulated[0],
        row.predicted_us,
        measured[1],
        simulated[1],
        row.predicted_energy_mj,
        row.sqnr_normal_db,
        row.sqnr_outlier_db,
        row.launches,
        "yes" if kept else "no",
        row.config,
    ]


def tradeoff_csv(found: Sequence[TradeoffFront]) -> str:
    """Every entry, beaten ones included."""
    return csv_text(
        HEADS,
        [
            cells(one.shape, row, kept)
            for one in found
            for row, kept in zip(one.rows, one.front, strict=True)
        ],
    )


def tradeoff_figure(found: Sequence[TradeoffFront]) -> Figure | None:
    """A view for every shape."""
    drawn = [one for one in found if any(row.sqnr_normal_db is not None for row in one.rows)]
    if not drawn:
        return None
    kinds = {one.simulated for one in drawn}
    return Figure(
        key="time-energy-error",
        title="Time, energy and error",
        views=[
            _view(one, one.shape if len(kinds) == 1 else f"{one.shape}, {one.time_word}")
            for one in drawn
        ],
        height_px=460,
        notes=[
            "Down is faster, right is more exact, and a bubble's area is the energy of a launch. "
            "Those in full colour are not beaten: no other is at least as good in time, energy and "
            "error, and better in one.",
            "The noise is computed in simulation of the quantised product, not measured.",
        ],
        csv=tradeoff_csv(found),
    )


def _view(one: TradeoffFront, name: str) -> View:
    pairs = one.drawn()
    most = max(one.energy_mj(row) for row, _ in pairs)
    whole = all(row.with_quantize for row, _ in pairs)
    xs = [row.sqnr_normal_db or 0.0 for row, _ in pairs]
    room = max(2.0, 0.18 * (max(xs) - min(xs)))
    times = [row.time_us for row, _ in pairs]
    space = 0.15 * (max(times) - min(times)) or 0.1 * max(times)
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "x": xs,
        "y": [row.time_us for row, _ in pairs],
        "text": [label(name) for name in names(pairs)],
        "textposition": "middle right",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "hovertext": [_tip(one, row, kept) for row, kept in pairs],
        "hoverinfo": "text",
        "marker": {
            "sizemode": "area",
            "sizeref": 2.0 * most / LARGEST**2,
            "sizemin": LEAST / 2,
            "size": [one.energy_mj(row) for row, _ in pairs],
            "color": [recipe_colour(row.recipe) for row, _ in pairs],
            "opacity": [0.9 if kept else 0.25 for _, kept in pairs],
            "line": {"width": [2 if kept else 0 for _, kept in pairs], "color": GREY},
        },
    }
    how = "with quantising" if whole else "of the product"
    layout = {
        "xaxis": axis("SQNR of the product, dB", range=[min(xs) - room, max(xs) + room]),
        "yaxis": axis(
            f"{one.time_word} time {how}, us", range=[min(times) - space, max(times) + space]
        ),
        "annotations": [
            {
                "text": f"area: {one.energy_word} energy, the largest {most:.4g} mJ",
                "xref": "paper",
                "yref": "paper",
                "x": 0,
                "y": 1,
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "font": {"size": 11},
            }
        ],
    }
    return View(name=name, data=[trace], layout=layout)


def _tip(one: TradeoffFront, row: Tradeoff, kept: bool) -> str:
    beaten = "not beaten" if kept else "beaten"
    return (
        f"{label(row.recipe)} ({label(row.kernel)}), {beaten}<br>"
        f"{row.time_us:.2f} us {one.time_word}<br>"
        f"{one.energy_mj(row):.4g} mJ {one.energy_word}<br>SQNR {row.sqnr_normal_db:.1f} dB<br>"
        f"{label(row.config)}"
    )
