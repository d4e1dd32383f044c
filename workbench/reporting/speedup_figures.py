"""Speed-up over bf16 by shape and format, as bars."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from workbench.reporting.comparison import BASELINE, Compared, kind_of_times, shape_text
from workbench.reporting.figure import GREY, Figure, View, axis, label, recipe_colour

__all__ = ["speedups"]


def speedups(rows: Sequence[Compared]) -> list[Figure]:
    """Speed-up over bf16 by shape and format: the kernel alone, then with quantising."""
    kernel = _speedup_bars(
        "speedup-kernel",
        "Kernel alone, operands already quantised",
        rows,
        attrgetter("speedup_kernel"),
    )
    whole = _speedup_bars(
        "speedup-with-quantize",
        "With quantising the activations on every call",
        rows,
        attrgetter("speedup_with_quantize"),
    )
    return [figure for figure in (kernel, whole) if figure is not None]


def _speedup_bars(
    key: str, title: str, rows: Sequence[Compared], speedup: Callable[[Compared], float | None]
) -> Figure | None:
    shown = [row for row in rows if row.recipe.name != BASELINE and speedup(row) is not None]
    if not shown:
        return None
    recipes = list(dict.fromkeys(row.recipe.name for row in shown))
    shapes = list(dict.fromkeys(shape_text(row.problem) for row in shown))
    traces: list[dict[str, Any]] = []
    for name in recipes:
        mine = [row for row in shown if row.recipe.name == name]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(name),
                "y": [shape_text(row.problem) for row in mine],
                "x": [speedup(row) for row in mine],
                "customdata": [[label(row.path), label(row.kernel)] for row in mine],
                "marker": {
                    "color": recipe_colour(name),
                    "pattern": {"shape": ["" if row.path == "native" else "/" for row in mine]},
                },
                "hovertemplate": "%{y}<br>%{x:.2f}× bf16<br>%{customdata[0]}, %{customdata[1]}",
            }
        )
    layout = {
        "barmode": "group",
        "bargap": 0.25,
        "xaxis": axis(f"{kind_of_times(shown)} speed-up over bf16", rangemode="tozero"),
        "yaxis": axis(
            "", autorange="reversed", categoryorder="array", categoryarray=shapes, type="category"
        ),
        "shapes": [
            {
                "type": "line",
                "x0": 1,
                "x1": 1,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": GREY, "dash": "dash", "width": 1.5},
            }
        ],
    }
    return Figure(
        key=key,
        title=title,
        views=[View(name="all", data=traces, layout=layout)],
        legend=[(name, recipe_colour(name)) for name in recipes],
        height_px=min(6000, 90 + len(shapes) * (14 * len(recipes) + 14)),
        notes=["The dashed line is bf16. Hatched bars: emulated on this GPU."],
    )
