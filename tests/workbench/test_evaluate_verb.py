"""``workbench evaluate``: what it prints, what it refuses, and the page that it writes."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from command_line import Call, is_mistake

import sim
import workbench
from sim.evaluation import Kind, Predicted, Split, default_predictors
from sim.evaluation.baselines.matmul_heuristics import installed
from sim.evaluation.baselines.own import CostModelAsItIs
from sim.measured import MeasuredTable
from sim.measured_file import read_measured, write_measured
from workbench import evaluation
from workbench.evaluation_page import BEGIN, END, section, with_section
from workbench.evaluation_report import OPTIONAL
from workbench.evaluation_tables import evaluation_grids
from workbench.grid import markdown

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "h200"
REWRITTEN = DATA / "rewritten_sweeps" / "measurements.parquet"
PAGE = ROOT / "docs" / "cost-model.md"
STORED = ROOT / "docs" / "cost-model" / "evaluation.json"
#: What renews the page, its plots and the golden copy.
RENEW = "workbench evaluate --calibrated --write docs/cost-model.md"

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven studies of one family, to be judged: nothing is fitted on a split by template."""
    tables = read_measured(DATA / "first_look" / "measurements.parquet")
    folder = tmp_path_factory.mktemp("data") / "small"
    judged = [replace(one, in_view=False) for one in tables if one.problem.shape[0] == 4096]
    write_measured(folder / "measurements.parquet", judged)
    return folder


FAST = ("--split", "template", "--no-search")


def test_it_prints_aims_scores_and_where_the_model_is_wrong(call: Call, small: Path) -> None:
    code, out, err = call("evaluate", "--data", small, *FAST)
    assert code == 0, err
    assert "What was reached beside what is asked" in out
    assert "Predictors on 198 measured configurations of 7 studies" in out
    for name in ("cost model", "roofline", "Helion's formula", "random", "noise"):
        assert name in out
    notes = " ".join(out.split())  # notes are folded to the table's width
    assert "Split template not made: the tables are all of one kind" in notes
    said = "Not run: nvMatmulHeuristics: its package is not installed: pip install"
    assert (said in notes) != installed()


def test_json_holds_every_figure(call: Call, small: Path) -> None:
    code, out, err = call("evaluate", "--data", small, *FAST, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["schema"] == "tile-workbench/evaluation/1"
    assert found["sets"] == [
        {
            "path": small.as_posix(),
            "tables": 7,
            "rows": 198,
            "judged": 198,
            "chosen_by_predictions": False,
            "left_out": [],
        }
    ]
    scores = {one["predictor"]: one for one in found["scores"]}
    assert scores["cost model"]["mape"] < scores["roofline"]["mape"]
    assert scores["random"]["top1"] == scores["roofline"]["top1"]
    assert scores["measured, the oracle"]["top1"] == 1.0
    assert scores["noise: one launch"]["tables"] == 0  # no spread was kept
    assert found["pace"]["cost model"] > 1000


def test_stale_studies_are_told_above_the_tables(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("evaluate", "--data", DATA / "replay" / "hopper_gemm", *FAST)
    changed = "with hopper_gemm: the source of hopper_gemm changed"
    monkeypatch.setattr("tuning.staleness.source_digest", lambda template: "another")
    code, out, err = call(*asked)
    assert code == 0, err
    told = out.splitlines()[:4]
    assert all(line.startswith("stale: ") for line in told)
    assert [changed in line for line in told] == [True, True, True, False]
    assert told[3].endswith("hopper_gemm: 5 more studies: --json")
    found = json.loads(call(*asked, "--json").out)
    assert len(found["stale"]) == 8
    assert all(changed in line for line in found["stale"])


def test_the_same_seed_gives_the_same_figures(small: Path) -> None:
    once, again = (
        workbench.evaluate(small, splits="template", search=False).to_dict() for _ in range(2)
    )
    for one in (once, again):
        for name in ("pace", "seconds"):
            one.pop(name)
        one["aims"] = [aim for aim in one["aims"] if aim["unit"] != "M/s"]
    assert once == again


def test_what_is_fitted_is_judged_where_something_is_asked_of_it(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit takes half a minute a fold, of which all splits together have forty."""
    fits: list[str] = []

    class Fitted(CostModelAsItIs):
        kind = Kind.FITTED

        def __init__(self, timings: int | None = None) -> None:
            super().__init__()
            self.name = "calibrated" + (f", {timings} timings" if timings else "")

        def fit(self, train: Sequence[MeasuredTable], gpu: sim.Gpu) -> None:
            fits.append(self.name)

    monkeypatch.setattr(evaluation, "CalibratedModel", Fitted)
    found = workbench.evaluate(small, predictors=[CostModelAsItIs()], calibrated=True, search=False)
    judged = {(row.predictor, row.split) for row in found.rows if row.split is not None}
    names = {"calibrated, 64 timings", "calibrated"}
    # All of one shape: the split by shape leaves nothing to fit with.
    assert judged == {(name, Split.FORMAT) for name in names}
    reached = {one.aim.quantity: one for one in found.reached}["MAPE, format unseen"]
    assert None not in reached.values
    assert set(fits) == names


def test_searches_follow_what_learned_on_other_shapes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands for 64 timings knows the truth here, what stands for all of them its opposite."""
    tables = read_measured(DATA / "first_look" / "measurements.parquet")
    formats = ("e4m3-row", "int8-row")
    judged = [replace(t, in_view=False) for t in tables if str(t.problem).split(":")[2] in formats]
    write_measured(tmp_path / "measurements.parquet", judged)
    times = {(str(t.problem), len(t)): t.time_us for t in judged}
    powers = {"calibrated, 64 timings": 1.0, "calibrated": -1.0}

    class Fitted(CostModelAsItIs):
        kind = Kind.FITTED

        def __init__(self, timings: int | None = None) -> None:
            super().__init__()
            self.name = "calibrated" + (f", {timings} timings" if timings else "")

        def predict(self, table: MeasuredTable, gpu: sim.Gpu) -> Predicted:
            told = times[str(table.problem), len(table)] ** powers[self.name]
            return Predicted(time_us=told, low_us=told / 1.1, high_us=told * 1.1)

    monkeypatch.setattr(evaluation, "CalibratedModel", Fitted)
    found = workbench.evaluate(
        tmp_path, splits=["shape"], predictors=[CostModelAsItIs()], calibrated=True
    )
    (four,) = (one for one in found.reached if one.aim.quantity == "`hybrid`, 4 measurements")
    as_it_is, few, full = four.values
    assert few == 1.0
    assert full is not None
    assert as_it_is is not None
    assert full < as_it_is < 1.0
    named = {(one.strategy.value, one.predictor) for one in found.searches}
    assert named == {("tpe", "cost model")} | {("hybrid", one) for one in ("cost model", *powers)}


def test_of_memory_bound_kernels_those_count_that_are_as_they_were_measured(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What searches chose is listed whatever became of the kernel."""

    def memory_bound() -> tuple[float | None, int]:
        found = workbench.evaluate(
            [small, DATA / "rewritten_sweeps"], splits=["template"], search=False,
            predictors=[CostModelAsItIs()],
        )  # fmt: skip
        aims = {one.aim.quantity: one.values[0] for one in found.reached}
        return aims["memory-bound kernels, MAPE"], len(found.frozen)

    tables = read_measured(REWRITTEN)
    measured = {one.kernel.template: one.source for one in tables}
    monkeypatch.setattr(evaluation, "source_digest", measured.__getitem__)
    today, listed = memory_bound()
    assert today is not None
    kernels = {t.kernel.template for t in tables if "dataflow" in str(t.problem)}
    rewritten = measured | dict.fromkeys(kernels, "another")
    monkeypatch.setattr(evaluation, "source_digest", rewritten.__getitem__)
    without_dataflow, still = memory_bound()
    assert without_dataflow is not None
    assert without_dataflow < today - 0.005
    assert still == listed
    monkeypatch.setattr(evaluation, "source_digest", lambda path: "another")
    assert memory_bound() == (None, listed)


def other_gpu(folder: Path, gpu: str) -> Path:
    tables = read_measured(DATA / "first_look" / "measurements.parquet")
    write_measured(folder / gpu / "measurements.parquet", [replace(t, gpu=gpu) for t in tables])
    return folder / gpu


def test_bad_input_is_one_line_and_exit_code_2(call: Call, small: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes((small / "measurements.parquet").read_bytes()[:900])
    empty = tmp_path / "empty"
    empty.mkdir()
    plain = tmp_path / "page.md"
    plain.write_text("# no marks\n")
    cases = {
        (): "data/h200: no such folder: name data sets with --data",
        ("--data", "nowhere"): "nowhere: no such folder",
        ("--data", str(empty)): "no data set there",
        ("--data", str(damaged)): "cannot be read as a data set",
        ("--data", str(small), "--split", "shapes"): "unknown split 'shapes': did you mean",
        ("--data", str(small), "--gpu", "a100"): "was measured on h200, --gpu is a100",
        ("--data", str(small), "--gpu", "x100"): "x100",
        ("--data", str(small), "--seed", "-1"): "seed = -1: must lie in 0..2^32-1",
        ("--data", str(other_gpu(tmp_path / "1", "mine"))): "on 'mine', which has no GPU file",
        ("--data", str(small), "--data", str(other_gpu(tmp_path / "2", "a100"))): "sets of one",
        ("--data", str(DATA / "first_look")): "every table was in view",
        ("--data", str(small), "--write", "none.md"): "none.md: no such page",
        ("--data", str(small), "--write", "/dev/null"): "/dev/null: is not a regular file",
        ("--data", str(small), "--write", str(plain)): "holds no section to replace",
    }
    for arguments, says in cases.items():
        answer = call("evaluate", *arguments)
        is_mistake(answer, says)
        assert answer.out == "", arguments


def test_a_page_keeps_what_stands_around_its_section(
    call: Call, small: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Mine\n\n{BEGIN}\nan older evaluation\n{END}\nafter\n")
    for _ in range(2):  # its own files are replaced
        code, _, err = call("evaluate", "--data", small, *FAST, "--write", page)
        assert code == 0, err
    text = page.read_text()
    assert text.startswith(f"# Mine\n\n{BEGIN}\n\nGPU: h200.")
    assert text.endswith(f"{END}\nafter\n")
    assert "an older evaluation" not in text
    stored = json.loads((tmp_path / "page" / "evaluation.json").read_text())
    for grid in evaluation_grids(stored):
        assert markdown(grid) in text
    drawings = re.findall(r"\]\((page/[a-z-]+\.svg)\)", text)
    assert len(drawings) == 3
    for name in drawings:
        drawing = ElementTree.parse(tmp_path / name).getroot()
        assert drawing.tag.endswith("svg")


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_has_one_pair_of_marks(text: str) -> None:
    with pytest.raises(ValueError, match="holds no section to replace"):
        with_section(text, "new", Path("page.md"))


def test_the_page_shows_the_stored_evaluation() -> None:
    stored = json.loads(STORED.read_text())
    plots = dict.fromkeys(("predicted-measured.svg", "block-size.svg", "terms.svg"), "")
    text = PAGE.read_text()
    assert section(stored, plots, "cost-model") in text, f"renew it: {RENEW}"
    for name in plots:
        ElementTree.parse(STORED.with_name(name))


#: How far a figure may move from the golden copy before someone has to look: shares, so one
#: percentage point; ranks and choices move in steps of a study.
TOLERANCE = 0.01
LOOSE = {"spearman", "spearman_p10", "kendall", "kendall_p10", "recall50", "recall80", "recall90"}


def moved(stored: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Figures of one score that are not those of the golden copy."""
    lines = []
    for name, value in stored.items():
        new = found[name]
        near = TOLERANCE * (3 if name in LOOSE else 1)
        same = abs(value - new) <= near if isinstance(value, float) and new is not None else False
        if not same and value != new:
            lines.append(f"{stored['predictor']}, {stored['split']}: {name} {value} -> {new}")
    return lines


def test_a_figure_that_moves_is_told() -> None:
    stored = {
        "predictor": "p",
        "split": None,
        "mape": 0.10,
        "kendall": 0.5,
        "rows": 4,
        "width": None,
    }
    assert moved(stored, {**stored, "mape": 0.105, "kendall": 0.52}) == []
    assert moved(stored, {**stored, "mape": 0.12}) == ["p, None: mape 0.1 -> 0.12"]
    assert moved(stored, {**stored, "rows": 5, "width": 2.0, "kendall": None})[-1].endswith("2.0")


@pytest.mark.slow
def test_the_golden_copy_still_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever changes the cost model sees here what became of its accuracy.

    What is fitted does not depend on the model, and takes half a minute: it is renewed, not held.
    """
    monkeypatch.chdir(ROOT)
    stored = json.loads(STORED.read_text())
    known = {one["predictor"] for one in stored["scores"]}
    # Rivals of optional packages are judged where they are installed, and held where stored.
    judges = [
        one
        for one in default_predictors()
        if one.kind is not Kind.FITTED and (one.name in known or one.name not in OPTIONAL)
    ]
    found = workbench.evaluate(predictors=judges, search=False).to_dict()
    by_name = {one["predictor"]: one for one in found["scores"]}
    held = [one for one in stored["scores"] if one["split"] is None]
    assert {one["predictor"] for one in held} == by_name.keys()
    lines = [line for one in held for line in moved(one, by_name[one["predictor"]])]
    assert found["sets"] == stored["sets"]
    for old, new in zip(stored["frozen"], found["frozen"], strict=True):
        name = " ".join((old["family"], old["mode"], old["shapes"], old["model"]))
        # What was predicted then stays; what is predicted now may move as the scores may.
        near = TOLERANCE if old["model"] == "now" else 1e-4
        lines += [
            f"{name}: {figure} {old[figure]} -> {new[figure]}"
            for figure in ("rows", "mape", "bias", "median_error")
            if abs(old[figure] - new[figure]) > near
        ]
    assert not lines, "\n".join([*lines, f"if that is meant, renew it: {RENEW}"])
