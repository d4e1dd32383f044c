"""The site and its folders: what it is made of, what it refuses, what it never touches."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emit_runs import simulated_run
from site_page import Page, rows_of
from site_projects import (
    ERROR,
    THEN,
    make,
    site,
    small_runs,
)

import workbench
from workbench.reporting.site import contents, write_site


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
