"""The page and the table about a checkpoint: its figures, and names that stay text."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call
from report_page import Page
from safetensors.torch import save_file
from weight_files import BEST, FORMATS, HOSTILE, known_checkpoint, normal

import workbench
from workbench.printable import printable


class WeightsPage(Page):
    """The page about a checkpoint."""

    @property
    def figures(self) -> dict[str, Any]:
        parsed = json.loads(self.scripts[0])
        assert parsed["schema"] == "tile-workbench/weights-page/1"
        return {figure["key"]: figure["views"] for figure in parsed["figures"]}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return known_checkpoint(tmp_path_factory.mktemp("known") / "model.safetensors")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    tensors = {f"{HOSTILE}.weight": normal(32, 32, 1), "x" * 5000: normal(32, 32, 2)}
    save_file({**tensors, f"{HOSTILE}.norm": torch.ones(3), "fine": normal(32, 32, 3)}, path)
    return path


def test_names_from_the_file_do_not_steer_the_terminal(call: Call, hostile: Path) -> None:
    answer = call("error", "--weights", hostile, "--format", "int8.row")
    assert answer.code == 0
    printed = answer.out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[red]\\x1b" in re.sub(r"[\s│]", "", printed)
    assert printed.count("x" * 200) == 0
    answer = call("error", "--weights", hostile, "--format", "int8.row", "--json")
    assert answer.code == 0
    layers = json.loads(answer.out)["weights"]["layers"]
    assert f"{HOSTILE}.weight" in {layer["name"] for layer in layers}


def test_names_from_the_file_stay_text_on_the_page(hostile: Path, tmp_path: Path) -> None:
    fine = tmp_path / "fine.safetensors"
    save_file({"fine": normal(32, 32, 3), "norm": torch.ones(3)}, fine)
    pages = []
    for path in (fine, hostile):
        out = path.with_suffix(".html")
        workbench.error(weights=path, formats=FORMATS, html=out)
        pages.append(WeightsPage(out))
    clean, got = pages
    assert {tag for tag, _ in got.elements} <= {tag for tag, _ in clean.elements}
    assert len(got.scripts) == len(clean.scripts) == 3
    assert got.scripts[1:] == clean.scripts[1:]
    assert not [a for _, a in got.elements if any(name.startswith("on") for name in a)]
    assert printable(f"{HOSTILE}.weight") in got.text
    assert "\x1b" not in got.source
    assert "<" not in json.dumps(
        [v["data"] for views in got.figures.values() for v in views]
    ).replace("<br>", "").replace("<extra></extra>", "")


def test_the_page_holds_the_figures_of_the_report(known: Path, tmp_path: Path) -> None:
    from plotly.graph_objects import Figure  # refuses unknown traces and properties

    out = tmp_path / "new" / "page.html"
    report = workbench.error(weights=known, formats=FORMATS, html=out).weights
    assert report is not None
    got = WeightsPage(out)
    assert [a["id"] for tag, a in got.elements if tag == "section"] == [
        "ranking",
        "map",
        "numbers",
        "others",
    ]
    absolute, behind = got.figures["layer-map"]
    for view in (absolute, behind):
        assert Figure(data=view["data"], layout=view["layout"]).data
    order = [str(row.format) for row in report.ranking()]
    assert absolute["data"][0]["x"] == order
    assert absolute["layout"]["yaxis"]["ticktext"] == [
        name.removesuffix(".weight") for name in BEST
    ]
    for best, texts, gaps in zip(
        BEST.values(), absolute["data"][0]["customdata"], behind["data"][0]["z"], strict=True
    ):
        assert texts[order.index(best)][1] == "exact"
        assert gaps[order.index(best)] == 0
        assert sum(gap == 0 for gap in gaps) == 1
    assert "bits / element" in got.headings()
    assert "8.500" in got.text  # int8.row: a scale of 32 bits for 64 columns
    assert "1-dimensional" in got.text
    (policy,) = (a["content"] for t, a in got.elements if a.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'; ")
    assert not {tag for tag, _ in got.elements} & {"img", "link", "iframe", "object", "base"}


def test_a_page_of_many_layers_groups_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_file({f"layers.{i}.{n}": normal(8, 8, i) for i in range(4) for n in "ab"}, path)
    monkeypatch.setattr("workbench.reporting.layer_map.MAX_ROWS", 7)
    monkeypatch.setattr("workbench.reporting.weights.MAX_LISTED", 3)
    workbench.error(weights=path, formats="int8.row", html=tmp_path / "page.html")
    got = WeightsPage(tmp_path / "page.html")
    (trace,) = got.figures["layer-map"][0]["data"]
    assert [row[0][0] for row in trace["customdata"]] == ["layers.*.a (4)", "layers.*.b (4)"]
    assert "5 more are in the JSON answer" in got.text


def test_an_unwritable_page_is_told_before_the_work_and_an_older_one_stays(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    older = '<meta name="generator" content="tile-workbench/weights-page/1">'
    out.write_text(older)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ValueError, match="disk full: free space"):
        workbench.error(weights=known, formats="int8.row", html=out)
    assert out.read_text() == older
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    monkeypatch.setattr("workbench.errors.rank_weights", lambda *_, **__: pytest.fail("worked"))
    with pytest.raises(ValueError, match="is a folder"):
        workbench.error(weights=known, formats="int8.row", html=tmp_path)
    with pytest.raises(ValueError, match="exists and holds no tile-workbench/weights-page"):
        workbench.error(weights=known, formats="int8.row", html=known)


def test_a_checkpoint_of_nothing_to_rank_is_still_answered(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"norm": torch.ones(3)}, path)
    printed = call("error", "--weights", path, "--html", tmp_path / "p.html")
    assert printed.code == 2
    assert "skipped: 1-dimensional" in printed.out
    assert "m.safetensors: no tensor could be ranked" in printed.err
    assert printed.err.strip().startswith("error: ")
    answer = call("error", "--weights", path, "--json")
    assert answer.code == 2
    assert json.loads(answer.out)["weights"]["ranking"] == []
    assert "No tensor could be ranked" in WeightsPage(tmp_path / "p.html").text
