"""The report: every section is there, nothing is fetched, no name becomes markup."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_page import HOSTILE, Page
from report_runs import invented_run

from tiles.kernels import Status
from tuning import Run
from workbench.reporting import write_report
from workbench.reporting.comparison import compare, pareto_front
from workbench.reporting.download import figure_csv
from workbench.reporting.figure import Figure, View, axis
from workbench.reporting.predicted_figure import predicted_against_measured
from workbench.reporting.table import number


def page(run: Run, folder: Path) -> Page:
    return Page(write_report(run, folder / "report.html"))


SECTIONS = ["speed-up", "error", "pareto", "predicted", "search", "rejections", "winners"]
PLOTS = {
    "speedup-kernel",
    "speedup-with-quantize",
    "error-against-speed",
    "time-energy-error",
    "convergence",
    "rejected-by-rule",
    "trial-status",
}


def test_a_measured_run_has_every_section_and_plot(tmp_path: Path) -> None:
    got = page(invented_run(), tmp_path)
    assert [a["id"] for tag, a in got.elements if tag == "section"] == SECTIONS
    assert set(got.figures) == PLOTS | {"predicted-against-measured"}
    drawn = {a["id"] for tag, a in got.elements if tag == "div" and a.get("class") == "plot"}
    assert drawn == set(got.figures)
    assert "MEASURED" in got.text
    assert "SIMULATED" not in got.text
    for fact in ("NVIDIA H200", "580.1", "1755 MHz", "3.6.0", "hybrid"):
        assert fact in got.text


def test_a_simulated_run_says_so_and_shows_no_measurement(tmp_path: Path) -> None:
    got = page(invented_run(simulated=True), tmp_path)
    assert "SIMULATED" in got.text
    assert "MEASURED" not in got.text
    assert set(got.figures) == PLOTS
    title = got.figures["speedup-kernel"][0]["layout"]["xaxis"]["title"]["text"]
    assert title == "simulated speed-up over bf16"
    assert "there is no measurement to hold the prediction against" in got.text
    assert not [title for title in got.headings() if "measured" in title]


def test_predicted_and_measured_never_share_a_column(tmp_path: Path) -> None:
    headings = page(invented_run(), tmp_path).headings()
    assert "measured time, us" in headings
    assert "predicted time, us" in headings
    for title in headings:
        assert not ("predicted" in title and "measured" in title)
        if re.search(r"time|speed-up|TFLOP|GB/s|interval|quantize", title):
            assert "predicted" in title or "measured" in title


@pytest.mark.parametrize("simulated", [False, True])
def test_plotly_accepts_every_view(tmp_path: Path, simulated: bool) -> None:
    from plotly.graph_objects import Figure  # refuses unknown traces and properties

    for views in page(invented_run(simulated=simulated), tmp_path).figures.values():
        for view in views:
            assert Figure(data=view["data"], layout=view["layout"]).data


def test_nothing_is_fetched(tmp_path: Path) -> None:
    got = page(invented_run(), tmp_path)
    # Elements and attributes that can fetch; plotly's own code is guarded by the policy below.
    assert not {tag for tag, _ in got.elements} & {"img", "link", "iframe", "object", "base"}
    for tag, attributes in got.elements:
        assert "src" not in attributes
        assert tag == "a" or "href" not in attributes
        place = attributes.get("href") or "#"
        assert place.startswith("#") or ("download" in attributes and place.startswith("data:"))
    (policy,) = (a["content"] for t, a in got.elements if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    outside = got.source
    for script in got.scripts:
        outside = outside.replace(script, "")
    assert "http:" not in outside
    assert "https:" not in outside
    assert "url(" not in outside


def test_plotly_is_inlined_once(tmp_path: Path) -> None:
    got = page(invented_run(), tmp_path)
    assert len(got.scripts) == 3
    assert got.source.count("plotly.js v") == 1
    assert len(got.source) < 8_000_000


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    clean = page(invented_run(), tmp_path)
    run = invented_run(
        kernel=HOSTILE,
        gpu=HOSTILE,
        path=HOSTILE,
        stopped=HOSTILE,
        rejected_by_rule={HOSTILE: 3},
        name="x<script>alert(3)<",
    )
    environment = run.studies[0].environment
    assert environment is not None
    environment = replace(environment, gpu=HOSTILE, driver=HOSTILE, versions={HOSTILE: HOSTILE})
    failed = replace(
        run.studies[0].trials[3],
        measurement=replace(run.studies[0].trials[3].measurement, reason=HOSTILE),
    )
    first = replace(
        run.studies[0], environment=environment, trials=(*run.studies[0].trials, failed)
    )
    plan = {**run.plan, "gpu": HOSTILE, "strategy": HOSTILE, "cache": HOSTILE}
    got = page(replace(run, plan=plan, studies=(first, *run.studies[1:])), tmp_path)
    tags = sorted({tag for tag, _ in clean.elements})
    assert sorted({tag for tag, _ in got.elements}) == tags
    assert len(got.scripts) == len(clean.scripts) == 3
    assert got.scripts[1:] == clean.scripts[1:]
    assert not [a for _, a in got.elements if any(name.startswith("on") for name in a)]
    assert HOSTILE in got.text
    # Plotly would read tags in its labels, so they reach it escaped.
    assert "<" not in json.dumps(
        [v["data"] for views in got.figures.values() for v in views]
    ).replace("<br>", "").replace("<extra></extra>", "")


def test_speedups_are_those_of_the_fastest_trials(tmp_path: Path) -> None:
    run = invented_run(shapes=((4096, 4096, 4096),))
    best = {str(s.problem): s.best.measurement.time_us for s in run.studies if s.best}
    bf16 = best["gemm:4096x4096x4096:bf16:bf16"]
    row = best["gemm:4096x4096x4096:e4m3-row:bf16"]
    step = best["quantize:4096x4096:e4m3fn.row:bf16"]
    assert bf16
    assert row
    assert step
    (found,) = (r for r in compare(run) if r.recipe.name == "e4m3-row")
    assert found.speedup_kernel == pytest.approx(bf16 / row)
    assert found.speedup_with_quantize == pytest.approx(bf16 / (row + step))
    figures = page(run, tmp_path).figures
    (trace,) = (t for t in figures["speedup-kernel"][0]["data"] if t["name"] == "e4m3-row")
    assert trace["x"] == [pytest.approx(bf16 / row)]


def test_quantising_alone_is_not_told_for_recipes_that_set_outliers_apart() -> None:
    # The run holds the quantisation that int8-row needs, which has the same target.
    run = invented_run(recipes=("bf16", "int8-row", "llm-int8"))
    rows = {row.recipe.name: row for row in compare(run)}
    assert rows["int8-row"].speedup_with_quantize is not None
    assert rows["llm-int8"].quantize_us is None
    assert rows["llm-int8"].speedup_with_quantize is None
    assert rows["llm-int8"].speedup_kernel is not None


def test_a_run_without_quantising_shows_the_kernel_alone(tmp_path: Path) -> None:
    got = page(invented_run(quantize=False), tmp_path)
    assert "speedup-kernel" in got.figures
    assert "speedup-with-quantize" not in got.figures
    assert "set quantize: true" in got.text
    assert got.figures["error-against-speed"][0]["layout"]["yaxis"]["title"]["text"].endswith(
        "kernel alone"
    )


def test_a_run_without_bf16_says_what_is_missing(tmp_path: Path) -> None:
    got = page(invented_run(recipes=("e4m3-row", "int8-row")), tmp_path)
    assert "add bf16 to its recipes" in got.text
    assert "speedup-kernel" not in got.figures


def test_an_empty_run_is_a_page(tmp_path: Path) -> None:
    run = invented_run()
    got = page(replace(run, studies=()), tmp_path)
    assert got.figures == {}
    assert [a["id"] for tag, a in got.elements if tag == "section"] == SECTIONS


def test_a_run_where_nothing_was_correct_is_a_page(tmp_path: Path) -> None:
    run = invented_run(shapes=((16, 512, 512),), recipes=("bf16",))
    (only,) = run.studies
    trials = tuple(
        replace(
            t,
            measurement=replace(
                t.measurement, status=Status.COMPILE, time_us=None, reason="ptxas failed"
            ),
        )
        for t in only.trials
    )
    got = page(replace(run, studies=(replace(only, trials=trials),)), tmp_path)
    assert set(got.figures) == {"rejected-by-rule", "trial-status"}
    assert "ptxas failed" in got.text
    assert "Without a correct result: gemm:16x512x512:bf16:bf16" in got.text


def test_emulated_bars_are_hatched_and_said(tmp_path: Path) -> None:
    got = page(invented_run(path="emulated"), tmp_path)
    bar = got.figures["speedup-kernel"][0]["data"][0]
    assert set(bar["marker"]["pattern"]["shape"]) == {"/"}
    assert "emulated" in got.text


def test_the_share_inside_the_interval_is_counted() -> None:
    run = invented_run(shapes=((512, 512, 512),), recipes=("bf16",))
    trials = [t for s in run.studies for t in s.trials if t.measurement.time_us]
    inside = sum(
        t.predicted_low_us <= (t.measurement.time_us or 0) <= t.predicted_high_us for t in trials
    )
    figure = predicted_against_measured(run)
    assert figure is not None
    assert f"{100 * inside / len(trials):.0f} % of the measured times" in figure.notes[1]


def test_the_file_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = invented_run(shapes=((512, 512, 512),), recipes=("bf16",))
    out = tmp_path / "new" / "report.html"
    assert write_report(run, out) == out
    first = out.read_text(encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ValueError, match="disk full: free space"):
        write_report(invented_run(), out)
    assert out.read_text(encoding="utf-8") == first
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match="is a folder: name a file"):
        write_report(run, tmp_path)


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    texts = {
        write_report(invented_run(), tmp_path / name).read_bytes() for name in ("a.html", "b.html")
    }
    assert len(texts) == 1


def test_a_run_taken_up_on_another_driver_names_both(tmp_path: Path) -> None:
    run = invented_run(shapes=((512, 512, 512),), recipes=("bf16", "fp16"))
    first, second = run.studies
    assert second.environment is not None
    other = replace(second.environment, driver="590.2", sm_clock_mhz=None)
    got = page(replace(run, studies=(first, replace(second, environment=other))), tmp_path)
    assert "580.1, 590.2" in got.text
    assert "1755 MHz\n" in got.text
    assert "2.11.0, 2.11.0" not in got.text


def test_pareto_front_keeps_what_nothing_beats() -> None:
    points = [(30.0, 1.8), (31.0, 1.5), (31.0, 1.6), (40.0, 1.6), (50.0, 1.0), (45.0, 0.9)]
    beaten = {
        i
        for i, p in enumerate(points)
        if any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)
    }
    assert set(pareto_front(points)) == set(range(len(points))) - beaten
    assert pareto_front([]) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (0.0, "0"),
        (1234.5678, "1235"),
        (12.3456, "12.35"),
        (0.12345, "0.123"),
        (1e-7, "1e-07"),
        (2.5e9, "2.5e+09"),
        (math.inf, "inf"),
    ],
)
def test_numbers_keep_their_digits(value: float | None, text: str | None) -> None:
    assert number(value) == text


def test_a_plot_has_all_its_views_in_its_file() -> None:
    bars = View(
        name="all",
        data=[{"type": "bar", "name": "a &lt;b&gt;", "y": ["x<br>y"], "x": [1.5], "text": ["2"]}],
        layout={"xaxis": axis("us"), "yaxis": axis("")},
    )
    cells = View(
        name="map",
        data=[{"type": "heatmap", "x": ["f", "g"], "y": [0, 1], "z": [[1.0, None], [2.0, 3.0]]}],
        layout={
            "xaxis": axis(""),
            "yaxis": axis("", tickvals=[0, 1], ticktext=["first", "second"]),
        },
    )
    assert figure_csv(Figure(key="k", title="t", views=[bars, cells])).splitlines() == [
        "view,series,x is,x,y is,y,value,text",
        "all,a <b>,us,1.5,,x y,,2",
        "map,,,f,,first,1.0,",
        "map,,,g,,first,,",
        "map,,,f,,second,2.0,",
        "map,,,g,,second,3.0,",
    ]


def test_one_change_is_one_banner_however_many_studies_rest_on_it(tmp_path: Path) -> None:
    """A banner a study filled the first screen of the page."""
    old = invented_run(recipes=("bf16", "e4m3-row"), quantize=False, source="0" * 64)
    kernels = {study.kernel for study in old.studies}
    assert len(old.studies) == 4
    page = Page(write_report(old, tmp_path / "report.html"))
    assert page.source.count("<b>STALE</b>") == len(kernels)
    for kernel in kernels:
        count = sum(study.kernel == kernel for study in old.studies)
        assert f"{count} studies: the source of {kernel} changed" in page.text
    for study in old.studies:
        assert f"<li>{study.problem} with {study.kernel}</li>" in page.source
    (single,) = invented_run(shapes=((64, 64, 64),), recipes=("bf16",), source="0" * 64).studies
    page = Page(write_report(replace(old, studies=(single,)), tmp_path / "report.html"))
    assert f"{single.problem} with {single.kernel}: the source of" in page.text
    assert "<summary>Which</summary>" not in page.source
