"""The site of a project folder: what is on its pages, and what never is."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import invented_run
from site_page import Page, pages, rows_of
from site_projects import (
    CALIBRATION,
    ERROR,
    EVIDENCE,
    SHAPE,
    THEN,
    VERIFY,
    make,
    site,
    slower,
    small_runs,
)

from workbench.reporting.site.frame import PAGES

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site of everything that a folder may hold."""
    folder = tmp_path_factory.mktemp("site") / "project"
    runs = small_runs()
    make(folder, runs, calibration=CALIBRATION, error=ERROR, verify=VERIFY)
    make(folder / "package", {}, EVIDENCE=EVIDENCE)
    (folder / "runs" / "torn").mkdir()
    (folder / "runs" / "torn" / "plan.json").write_text('{"schema": ')
    (folder / "torn.json").write_text('{"schema": "tile-workbench/error/1", ')
    return site(folder, runs)


def test_every_link_leads_to_a_file_or_a_place_and_nothing_is_fetched(written: Path) -> None:
    found = pages(written)
    assert set(found) == {*PAGES, "runs/runs-today.html", "runs/runs-tomorrow.html"}
    for name, page in found.items():
        for tag, attributes in page.elements:
            assert tag not in ("img", "link", "iframe", "object", "base")
            if tag == "script" and "src" in attributes:
                assert name.startswith("runs/")
                assert (page.path.parent / str(attributes["src"])).is_file()
            to = attributes.get("href")
            if to is None or to.startswith("data:text/csv"):
                continue
            file, _, place = to.partition("#")
            target = (page.path.parent / file).resolve() if file else page.path
            assert target.is_file(), f"{name}: {to}"
            assert target.is_relative_to(written)
            if place:
                assert f'id="{place}"' in target.read_text(), f"{name}: {to}"
        (policy,) = (a["content"] for t, a in page.elements if a.get("http-equiv"))
        assert str(policy).startswith("default-src 'none'; ")
        assert "http" not in str(policy)
    assert "<script" not in "".join(found[name].source for name in PAGES)


def test_the_script_that_draws_is_there_once(written: Path) -> None:
    holders = [p for p in written.rglob("*") if p.is_file() and b"plotly.js v" in p.read_bytes()]
    assert [path.relative_to(written).as_posix() for path in holders] == ["assets/plotly.js"]


def test_the_first_page_lists_what_there_is(written: Path) -> None:
    page = Page(written / "index.html")
    runs = {row["run"]: row for row in rows_of(page, "trials")}
    assert runs["runs/today"]["times"] == "measured"
    assert runs["runs/tomorrow"]["times"] == "simulated"
    (gpu,) = rows_of(page, "studies measured")
    assert (gpu["GPU"], gpu["device"], gpu["runs"]) == ("h200", "NVIDIA H200", "2")
    (package,) = rows_of(page, "tuned entries")
    assert package["tuned entries"] == "3"
    assert "never measured" in package["evidence"]
    (verified,) = rows_of(page, "outcome")
    assert (verified["outcome"], verified["checks"]) == ("failed", "1 failed, 2 passed")
    (family,) = rows_of(page, "timings")
    assert (family["timings"], family["mean error before"]) == ("120", "13.3 %")  # expm1(0.125)
    assert "driver 580.1, 2026-11-20 10:00 UTC" in page.text
    unread = {row["what"]: row["why"] for row in rows_of(page, "why")}
    assert set(unread) == {"runs/torn", "torn.json"}
    assert unread["runs/torn"].startswith("runs/torn/plan.json: cut off or corrupt")


def test_predicted_and_measured_never_share_a_column(written: Path) -> None:
    for name in PAGES:
        for heads, _ in Page(written / name).tables():
            for head in heads:
                if "over predicted" not in head:  # a ratio of both is neither
                    assert not ("predicted" in head and "measured" in head)
                if re.search(r"\bus\b|×|throughput|IQR", head):
                    assert re.search("predicted|measured|simulated|IQR", head), head


def test_a_recipe_that_was_only_predicted_has_no_measured_figure(written: Path) -> None:
    page = Page(written / "formats.html")
    rows = {row["recipe"]: row for row in rows_of(page, "shapes measured")}
    assert list(rows)[-1] == "nvfp4"  # measured ones first
    assert rows["nvfp4"]["measured ×, kernel"] == "–"
    assert float(rows["nvfp4"]["predicted ×, kernel"]) > 0
    best = {str(s.problem): s.best for s in small_runs()["runs/today"].studies}
    bf16, row = (best[f"gemm:4096x4096x4096:{name}:bf16"] for name in ("bf16", "e4m3-row"))
    assert bf16 is not None
    assert row is not None
    measured = (bf16.measurement.time_us or 0) / (row.measurement.time_us or 1)
    assert float(rows["e4m3-row"]["measured ×, kernel"]) == pytest.approx(measured, abs=0.006)
    foretold = bf16.predicted_us / row.predicted_us
    assert float(rows["e4m3-row"]["predicted ×, kernel"]) == pytest.approx(foretold, abs=0.006)
    plotted = {line["recipe"]: line for line in page.downloads()["formats-0-normal.csv"]}
    assert plotted["nvfp4"]["measured speed-up, kernel"] == ""
    assert plotted["e4m3-row"]["predicted speed-up, kernel"] == ""
    assert float(plotted["e4m3-row"]["measured speed-up, kernel"]) == pytest.approx(measured)


def test_what_was_simulated_is_not_held_against_its_own_prediction(written: Path) -> None:
    page = Page(written / "predicted.html")
    lines = page.downloads()["predicted-gpu-0.csv"]
    assert {line["run"] for line in lines} == {"runs/today"}
    run = small_runs()["runs/today"]
    timed = [t for s in run.studies for t in s.trials if t.measurement.time_us is not None]
    assert len(lines) == len(timed) == page.source.count("<circle ")
    assert sorted(float(line["measured, us"]) for line in lines) == sorted(
        trial.measurement.time_us or 0 for trial in timed
    )
    simulated = len(small_runs()["runs/tomorrow"].studies)
    assert f"{simulated} simulated studies are left out" in page.text
    families = rows_of(page, "median error")
    assert [row["kernel"] for row in families] == ["triton_gemm", "triton_quantize", "all"]


def test_kernels_name_configuration_versions_and_run(written: Path) -> None:
    page = Page(written / "kernels.html")
    row = next(r for r in rows_of(page, "measured, us") if ":e4m3-row:" in r["problem"])
    assert row["measured with"] == "driver 580.1, triton 3.6.0, torch 2.11.0"
    assert row["configuration"].startswith("block_m=")
    assert (row["run"], row["state"]) == ("runs/today", "current")
    assert row["measured throughput"].endswith(" TFLOP/s")


def test_stale_results_are_shown_as_stale(tmp_path: Path) -> None:
    run = invented_run(name="old", shapes=(SHAPE,), recipes=("bf16",), source="0" * 64)
    make(tmp_path, {"old": run})
    page = Page(site(tmp_path, {"old": run}) / "kernels.html")
    (row,) = rows_of(page, "measured, us")
    assert row["state"] == "stale"
    assert "the source of triton_gemm changed" in page.text
    assert "--revalidate" in page.text


def test_slower_families_stand_behind_the_winner(tmp_path: Path) -> None:
    run = invented_run(name="two", shapes=(SHAPE,), recipes=("bf16",))
    (study,) = run.studies
    other = slower(replace(run, studies=(replace(study, kernel="hopper_gemm"),)), lambda _: 0.5)
    run = replace(run, studies=(study, *other.studies))
    make(tmp_path, {"two": run})
    page = Page(site(tmp_path, {"two": run}) / "kernels.html")
    (first,) = rows_of(page, "measured, us")
    assert first["kernel"] == "hopper_gemm"
    (behind,) = rows_of(page, "measured / fastest")
    assert (behind["kernel"], behind["measured / fastest"]) == ("triton_gemm", "2.00")


def test_the_next_site_tells_what_changed(tmp_path: Path) -> None:
    runs = small_runs()
    make(tmp_path, runs)
    assert "first site" in Page(site(tmp_path, runs, THEN) / "index.html").text
    assert "Nothing has changed beyond noise" in Page(site(tmp_path, runs) / "changes.html").text
    today = slower(runs["runs/today"], lambda i: (1.2, 0.8, 1.01, 1.0, 1.0)[i])
    later = {
        "runs/today": today,
        "runs/new": replace(runs["runs/today"], studies=today.studies[:1]),
    }
    make(tmp_path, later)
    (tmp_path / "runs/tomorrow/plan.json").write_text("{")
    page = Page(site(tmp_path, {**later}) / "changes.html")
    gone = len(runs["runs/tomorrow"].studies)
    assert f"Since 2026-11-21 11:30 UTC: 1 new, 1 faster, 1 slower, {gone} gone." in page.text
    moved = [row for heads, rows in page.tables() for row in rows if "noise" in heads]
    assert [row[4] for row in moved] == ["+20.0 %", "−20.0 %"]
    assert {row["why"] for row in rows_of(page, "why")} == {"its run cannot be read"}
    kinds = [line["kind"] for line in page.downloads()["changes-measured.csv"]]
    assert sorted(kinds) == ["faster", "slower", *["within noise"] * 3]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = invented_run(
        shapes=(SHAPE,), recipes=("bf16", "e4m3-row"), kernel=HOSTILE, path=HOSTILE, name="x"
    )
    folder = tmp_path / "<b>project"
    name = "<script>'\"&"
    make(
        folder,
        {name: run},
        error={**ERROR, "products": [{**ERROR["products"][0], "recipe": HOSTILE}]},
    )  # type: ignore[dict-item,index]
    (folder / "=1+1.json").write_text('{"schema": "tile-workbench/error/1"')
    found = pages(site(folder, {name: run}))
    for page in found.values():
        assert not [a for _, a in page.elements if any(key.startswith("on") for key in a)]
        assert not {tag for tag, _ in page.elements} & {"img", "b0"}
    for file in PAGES:
        assert "script" not in {tag for tag, _ in found[file].elements}
    assert HOSTILE in found["kernels.html"].text
    assert HOSTILE in found["formats.html"].text
    assert "runs/script.html" in found


def test_names_that_break_lines_or_are_no_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    run = invented_run(name="a\nb\udcff", shapes=(SHAPE,), recipes=("bf16",))
    name = "a\nb\udcff"
    make(tmp_path, {name: run})
    page = Page(site(tmp_path, {name: run}) / "index.html")
    assert rows_of(page, "trials")[0]["run"] == "a\\nb\\udcff"


def test_runs_of_like_names_have_pages_of_their_own(tmp_path: Path) -> None:
    run = invented_run(name="x", shapes=(SHAPE,), recipes=("bf16",))
    runs = {"a b": run, "a-b": run, "A/b": run}
    make(tmp_path, runs)
    found = site(tmp_path, runs)
    assert len({path.name.lower() for path in (found / "runs").iterdir()}) == 3


def test_errors_are_a_row_a_recipe_and_a_column_a_kind_of_data(tmp_path: Path) -> None:
    products = [
        {"recipe": name, "data": data, "sqnr_db": value}
        for name, data, value in (
            ("a", "normal", 20.0),
            ("a", "outlier", 10.26),
            ("b", "normal", None),
            ("c", "outlier", 5.0),
        )
    ]
    weights = {"ranking": [{"format": "e4m3fn.row", "sqnr_db": 31.0}]}
    make(tmp_path, {}, products={**ERROR, "products": products})
    make(tmp_path, {}, weights={"schema": ERROR["schema"], "weights": weights})
    page = Page(site(tmp_path, {}) / "formats.html")
    assert page.tables() == [
        (
            ["recipe", "SQNR normal, dB", "SQNR outlier, dB"],
            [["b", "exact", "–"], ["a", "20.0", "10.3"], ["c", "–", "5.0"]],
        ),
        (["format", "SQNR, dB"], [["e4m3fn.row", "31.0"]]),
    ]
