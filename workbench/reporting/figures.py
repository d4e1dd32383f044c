"""The plots of the page, as plain data; nothing here imports plotly."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tuning import Run, StudyRecord
from workbench.reporting.comparison import (
    BASELINE,
    Compared,
    geometric_mean,
    pareto_front,
    shape_text,
)
from workbench.reporting.figure import Figure, View, axis, label, recipe_colour

__all__ = [
    "convergence",
    "error_against_speed",
    "predicted_against_measured",
    "rejections",
    "speedups",
]

_GREY = "#888888"  #: reference lines, visible on white and on black
_GOOD, _BAD = "#2f9e69", "#d9480f"


def speedups(rows: Sequence[Compared]) -> list[Figure]:
    """Speed-up over bf16 by shape and format: the kernel alone, then with quantising."""
    kernel = _speedup_bars(
        "speedup-kernel", "Kernel alone, operands already quantised", rows, _speedup_kernel
    )
    whole = _speedup_bars(
        "speedup-with-quantize",
        "With quantising the activations on every call",
        rows,
        _speedup_with_quantize,
    )
    return [figure for figure in (kernel, whole) if figure is not None]


def _speedup_kernel(row: Compared) -> float | None:
    return row.speedup_kernel


def _speedup_with_quantize(row: Compared) -> float | None:
    return row.speedup_with_quantize


def _word(rows: Sequence[Compared]) -> str:
    """Whether times are measured or simulated; a run folder holds one kind."""
    return " and ".join(sorted({"simulated" if row.simulated else "measured" for row in rows}))


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
        "xaxis": axis(f"{_word(shown)} speed-up over bf16", rangemode="tozero"),
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
                "line": {"color": _GREY, "dash": "dash", "width": 1.5},
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
    speedup = _speedup_with_quantize if whole else _speedup_kernel
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
            "line": {"width": [2 if i in front else 0 for i in range(len(points))], "color": _GREY},
        },
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(v) - m for (_, _, v), m in zip(points, means, strict=True)],
            "arrayminus": [m - min(v) for (_, _, v), m in zip(points, means, strict=True)],
            "color": _GREY,
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
        "line": {"color": _GREY, "dash": "dot", "width": 2},
        "hoverinfo": "skip",
    }
    suffix = "with quantising" if whole else "kernel alone"
    # Room for the names beside the outermost points.
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    room = max(2.0, 0.18 * (high - low))
    layout = {
        "xaxis": axis("SQNR of the product, dB", range=[low - room, high + room]),
        "yaxis": axis(f"{_word(rows)} speed-up, {suffix}"),
    }
    return View(name=name, data=[line, scatter], layout=layout)


def _text_positions(x: Sequence[float], front: Sequence[int]) -> list[str]:
    """Names above the falling line of the front and below the other points.

    They stand right of the point, clear of its range; left of the outermost one.
    """
    positions = ["top right" if i in front else "bottom right" for i in range(len(x))]
    positions[max(range(len(x)), key=lambda i: x[i])] = "bottom left"
    return positions


def predicted_against_measured(run: Run) -> Figure | None:
    """Every measured time against its prediction; ``None`` when nothing was measured."""
    groups: dict[str, list[tuple[float, float, float, float, str]]] = {}
    for study in run.studies:
        if study.simulated:
            continue
        for trial in study.trials:
            time_us = trial.measurement.time_us
            if time_us is not None and trial.predicted_us > 0 and not trial.measurement.simulated:
                text = f"{label(study.problem)}<br>{label(trial.config)}"
                groups.setdefault(study.kernel, []).append(
                    (
                        trial.predicted_us,
                        time_us,
                        trial.predicted_low_us,
                        trial.predicted_high_us,
                        text,
                    )
                )
    points = [point for group in groups.values() for point in group]
    if not points:
        return None
    palette = ("#4292c6", "#f0831e", "#3fa85b", "#c2255c", "#b08fd8", "#a1662f")
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(kernel),
            "x": [p[0] for p in group],
            "y": [p[1] for p in group],
            "text": [p[4] for p in group],
            "marker": {"color": palette[i % len(palette)], "size": 7, "opacity": 0.75},
            "hovertemplate": "%{text}<br>predicted %{x:.2f} us<br>measured %{y:.2f} us",
        }
        for i, (kernel, group) in enumerate(groups.items())
    ]
    ends = [min(min(p[0], p[1]) for p in points) / 1.2, max(max(p[0], p[1]) for p in points) * 1.2]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "predicted = measured",
            "x": ends,
            "y": ends,
            "line": {"color": _GREY, "dash": "dash"},
            "hoverinfo": "skip",
        }
    )
    ratios = sorted(abs(math.log(p[1] / p[0])) for p in points)
    inside = sum(p[2] <= p[1] <= p[3] for p in points)
    limits = [math.log10(end) for end in ends]
    layout = {
        "xaxis": axis("predicted, us", type="log", range=limits, dtick=1),
        "yaxis": axis("measured, us", type="log", range=limits, dtick=1),
    }
    return Figure(
        key="predicted-against-measured",
        title="Predicted against measured",
        legend=[(kernel, palette[i % len(palette)]) for i, kernel in enumerate(groups)],
        views=[View(name="all", data=traces, layout=layout)],
        height_px=460,
        notes=[
            "On the dashed line the prediction is exact.",
            f"{len(points)} configurations. Median error "
            f"{100 * (math.exp(ratios[len(ratios) // 2]) - 1):.1f} %; "
            f"{100 * inside / len(points):.0f} % of the "
            "measured times lie inside the 90 % interval that was predicted for them.",
        ],
    )


def convergence(run: Run) -> Figure | None:
    """Best time so far, trial by trial: all studies against their final best, then one by one."""
    started = [study for study in run.studies if study.best is not None]
    if not started:
        return None
    views = [_all_studies(started)]
    views += [_one_study(study) for study in started]
    notes = [
        "Over all studies a line is one study, grey where it quantises. In a single study the line "
        "is the best so far, dots are trials, and crosses trials without a correct result: hover "
        "to see why."
    ]
    if any(study.simulated for study in started):
        notes.append(
            "In a simulated run the model judges its own choices, so a search that asks the model "
            "first starts at its best."
        )
    return Figure(key="convergence", title="Best so far", views=views, notes=notes)


def _best_so_far(study: StudyRecord) -> list[float | None]:
    best: float | None = None
    course: list[float | None] = []
    for trial in study.trials:
        time_us = trial.measurement.time_us
        if time_us is not None and (best is None or time_us < best):
            best = time_us
        course.append(best)
    return course


def _study_name(study: StudyRecord) -> str:
    return f"{study.problem} · {study.kernel}"


def _all_studies(studies: Sequence[StudyRecord]) -> View:
    traces: list[dict[str, Any]] = []
    for study in studies:
        course = _best_so_far(study)
        final = course[-1]
        assert final is not None
        recipe = getattr(study.problem, "recipe", None)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": label(_study_name(study)),
                "x": list(range(1, len(course) + 1)),
                "y": [None if time is None else time / final for time in course],
                "line": {
                    "shape": "hv",
                    "width": 1.5,
                    "color": _GREY if recipe is None else recipe_colour(recipe.name),
                },
                "opacity": 0.7,
                "hovertemplate": "trial %{x}: %{y:.3f}",
            }
        )
    worst = max(time for trace in traces for time in trace["y"] if time is not None)
    layout = {
        "hovermode": "closest",
        "xaxis": axis("trial"),
        # Never narrower than 20 %: noise of a converged study must not fill the plot.
        "yaxis": axis(
            "best so far / final best",
            type="log",
            range=[math.log10(0.98), math.log10(max(1.2, 1.05 * worst))],
        ),
    }
    return View(name="all studies, relative to each one's best", data=traces, layout=layout)


def _one_study(study: StudyRecord) -> View:
    course = _best_so_far(study)
    numbers = range(1, len(course) + 1)
    word = "simulated" if study.simulated else "measured"
    done = [(i, t) for i, t in zip(numbers, study.trials, strict=True) if t.measurement.time_us]
    failed = [
        (i, t, best)
        for i, t, best in zip(numbers, study.trials, course, strict=True)
        if not t.measurement.time_us
    ]
    first = next(time for time in course if time is not None)
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": list(numbers),
            "y": course,
            "line": {"shape": "hv", "color": "#3b66d6", "width": 2},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "name": f"{word} trial",
            "x": [i for i, _ in done],
            "y": [t.measurement.time_us for _, t in done],
            "text": [label(t.config) for _, t in done],
            "marker": {"color": "#4292c6", "size": 7},
            "hovertemplate": "%{text}<br>%{y:.2f} us",
        },
    ]
    if failed:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "no correct result",
                "x": [i for i, _, _ in failed],
                "y": [first if best is None else best for _, _, best in failed],
                "text": [
                    f"{label(t.measurement.status.value)}: {label(t.measurement.reason[:160])}"
                    for _, t, _ in failed
                ],
                "marker": {"color": _BAD, "symbol": "x", "size": 8},
                "hovertemplate": "%{text}",
            }
        )
    layout = {
        "xaxis": axis("trial"),
        "yaxis": axis(f"{word} time, us", rangemode="tozero"),
    }
    return View(name=_study_name(study), data=traces, layout=layout)


def rejections(run: Run) -> list[Figure]:
    """Configurations refused before compiling, by rule; and how the tried ones ended."""
    rules: Counter[str] = Counter()
    for study in run.studies:
        rules.update(dict(study.rejected_by_rule))
    statuses: Counter[str] = Counter(
        trial.measurement.status.value for study in run.studies for trial in study.trials
    )
    figures: list[Figure] = []
    if rules:
        total = sum(study.space_size for study in run.studies)
        legal = sum(study.legal_size for study in run.studies)
        figures.append(
            _counts(
                "rejected-by-rule",
                "Refused before compiling, by rule",
                rules.most_common(),
                lambda _: "#4292c6",
                "configurations",
                f"{total} configurations over all studies, {legal} of them legal; each refused "
                "one counts for the first rule that it breaks.",
            )
        )
    if statuses:
        figures.append(
            _counts(
                "trial-status",
                "Trials by status",
                statuses.most_common(),
                lambda name: _GOOD if name == "correct" else _BAD,
                "trials",
                f"{sum(statuses.values())} trials.",
            )
        )
    return figures


def _counts(
    key: str,
    title: str,
    counts: Sequence[tuple[str, int]],
    colour: Callable[[str], str],
    unit: str,
    note: str,
) -> Figure:
    trace = {
        "type": "bar",
        "orientation": "h",
        "y": [label(_short(name)) for name, _ in counts],
        "x": [count for _, count in counts],
        "text": [f"{count}" for _, count in counts],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [colour(name) for name, _ in counts]},
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    top = max(count for _, count in counts)
    layout = {
        "xaxis": axis(unit, range=[0, 1.2 * top]),
        "yaxis": axis("", autorange="reversed", type="category"),
    }
    return Figure(
        key=key,
        title=title,
        views=[View(name="all", data=[trace], layout=layout)],
        height_px=110 + 30 * len(counts),
        notes=[note],
    )


def _short(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"
