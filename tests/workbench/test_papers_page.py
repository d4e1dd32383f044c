"""``docs/papers.md``: what it says was measured stands in the records that it links."""

import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from bench.papers import CLAIMS, NOT_YET, PAGE, figures, page
from bench.papers.__main__ import main
from bench.papers.evidence import FILES, text_of

ROOT = PAGE.parents[1]
LANGUAGE, VISION, ALL = ("encoder", "text"), ("vision",), ("encoder", "text", "vision", "table")
#: Families that a claim's shares are counted over, by the beginning of the claim.
FAMILIES = {
    "FP8 after training reaches": LANGUAGE,
    "92.64 % of the workloads": ALL,
    "language: 96.32 %": LANGUAGE,
    "vision: 78.95 %": VISION,
    "E5M2 needs no calibration": ALL,
    "E4M3 activations with E3M4": ("text", "vision", "table"),
    "MX formats replace FP32": ALL,
}


def record(path: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return content


def at(path: str, pointer: str) -> Any:
    """What a JSON pointer names."""
    found: Any = record(path)
    for key in pointer.split("/")[1:]:
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


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


ACCURACY, KERNELS = record("evidence/cpu/accuracy.json"), record("evidence/h200/kernels.json")
SCHEMES = record("evidence/cpu/accuracy-schemes.json")


def rows() -> list[list[str]]:
    """Cells of the tables' rows: claim, place, measured, predicted."""
    found = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| the paper's claim")
    ]
    assert all(len(cells) == 4 for cells in found)
    return found


def test_the_page_is_what_the_records_make() -> None:
    stored = PAGE.read_text(encoding="utf-8")
    assert page(stored) == stored, "run: python -m bench.papers"


def test_there_is_a_row_for_every_claim_of_four_papers() -> None:
    assert [cells[0] for cells in rows()] == [c.text for p in CLAIMS for c in p.claims]
    assert [len(p.claims) >= 2 for p in CLAIMS] == [True] * 4
    for paper in CLAIMS:
        assert f"## {paper.name}\n\n{paper.where}." in PAGE.read_text(encoding="utf-8")


def within(recipe: str, families: tuple[str, ...]) -> tuple[int, int]:
    """Pairs of a recipe that lose at most 1 %, and pairs, counted on the raw scores."""
    base = {r["pair"]: r["score"] for r in ACCURACY["rows"] if r["recipe"] == "fp32"}
    taken = [
        (r["score"], base[r["pair"]])
        for r in ACCURACY["rows"]
        if r["recipe"] == recipe and r["family"] in families and not r["tuned"]
    ]
    passed = [s for s, exact in taken if s is not None and s >= exact - 0.01 * abs(exact) - 1e-9]
    return len(passed), len(taken)


def test_every_share_is_that_of_the_scores() -> None:
    checked = 0
    for claim, _, measured, _ in rows():
        if "[schemes][s]" in measured:
            continue
        for recipe, passed, pairs in re.findall(r"([a-z][\w-]+) (\d+) of (\d+)", measured):
            (families,) = (f for start, f in FAMILIES.items() if claim.startswith(start))
            assert (int(passed), int(pairs)) == within(recipe, families), f"{claim}: {recipe}"
            checked += 1
    assert checked >= 15


def changes(recipe: str, scheme: str) -> dict[str, float]:
    """Relative changes in percent by pair, from the raw scores."""
    base = {r["pair"]: r["score"] for r in SCHEMES["rows"] if r["recipe"] == "fp32"}
    return {
        r["pair"]: 100 * (r["score"] / base[r["pair"]] - 1)
        for r in SCHEMES["rows"]
        if (r["recipe"], r["scheme"], r["tuned"]) == (recipe, scheme, False)
    }


def test_schemes_are_compared_on_the_same_pairs() -> None:
    checked = 0
    for _, _, measured, _ in rows():
        if "[schemes][s]" not in measured:
            continue
        names, told = (
            re.fullmatch(r"`(.*?)` and `(.*?)`: .*", measured).groups(),
            measured.split(": ", 1)[1].removesuffix(" ([schemes][s])"),
        )  # type: ignore[union-attr]
        every = [
            changes(recipe, name)
            for recipe in ("fp8-ptq-e4m3", "fp8-ptq-e3m4", "int8-ptq")
            for name in names
        ]
        pairs = set.intersection(*map(set, every))
        assert len(pairs) >= 15
        for part in told.split("; "):
            recipe, *shares, of = re.match(r"(\S+) (\d+) and (\d+) of (\d+), ", part).groups()  # type: ignore[union-attr]
            both = [changes(recipe, name) for name in names]
            assert int(of) == len(pairs)
            within = [{p for p in pairs if one[p] >= -1 - 1e-7} for one in both]
            assert [int(one) for one in shares] == [len(one) for one in within]
            means = re.search(r"mean change (\S+) and (\S+) %", part).groups()  # type: ignore[union-attr]
            assert list(means) == [f"{fmean(one[p] for p in pairs):+.2f}" for one in both]
            apart = re.findall(
                r"([\w.-]+) ([-+][\d.]+) and ([-+][\d.]+) %", part.split("(apart")[-1]
            )
            expected = within[0] ^ within[1]
            listed = {p: told for p, *told in apart} if "(apart" in part else {}
            assert listed == {p: [f"{one[p]:+.2f}" for one in both] for p in expected}
            checked += 1
    assert checked == 9


def test_every_change_of_a_score_is_that_of_the_scores() -> None:
    checked = 0
    for _, _, measured, _ in rows():
        if "change of the score on " not in measured:
            continue
        names, told = re.search(
            r"change of the score on (.*?): (.*?) \(\[accuracy\]\[a\]\)", measured
        ).groups()  # type: ignore[union-attr]
        pairs = names.split(", ")
        for recipe, listed in re.findall(r"([a-z][\w-]+) ([-+][^;]*) %", told):
            scores = {r["pair"]: r for r in ACCURACY["rows"] if r["recipe"] == recipe}
            expected = [f"{100 * (scores[p]['score'] / scores[p]['fp32'] - 1):+.2f}" for p in pairs]
            assert listed.split(", ") == expected
            checked += 1
    assert checked == 2


def test_every_ratio_of_kernels_stands_in_their_table() -> None:
    known = {
        (f"{line['geomean']:.2f}", str(line["problems"]))
        for line in KERNELS["table"]
        if line["geomean"] is not None and "32x32" in line["row"]
    }
    found = {
        pair
        for _, _, measured, _ in rows()
        for pair in re.findall(r"(\d\.\d\d) times as fast, geometric mean over (\d+)", measured)
    }
    assert len(found) == 2
    assert found <= known


def test_every_figure_of_the_block_is_that_of_its_record() -> None:
    (row,) = record("evidence/h200/block.json")["rows"]
    step = row["measured"]["forward_backward"]
    variants = {"32": step["jetfire"], "64": step["jetfire-64"], "128": step["jetfire-128"]}
    found = []
    for _, _, measured, _ in rows():
        found += re.findall(r"blocks of (\d+): (\d\.\d\d) times (as fast|less above)", measured)
    assert len(found) == 6
    for side, told, what in found:
        key = "measured_us" if what == "as fast" else "peak_above_gradients_bytes"
        assert told == f"{step['eager'][key] / variants[side][key]:.2f}"


def test_no_other_figure_is_told_as_measured_and_none_as_predicted() -> None:
    """What is left of a measured cell without the figures above and names holds no number."""
    names = {r["recipe"] for r in ACCURACY["rows"]} | {r["pair"] for r in ACCURACY["rows"]}
    names |= {r["recipe"] for r in record("evidence/h200/train-gpt.json")["runs"]}
    for claim, _, measured, predicted in rows():
        left = re.sub(
            r"GPT of 13 million parameters, 2000 steps|\(\d seeds(, \d unfinished)?\)|"
            r"95 % intervals|at most \d+\.\d\d % from a CPU|"
            r"within [\d.]+ %|\d+ and \d+ of \d+|[-+]\d\.\d\d ± \d\.\d\d %|"
            r"gpt-\d+-block \d+x\d+|blocks of \d+: \d\.\d\d times (as fast|less above)|\d+ of \d+|"
            r"[-+]\d+\.\d\d|\d\.\d\d times .* over \d+ products",
            "",
            measured,
        )
        for name in sorted(names, key=len, reverse=True):
            left = left.replace(name, "")
        assert not re.search(r"\d", re.sub("H200|bf16|fp32", "", left)), claim
        assert not re.search(r"\d", predicted.replace("bf16", "")), claim
        assert NOT_YET in measured or re.search(
            r"\[(accuracy|schemes|kernels|block|training|on kernels)\]", measured
        ), claim
        assert "predicted" not in measured


def test_commands_of_the_page_are_those_of_the_record() -> None:
    told = re.findall(r"`(python -m bench\.accuracy [^`]*)`", PAGE.read_text(encoding="utf-8"))
    sessions = {row["session"] for row in ACCURACY["rows"]}
    commands = [ACCURACY["sessions"][index]["command"] for index in sorted(sessions)]
    carried = [command for command in told if "--carried" in command]
    schemes = [command for command in told if "--scheme" in command]
    assert schemes == [s["command"] for s in SCHEMES["sessions"]]
    told = [command for command in told if command not in carried + schemes]
    if carried:
        assert set(carried) <= {s["command"] for s in record(figures.ON_KERNELS)["sessions"]}
    assert set(told) <= set(commands)
    assert {ACCURACY["sessions"][r["session"]]["command"] for r in ACCURACY["rows"]} >= set(told)
    assert told
    for path in re.findall(r"^\[\w\]: \.\./(\S+)$", PAGE.read_text(encoding="utf-8"), re.M):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("found", [ACCURACY, SCHEMES], ids=["standard", "schemes"])
def test_the_record_is_complete_and_of_one_quantiser(found: dict[str, Any]) -> None:
    assert found["schema"] == "tile-workbench/accuracy/1"
    assert found["begun"] == []
    scored = [row for row in found["rows"] if row["recipe"] != "fp32"]
    assert {row["status"] for row in scored} == {"scored"}
    assert len({row["quantizer"] for row in scored}) == 1
    for session in found["sessions"]:
        assert session["versions"]["torch"]
        assert session["device"] == "cpu"


def test_what_the_guide_says_of_the_record_is_so() -> None:
    guide = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
    rows, minutes = re.search(r"its (\d+) rows took (\d+) minutes", guide).groups()  # type: ignore[union-attr]
    assert int(rows) == len(ACCURACY["rows"])
    assert int(minutes) == round(sum(row["seconds"] for row in ACCURACY["rows"]) / 60)


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


@pytest.mark.parametrize("family", ["encoder", "text", "vision", "table"])
def test_every_family_has_pairs(family: str) -> None:
    assert any(row["family"] == family for row in ACCURACY["rows"])
