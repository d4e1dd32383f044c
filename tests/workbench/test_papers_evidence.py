"""Papers' evidence: every figure is what the records hold, every loss of the page is there."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from paper_records import ROOT, at, record, rows

from bench.papers import CLAIMS, NOT_YET, figures
from bench.papers.__main__ import main
from bench.papers.evidence import FILES, text_of


def value_of(figure: Any) -> float:
    """A figure from what stands at its places, by its rule."""
    found = [at(figure["source"], pointer) for pointer in figure["at"]]
    match figure["rule"]:
        case "value":
            (one,) = found
            return float(one)
        case "ratio":
            first, second = found
            return float(first / second)
        case "paired":
            return fmean(a / b - 1 for a, b in zip(found[::2], found[1::2], strict=True))
        case "mean":
            return fmean(found)
        case "within":
            return float(sum(one >= -0.01 - 1e-9 for one in found))
    raise AssertionError(figure["rule"])


@pytest.mark.parametrize("name", FILES)
def test_a_paper_s_evidence_is_what_the_records_hold(name: str) -> None:
    path = f"evidence/h200/{name}.json"
    stored = (ROOT / path).read_text(encoding="utf-8")
    assert stored == text_of(name), f"run: python -m bench.papers --evidence {name}"
    content = record(path)
    told = [f for p in content["papers"] for c in p["claims"] for f in c["measured"]]
    assert told
    for figure in told:
        assert figure["value"] == pytest.approx(value_of(figure), rel=1e-12), figure["what"]
        assert "predicted" not in figure["what"]
        if figure["rule"] == "paired":
            found = [at(figure["source"], pointer) for pointer in figure["at"]]
            pairs = [a / b - 1 for a, b in zip(found[::2], found[1::2], strict=True)]
            error = stdev(pairs) / len(pairs) ** 0.5
            assert figure["error"] == pytest.approx(error, rel=1e-12)
    assert set(content["sources"]) == {figure["source"] for figure in told}
    for path, source in content["sources"].items():
        assert (ROOT / path).is_file()
        for run in source["runs"]:
            assert run["command"].startswith("python -m bench.")
            assert run["gpu"]
            assert run["versions"]["torch"]


def test_scores_on_kernels_are_told_once_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(recipe: str, change: float) -> dict[str, Any]:
        made = {"pair": "minilm.readmes", "family": "encoder", "recipe": recipe, "tuned": False}
        made |= {"scheme": "standard", "digest": "", "quantizer": "", "status": "scored"}
        return made | {"score": 0.8 * (1 + change), "fp32": 0.8, "change": change, "session": 0}

    path = tmp_path / figures.ON_KERNELS
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    figures.record.cache_clear()
    try:
        assert NOT_YET in figures.kernel_scores("fp8-bert", "int8-ptq").text
        beside = [
            {"pair": "minilm.readmes", "recipe": "int8-ptq", "apart": -0.0021},
            {"pair": "minilm.readmes", "recipe": "mxfp4", "apart": 0.5},
        ]
        rows = [row("fp8-bert", 0.0012), row("int8-ptq", -0.021)]
        path.write_text(json.dumps({"rows": rows, "beside": {"rows": beside}}))
        found = figures.kernel_scores("fp8-bert", "int8-ptq")
    finally:
        figures.record.cache_clear()
    assert found.text == (
        "On an H200's kernels, minilm.readmes: fp8-bert +0.12 %; int8-ptq -2.10 %; "
        "at most 0.21 % from a CPU's ([on kernels][g])"
    )
    assert [(one.value, one.at) for one in found.figures] == [
        (pytest.approx(0.0012), ("/rows/0/change",)),
        (pytest.approx(-0.021), ("/rows/1/change",)),
        (-0.0021, ("/beside/rows/0/apart",)),
    ]


def test_the_evidence_of_all_papers_holds_every_claim() -> None:
    found = [p for name in FILES for p in record(f"evidence/h200/{name}.json")["papers"]]
    claims = {p["paper"]: [c["claim"] for c in p["claims"]] for p in found}
    assert claims == {p.name: [c.text for c in p.claims] for p in CLAIMS}


def test_every_loss_that_the_page_tells_is_a_figure_of_the_evidence() -> None:
    told = {
        f"{100 * figure['value']:+.2f} ± {100 * figure['error']:.2f}"
        for name in ("jetfire", "mx")
        for paper in record(f"evidence/h200/{name}.json")["papers"]
        for claim in paper["claims"]
        for figure in claim["measured"]
        if figure["rule"] == "paired"
    }
    cells = [measured for _, _, measured, _ in rows()]
    found = {one for cell in cells for one in re.findall(r"[-+]\d\.\d\d ± \d\.\d\d", cell)}
    assert found == told
    assert len(found) >= 7


@pytest.mark.parametrize(
    "words",
    [["--evidence", "jetfyre"], ["--evidence", "mx", "--evidence", "ptq", "--output", "a.json"]],
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word.replace("a.json", str(tmp_path / "a.json")) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --")
    assert not list(tmp_path.iterdir())


def test_evidence_is_written_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "mx.json"
    assert main(["--evidence", "mx", "--output", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == text_of("mx")
