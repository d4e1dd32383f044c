"""Every measured time against its prediction."""

import math
from typing import Any

from tuning import Run
from workbench.reporting.figure import GREY, Figure, View, axis, label

__all__ = ["predicted_against_measured"]


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
            "line": {"color": GREY, "dash": "dash"},
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
