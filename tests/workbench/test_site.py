"""The site of a project folder: what is on it, what it refuses, what it never touches."""

import base64
import csv
import io
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from emit_runs import simulated_run
from report_runs import invented_run
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

import workbench
from workbench.reporting.site import contents, write_site
from workbench.reporting.site.frame import PAGES

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._skip = False
        self.path = path
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._skip = tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self._skip = False

    def handle_data(self, data: str) -> None:
        if not self._skip:
            self.text += data + "\n"

    def tables(self) -> list[tuple[list[str], list[list[str]]]]:
        """Headings and rows of every table, as plain text."""
        found = []
        for body in re.findall(r"<table>.*?</table>", self.source, re.S):
            heads = re.findall(r"<th [^>]*>(.*?)</th>", body)
            rows = [
                [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
                for row in re.findall(r"<tr>(.*?)</tr>", body)[1:]
            ]
            found.append((heads, rows))
        return found

    def downloads(self) -> dict[str, list[dict[str, str]]]:
        """The CSV files that the page holds, by name."""
        found = {}
        for tag, attributes in self.elements:
            if tag == "a" and "download" in attributes:
                content = str(attributes["href"]).partition("base64,")[2]
                text = base64.b64decode(content).decode()
                found[str(attributes["download"])] = list(csv.DictReader(io.StringIO(text)))
        return found


def pages(folder: Path) -> dict[str, Page]:
    return {path.relative_to(folder).as_posix(): Page(path) for path in folder.rglob("*.html")}


def rows_of(page: Page, head: str) -> list[dict[str, str]]:
    """The rows of the first table with a heading, by heading."""
    heads, rows = next(one for one in page.tables() if head in one[0])
    return [dict(zip(heads, row, strict=True)) for row in rows]


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
                    assert re.search("predicted|measured|IQR", head), head


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
    run = invented_run(name="x", shapes=(SHAPE,), recipes=("bf16",))
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


def _foreign(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A change of a site that is there."""

    def prepare(folder: Path) -> object:
        make(folder, {}, error=ERROR)
        return change(site(folder, {}))

    return prepare


def _edited(**changes: Any) -> Callable[[Path], object]:
    def edit(place: Path) -> None:
        path = place / "site.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return _foreign(edit)


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file": (lambda f: (f / "site").touch(), "is not a folder"),
    "a folder of others": (
        lambda f: ((f / "site").mkdir(), (f / "site/index.html").touch()),
        "holds no site",
    ),
    "a link": (
        lambda f: ((f / "else").mkdir(), (f / "site").symlink_to(f / "else")),
        "is a link",
    ),
    "a page of others in it": (
        _foreign(lambda s: (s / "notes.html").touch()),
        "'notes.html' is not of the site",
    ),
    "an empty folder of others in it": (
        _foreign(lambda s: (s / "mine").mkdir()),
        "'mine' is not of the site",
    ),
    "torn data": (
        _foreign(lambda s: (s / "site.json").write_text('{"schema": ')),
        "cut off or not JSON",
    ),
    "another version": (_edited(schema="tile-workbench/site/2"), "schema 'tile-workbench/site/2'"),
    "files out of order": (_edited(files=5), "out of order"),
    "studies of another kind": (_edited(studies=[{"run": "x"}]), "other fields"),
}


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(("prepare", "said"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_is_not_our_site_is_never_overwritten(
    prepare: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    prepare(tmp_path)
    make(tmp_path, {}, error=ERROR)
    before = everything(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        site(tmp_path, {})
    assert "choose another --output" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before


def test_a_site_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, {}, error=ERROR)
    site(tmp_path, {}, THEN)
    before = everything(tmp_path)
    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.name == "site" and target == tmp_path / "site":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(ValueError, match="No space left on device: free space"):
        site(tmp_path, {})
    assert everything(tmp_path) == before


def test_the_next_site_has_no_page_of_a_run_that_is_gone(tmp_path: Path) -> None:
    runs = small_runs()
    make(tmp_path, runs)
    site(tmp_path, runs, THEN)
    (tmp_path / "runs/tomorrow/plan.json").unlink()
    found = site(tmp_path, runs)
    assert [path.name for path in (found / "runs").iterdir()] == ["runs-today.html"]
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".workbench")]


def test_links_are_not_followed_out_of_the_folder(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "project"
    runs = small_runs()
    make(outside, {"run": runs["runs/today"]}, error=ERROR)
    make(folder, {"half": runs["runs/today"], "run": runs["runs/today"]})
    (folder / "linked").symlink_to(outside / "run")
    (folder / "error.json").symlink_to(outside / "error.json")
    (folder / "half" / "journal.log").symlink_to(outside / "run" / "plan.json")
    (folder / "again").symlink_to(folder / "run")  # found where it is
    (folder / "loop").symlink_to(folder)
    page = Page(site(folder, {"run": runs["runs/today"]}) / "index.html")
    unread = {row["what"]: row["why"] for row in rows_of(page, "why")}
    assert set(unread) == {"linked", "error.json", "half"}
    assert all("leads out of the folder" in why for why in unread.values())
    assert [row["run"] for row in rows_of(page, "trials")] == ["run"]


def test_folders_that_cannot_be_read_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small_runs()
    make(tmp_path, runs)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)  # root may read everything
    page = Page(site(tmp_path, runs) / "index.html")
    assert {"what": "closed", "why": "cannot be read: Permission denied"} in rows_of(page, "why")


def test_the_walk_stops_at_its_limits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = small_runs()
    make(tmp_path, {**runs, "1/2/3/4/5/deep": runs["runs/today"]})
    page = Page(site(tmp_path, runs) / "index.html")
    (row,) = rows_of(page, "why")
    assert row["what"] == "1/2/3/4/5"
    assert "more than 4 folders down" in row["why"]
    monkeypatch.setattr(contents, "MAX_ENTRIES", 3)
    (row, *_) = rows_of(Page(site(tmp_path, runs) / "index.html"), "why")
    assert "more than 3 files and folders" in row["why"]


@pytest.mark.parametrize("prepare", ["", "notes.txt", "other.json", ".hidden/plan.json"])
def test_a_folder_with_nothing_to_report_is_a_mistake(prepare: str, tmp_path: Path) -> None:
    if prepare:
        (tmp_path / prepare).parent.mkdir(exist_ok=True)
        (tmp_path / prepare).write_text("{}")
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="holds no run folder, package, calibration or error"):
        workbench.report(tmp_path)
    assert everything(tmp_path) == before


def test_no_site_becomes_part_of_a_runs_record(tmp_path: Path) -> None:
    make(tmp_path, small_runs())
    for name in ("plan.json", "journal.log.torn", "x.lease"):
        with pytest.raises(ValueError, match="the run's own record goes there"):
            write_site(tmp_path, tmp_path / "runs/today" / name)


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


@pytest.mark.parametrize(
    "answer",
    [
        '"products": 5}',
        '"products": [{"recipe": "x"}]}',
        '"products": [{"recipe": "x", "data": "normal", "sqnr_db": "much"}]}',
        '"weights": {"ranking": 1}}',
        "[" * 100_000,
    ],
)
def test_answers_of_another_shape_are_listed_with_the_reason(answer: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(f'{{"schema": "tile-workbench/error/1", {answer}')
    page = Page(site(tmp_path, {}) / "index.html")
    (row,) = rows_of(page, "why")
    assert row["what"] == "x.json"
    assert (
        "not as this version writes it" in row["why"]
        or "not JSON" in row["why"]
        or "much" in row["why"]
    )


def test_the_site_goes_where_it_is_told(tmp_path: Path) -> None:
    make(tmp_path / "project", {}, error=ERROR)
    assert workbench.report(tmp_path / "project", tmp_path / "new/place") == (
        tmp_path / "new/place/index.html"
    )
    assert workbench.report(tmp_path / "project") == tmp_path / "project/site/index.html"
    assert workbench.report(tmp_path / "project") == tmp_path / "project/site/index.html"
    with pytest.raises(ValueError, match="holds no site"):
        workbench.report(tmp_path / "project", tmp_path / "project")
    with pytest.raises(ValueError, match="control characters"):
        write_site(tmp_path / "project", tmp_path / "a\nb")


@pytest.mark.slow
def test_a_torn_journal_costs_its_run_alone(tmp_path: Path) -> None:
    for name in ("whole", "torn"):
        simulated_run(tmp_path / name, [("gemm:64x64x128:bf16:bf16", "triton_gemm")])
    journal = tmp_path / "torn" / "journal.log"
    journal.write_bytes(journal.read_bytes()[:-40])
    page = Page(workbench.report(tmp_path))
    assert [row["run"] for row in rows_of(page, "trials")] == ["whole"]
    (row,) = rows_of(page, "why")
    assert row["what"] == "torn"
    assert row["why"].startswith("torn/journal.log")
    assert f"workbench repair {tmp_path / 'torn'}" in row["why"]
