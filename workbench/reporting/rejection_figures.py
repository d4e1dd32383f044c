"""What was refused before compiling, and how what was tried ended."""

from collections import Counter
from collections.abc import Callable, Sequence

from tuning import Run
from workbench.reporting.figure import BAD, GOOD, Figure, View, axis, label

__all__ = ["rejections"]


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
                lambda name: GOOD if name == "correct" else BAD,
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
