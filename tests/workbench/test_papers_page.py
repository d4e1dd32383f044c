"""``docs/papers.md``: what it says was measured stands in the records that it links."""

import re
from statistics import fmean
from typing import Any

import pytest
from paper_records import ROOT, record, rows

from bench.papers import CLAIMS, NOT_YET, PAGE, figures, page

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


ACCURACY, KERNELS = record("evidence/cpu/accuracy.json"), record("evidence/h200/kernels.json")
SCHEMES = record("evidence/cpu/accuracy-schemes.json")


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
    steps = {
        row["case"]: row["measured"]["forward_backward"]
        for row in record("evidence/h200/block.json")["rows"]
    }
    checked = set()
    for _, _, measured, _ in rows():
        for case, run, base, listed in re.findall(
            r"(gpt-\d+-block \d+x\d+), (launched|replayed)[ \w]*, beside (\S+) bf16: ([^;(]*)",
            measured,
        ):
            found = re.findall(r"blocks of (\d+): (\d\.\d\d) times (as fast|less above)", listed)
            assert len(found) == len(listed.split(", "))
            for side, told, what in found:
                name = {"32": "jetfire", "64": "jetfire-64", "128": "jetfire-128"}[side]
                ours = steps[case][name if run == "launched" else f"{name}-graph"]
                key = "measured_us" if what == "as fast" else "peak_above_gradients_bytes"
                bf16 = [steps[case][one].get(key) for one in ("eager", "eager-graph")]
                assert steps[case][base][key] == min(filter(None, bf16))
                assert told == f"{steps[case][base][key] / ours[key]:.2f}"
                checked.add((case, run, side, what))
    assert len(checked) == 2 * 3 * 3  # cases, sides, times of both runs and memory


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


@pytest.mark.parametrize("family", ["encoder", "text", "vision", "table"])
def test_every_family_has_pairs(family: str) -> None:
    assert any(row["family"] == family for row in ACCURACY["rows"])
