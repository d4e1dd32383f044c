"""The course of the searches: the best so far, trial by trial."""

import math
from collections.abc import Sequence
from typing import Any

from tuning import Run, StudyRecord
from workbench.reporting.figure import BAD, GREY, Figure, View, axis, label, recipe_colour

__all__ = ["convergence"]


def convergence(run: Run) -> Figure | None:
    """Best so far, trial by trial: all studies against their final best, then one by one."""
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
    if any(trial.outpaced for study in started for trial in study.trials):
        notes.append(
            "Where near-ties were timed in turns, on a GPU that is kept busy, what lost before "
            "counts as so much slower as the turns made the best of them."
        )
    return Figure(key="convergence", title="Best so far", views=views, notes=notes)


def _best_so_far(study: StudyRecord) -> list[float | None]:
    """After each trial the least so far, by one rule: in the end the winner's."""
    best: float | None = None
    course: list[float | None] = []
    for trial in study.trials:
        value = None if trial.stale else study.objective.of(trial.measurement)
        if value is not None and (best is None or trial.beside_turns(value) < best):
            best = trial.beside_turns(value)
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
                    "color": GREY if recipe is None else recipe_colour(recipe.name),
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
    objective = study.objective
    done = [
        (i, t) for i, t in zip(numbers, study.trials, strict=True) if objective.of(t.measurement)
    ]
    failed = [
        (i, t, best)
        for i, t, best in zip(numbers, study.trials, course, strict=True)
        if not objective.of(t.measurement)
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
            "y": [objective.of(t.measurement) for _, t in done],
            "text": [label(t.config) for _, t in done],
            "marker": {"color": "#4292c6", "size": 7},
            "hovertemplate": f"%{{text}}<br>%{{y:.2f}} {objective.unit}",
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
                "marker": {"color": BAD, "symbol": "x", "size": 8},
                "hovertemplate": "%{text}",
            }
        )
    layout = {
        "xaxis": axis("trial"),
        "yaxis": axis(f"{word} {objective.value}, {objective.unit}", rangemode="tozero"),
    }
    return View(name=_study_name(study), data=traces, layout=layout)
