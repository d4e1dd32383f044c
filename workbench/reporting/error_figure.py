"""Numerical error against speed: every format a point, the Pareto front a line."""

from collections.abc import Sequence
from operator import attrgetter

from workbench.reporting.comparison import (
    Compared,
    geometric_mean,
    kind_of_times,
    pareto_front,
    shape_text,
)
from workbench.reporting.figure import GREY, Figure, View, axis, label, recipe_colour

__all__ = ["error_against_speed"]


def error_against_speed(rows: Sequence[Compared]) -> Figure | None:
    """Speed-up against the product's signal to quantisation noise; the Pareto front is marked."""
    usable = [row for row in rows if row.speedup_kernel is not None]
    if not usable:
        return None
    views: list[View] = []
    for data, words in (("normal", "normal data"), ("outlier", "data with outlier channels")):
        view = _error_view(f"all shapes, {words}", usable, data)
        if view is not None:
            views.append(view)
    shapes = list(dict.fromkeys(shape_text(row.problem) for row in usable))
    if len(shapes) > 1:
        for shape in shapes:
            mine = [row for row in usable if shape_text(row.problem) == shape]
            view = _error_view(f"{shape}, normal data", mine, "normal")
            if view is not None:
                views.append(view)
    if not views:
        return None
    return Figure(
        key="error-against-speed",
        title="Numerical error against speed",
        views=views,
        height_px=440,
        notes=[
            "Up is faster, right is more exact. The line joins the Pareto front: no other format "
            "of the run is both faster and more exact.",
            "Over all shapes a point is the geometric mean, its bar the range. The noise is "
            "computed in simulation of the quantised product, not measured on the GPU.",
        ],
    )


def _error_view(name: str, rows: Sequence[Compared], data: str) -> View | None:
    # All points by the same rule, or the front would compare unlike things.
    whole = all(row.speedup_with_quantize is not None for row in rows)
    speedup = attrgetter("speedup_with_quantize" if whole else "speedup_kernel")
    points: list[tuple[str, float, list[float]]] = []
    for recipe in dict.fromkeys(row.recipe.name for row in rows):
        mine = [row for row in rows if row.recipe.name == recipe]
        noise = mine[0].sqnr_db(data)
        values = [value for row in mine if (value := speedup(row)) is not None]
        if noise is not None and values:
            points.append((recipe, noise, values))
    if not points:
        return None
    means = [geometric_mean(values) for _, _, values in points]
    front = pareto_front([(noise, mean) for (_, noise, _), mean in zip(points, means, strict=True)])
    scatter = {
        "type": "scatter",
        "mode": "markers+text",
        "x": [noise for _, noise, _ in points],
        "y": means,
        "text": [label(recipe) for recipe, _, _ in points],
        "textposition": _text_positions([noise for _, noise, _ in points], front),
        "textfont": {"size": 11},
        "cliponaxis": False,
        "marker": {
            "opacity": 1,
            "size": [14 if i in front else 9 for i in range(len(points))],
            "color": [recipe_colour(recipe) for recipe, _, _ in points],
            "line": {"width": [2 if i in front else 0 for i in range(len(points))], "color": GREY},
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(v) - m for (_, _, v), m in zip(points, means, strict=True)],
            "arrayminus": [m - min(v) for (_, _, v), m in zip(points, means, strict=True)],
            "color": GREY,
            "thickness": 1,
            "width": 3,
        },
        "hovertemplate": "%{text}<br>%{y:.2f}× bf16<br>SQNR %{x:.1f} dB<extra></extra>",
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": [points[i][1] for i in front],
        "y": [means[i] for i in front],
        "line": {"color": GREY, "dash": "dot", "width": 2},
        "hoverinfo": "skip",
    }
    suffix = "with quantising" if whole else "kernel alone"
    # Room for the names beside the outermost points.
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    room = max(2.0, 0.18 * (high - low))
    layout = {
        "xaxis": axis("SQNR of the product, dB", range=[low - room, high + room]),
        "yaxis": axis(f"{kind_of_times(rows)} speed-up, {suffix}"),
    }
    return View(name=name, data=[line, scatter], layout=layout)


def _text_positions(x: Sequence[float], front: Sequence[int]) -> list[str]:
    """Names above the falling line of the front and below the other points.

    They stand right of the point, clear of its range; left of the outermost one.
    """
    positions = ["top right" if i in front else "bottom right" for i in range(len(x))]
    positions[max(range(len(x)), key=lambda i: x[i])] = "bottom left"
    return positions
