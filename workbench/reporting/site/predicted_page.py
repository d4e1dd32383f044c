"""The page that judges the cost model: predicted against measured, by GPU and kernel family."""

from collections.abc import Sequence

from workbench.reporting.download import csv_text
from workbench.reporting.section import Section, paragraph
from workbench.reporting.site.chart import PALETTE, Chart, Marks, Point, scatter
from workbench.reporting.site.family_error import family_error
from workbench.reporting.site.gathered import Gathered
from workbench.reporting.site.studies import Timing
from workbench.reporting.table import Column, number, table

__all__ = ["predicted_sections"]

#: Configurations listed as the worst.
WORST = 10


def predicted_sections(all_of: Gathered) -> list[Section]:
    """A section a GPU on which something was measured, then what is left out."""
    gpus = list(dict.fromkeys(timing.gpu for timing in all_of.timings))
    sections = [
        _gpu([t for t in all_of.timings if t.gpu == gpu], gpu, f"gpu-{place}")
        for place, gpu in enumerate(gpus)
    ]
    simulated = sum(study.simulated for study in all_of.studies)
    if not sections:
        words = "Nothing has been measured yet: there is nothing to hold predictions against."
        sections.append(Section(key="none", title="No measurement", before=paragraph(words)))
    if simulated:
        count = "1 simulated study is" if simulated == 1 else f"{simulated} simulated studies are"
        sections.append(
            Section(
                key="left-out",
                title="Left out",
                before=paragraph(f"{count} left out: there the model would judge itself."),
            )
        )
    return sections


def _gpu(timings: Sequence[Timing], gpu: str, key: str) -> Section:
    return Section(
        key=key,
        title=gpu,
        before=paragraph(
            "Every configuration that ran and was correct, winner or not. Errors are relative: "
            "the larger of measured and predicted over the smaller, less 1."
        ),
        after=f"{_chart(timings, gpu, key).html()}<h3>Error by kernel family</h3>"
        f"{_families(timings)}<h3>Furthest off</h3>{_worst(timings)}",
    )


def _by_kernel(timings: Sequence[Timing]) -> dict[str, list[Timing]]:
    found: dict[str, list[Timing]] = {}
    for timing in timings:
        found.setdefault(timing.kernel, []).append(timing)
    return found


def _chart(timings: Sequence[Timing], gpu: str, key: str) -> Chart:
    groups = _by_kernel(timings)
    # Many marks are small, or they would hide one another.
    size = 4.0 if len(timings) <= 100 else 2.6 if len(timings) <= 1000 else 1.8
    series = [
        Marks(
            name=kernel,
            colour=PALETTE[place % len(PALETTE)],
            points=[Point(x=one.predicted_us, y=one.measured_us) for one in group],
            size=size,
        )
        for place, (kernel, group) in enumerate(groups.items())
    ]
    whole = family_error(timings)
    return Chart(
        key=f"predicted-{key}",
        title="Predicted against measured",
        description=(
            f"{len(timings)} configurations on {gpu}, predicted time to the right, measured time "
            f"upwards, both by decades. The median error is {100 * whole.median:.1f} %."
        ),
        svg=scatter(series, x_title="predicted, us", y_title="measured, us", diagonal=True),
        data=csv_text(
            [
                "kernel",
                "problem",
                "configuration",
                "run",
                "predicted, us",
                "measured, us",
                "predicted low, us",
                "predicted high, us",
            ],
            [
                [
                    t.kernel,
                    t.problem,
                    t.config,
                    t.run,
                    t.predicted_us,
                    t.measured_us,
                    t.predicted_low_us,
                    t.predicted_high_us,
                ]
                for t in timings
            ],
        ),
        legend=[(one.name, one.colour, False) for one in series],
        notes=["On the dashed line a prediction is exact; above it kernels are slower than told."],
    )


def _families(timings: Sequence[Timing]) -> str:
    groups = _by_kernel(timings)
    parts = sorted(groups.items(), key=lambda pair: -len(pair[1]))
    if len(parts) > 1:
        parts.append(("all", list(timings)))
    return table(
        [
            Column("kernel"),
            Column("median error", "number"),
            Column("90th percentile", "number"),
            Column("measured over predicted, median", "number"),
            Column("in 90 % interval", "number"),
            Column("configurations", "number"),
            Column("problems", "number"),
        ],
        [
            [
                kernel,
                f"{100 * error.median:.1f} %",
                f"{100 * error.p90:.1f} %",
                f"{error.bias:.3f}",
                f"{100 * error.inside:.0f} %",
                error.configurations,
                error.problems,
            ]
            for kernel, error in ((kernel, family_error(group)) for kernel, group in parts)
        ],
        cards=True,
    )


def _worst(timings: Sequence[Timing]) -> str:
    worst = sorted(timings, key=lambda one: -max(one.ratio, 1 / one.ratio))[:WORST]
    return table(
        [
            Column("problem"),
            Column("kernel"),
            Column("predicted, us", "number"),
            Column("measured, us", "number"),
            Column("measured over predicted", "number"),
            Column("run"),
            Column("configuration", "code"),
        ],
        [
            [
                one.problem,
                one.kernel,
                number(one.predicted_us),
                number(one.measured_us),
                f"{one.ratio:.2f}",
                one.run,
                one.config,
            ]
            for one in worst
        ],
        cards=True,
    )
