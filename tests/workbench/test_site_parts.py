"""What the pages of a site are computed from: changes beyond noise, errors, names of marks."""

import math
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from workbench.reporting.download import csv_text
from workbench.reporting.site.changes import Kind, changes, noise
from workbench.reporting.site.chart import Marks, Point, bars, scatter
from workbench.reporting.site.family_error import family_error
from workbench.reporting.site.stored import Previous
from workbench.reporting.site.studies import SiteStudy, Timing

STUDY = SiteStudy(
    run="runs/a",
    page="runs/a.html",
    problem="gemm:16x16x16:bf16:bf16",
    kernel="triton_gemm",
    gpu="h200",
    device="NVIDIA H200",
    software="driver 580.1",
    path="native",
    simulated=False,
    finished=True,
    trials=3,
    stale="",
    config="block_m=64",
    measured_us=100.0,
    iqr_us=0.5,
    predicted_us=90.0,
    predicted_low_us=80.0,
    predicted_high_us=110.0,
    flops=8192,
    min_bytes=1536,
)


def compared(before: SiteStudy, now: SiteStudy) -> Kind:
    (row,) = changes(Previous(written="", studies=(before,)), [now]).rows
    return row.kind


@pytest.mark.parametrize(
    ("now_us", "iqr_us", "kind"),
    [
        (100.0, 0.5, Kind.SAME),
        (101.9, 0.5, Kind.SAME),  # 2 % is what sweeps differ by
        (102.1, 0.5, Kind.SLOWER),
        (97.9, 0.5, Kind.FASTER),
        (104.0, 6.24, Kind.SAME),  # a spread of 6 % of its own
        (107.0, 6.42, Kind.SLOWER),
        (90.0, None, Kind.FASTER),  # too few samples for a spread
    ],
)
def test_a_time_has_moved_when_it_differs_beyond_noise(
    now_us: float, iqr_us: float | None, kind: Kind
) -> None:
    assert compared(STUDY, replace(STUDY, measured_us=now_us, iqr_us=iqr_us)) is kind


def test_the_spreads_of_both_measurements_add_as_independent_ones() -> None:
    before, now = replace(STUDY, iqr_us=3.0), replace(STUDY, measured_us=200.0, iqr_us=8.0)
    assert noise(before, now) == pytest.approx(0.05)  # 3 % and 4 %


def test_predictions_have_no_noise() -> None:
    before = replace(STUDY, simulated=True, measured_us=None)
    assert compared(before, replace(before, predicted_us=90.05)) is Kind.SAME
    assert compared(before, replace(before, predicted_us=91.0)) is Kind.SLOWER


def test_what_lost_its_result_is_gone_with_the_reason() -> None:
    other = replace(STUDY, kernel="hopper_gemm")
    simulated = replace(STUDY, simulated=True, measured_us=None, problem="x")
    elsewhere = replace(STUDY, run="runs/b")
    torn = replace(STUDY, run="runs/torn")
    found = changes(
        Previous(written="", studies=(STUDY, other, simulated, elsewhere, torn)),
        [
            STUDY,
            replace(other, measured_us=None, predicted_us=None),
            replace(simulated, simulated=False, measured_us=5.0),
        ],
        ["runs/torn"],
    )
    gone = {row.study.key: row.reason for row in found.of(Kind.GONE)}
    assert gone == {
        other.key: "its run has no result of it any more",
        simulated.key: "measured now",
        elsewhere.key: "its run is not there any more",
        torn.key: "its run cannot be read",
    }
    assert [row.study.problem for row in found.of(Kind.NEW)] == ["x"]


def test_a_study_comes_back_from_the_data_as_it_was() -> None:
    assert SiteStudy.from_dict(STUDY.to_dict()) == STUDY
    for name, value in (("flops", "many"), ("iqr_us", "0.5"), ("stale", None), ("finished", "no")):
        with pytest.raises(ValueError, match=f"{name} of a study is"):
            SiteStudy.from_dict({**STUDY.to_dict(), name: value})
    with pytest.raises(ValueError, match="other fields"):
        SiteStudy.from_dict({**STUDY.to_dict(), "more": 1})


def timing(measured_us: float, predicted_us: float, problem: str = "p") -> Timing:
    return Timing(
        run="r",
        gpu="h200",
        kernel="k",
        problem=problem,
        config="c",
        measured_us=measured_us,
        predicted_us=predicted_us,
        predicted_low_us=0.9 * predicted_us,
        predicted_high_us=1.1 * predicted_us,
    )


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_errors_of_a_family_are_numpys_quantiles(count: int) -> None:
    rng = random.Random(count)
    timings = [
        timing(rng.lognormvariate(3, 1), rng.lognormvariate(3, 1), f"p{i % 3}")
        for i in range(count)
    ]
    ratios = np.array([one.measured_us / one.predicted_us for one in timings])
    errors = np.maximum(ratios, 1 / ratios) - 1
    got = family_error(timings)
    # Quantiles lie between neighbours in log time there and in time here.
    logs = np.log1p(errors)
    assert got.median == pytest.approx(math.expm1(np.quantile(logs, 0.5)))
    assert got.p90 == pytest.approx(math.expm1(np.quantile(logs, 0.9)))
    assert got.bias == pytest.approx(np.median(ratios))
    assert got.inside == pytest.approx(np.mean((ratios >= 0.9) & (ratios <= 1.1)))
    assert got.problems == min(3, count)


def marks(points: list[Point], **changes: Any) -> Marks:
    return Marks(name="m", colour="#123456", points=points, **changes)


def test_names_of_marks_touch_neither_one_another_nor_a_mark() -> None:
    rng = random.Random(3)
    points = [
        Point(x=rng.uniform(0, 9), y=rng.uniform(1, 2), name=f"recipe-{i}") for i in range(40)
    ]
    svg = scatter([marks(points)], x_title="x", y_title="y")
    places = re.findall(
        r'<text class="ink" x="([-\d.]+)" y="([-\d.]+)" [^>]*>(recipe-\d+)</text>', svg
    )
    assert 5 <= len(places) < 40  # some have no room
    boxes = [
        (float(x), float(y) - 9, float(x) + 6.3 * len(name), float(y) + 2) for x, y, name in places
    ]
    circles = [
        (float(x) - 4, float(y) - 4, float(x) + 4, float(y) + 4)
        for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    ]
    assert len(circles) == 40
    for place, one in enumerate(boxes):
        for other in boxes[place + 1 :] + circles:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1]
            assert apart or other[3] <= one[1], (one, other)


def test_the_diagonal_is_one_where_both_axes_have_the_same_range() -> None:
    svg = scatter(
        [marks([Point(x=1, y=1000), Point(x=50, y=50)])], x_title="x", y_title="y", diagonal=True
    )
    (line,) = re.findall(
        r'<line class="mark" x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"/>', svg
    )
    x1, y1, x2, y2 = map(float, line)
    x, y = map(float, re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)[1])
    assert (x - x1) / (x2 - x1) == pytest.approx((y - y1) / (y2 - y1), abs=0.01)


def test_plots_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no mark"):
        scatter([marks([])], x_title="x", y_title="y")
    with pytest.raises(ValueError, match="no bar"):
        bars([], unit="won")


def test_one_mark_alone_is_drawn() -> None:
    for settings in ({}, {"x_log": True}, {"diagonal": True}, {"level": 1.0}):
        svg = scatter([marks([Point(x=5, y=5)])], x_title="x", y_title="y", **settings)  # type: ignore[arg-type]
        assert svg.count("<circle") == 1
        assert "nan" not in svg
    assert 'width="340.0"' in bars([("a", 3.0, "#123456")], unit="won")
    assert 'width="0.0"' in bars([("a", 0.0, "#123456")], unit="won")


def test_texts_that_a_spreadsheet_would_compute_are_told_to_be_texts() -> None:
    text = csv_text(["a", "b"], [["=1+1", -1.5], ["@x", None], ['a"b', 0.1 + 0.2]])
    assert text == 'a,b\n\'=1+1,-1.5\n\'@x,\n"a""b",0.30000000000000004\n'
