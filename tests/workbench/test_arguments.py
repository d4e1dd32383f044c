"""Arguments of the Python API: the types that it takes, and one line for those that it does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workbench
from tiles.formats import TensorFormat
from tiles.problems import Gemm, Quantize
from tiles.recipes import recipe

MODEL = Path(__file__).parents[2] / "examples/models/llama-3-8b.json"
SWEEP = "schema: 1\ngpu: h200\nproblems: [{shape: [64, 64, 64]}]\nrecipes: [bf16]\n"


def predict(**arguments: Any) -> workbench.PredictionReport:
    return workbench.predict(**{"recipes": ["bf16"], **arguments})


@pytest.mark.parametrize(
    "shapes",
    [
        "16x32x64",
        ["16x32x64"],
        [(16, 32, 64)],
        [[16, 32, 64]],
        [np.array([16, 32, 64])],
        np.array([[16, 32, 64]], np.int32),
        iter([(np.int16(16), np.uint8(32), 64)]),
    ],
    ids=["text", "texts", "tuples", "lists", "arrays", "array", "NumPy integers"],
)
def test_a_shape_is_what_it_says_however_it_is_given(shapes: Any) -> None:
    (row,) = predict(shapes=shapes).rows
    assert row.problem.shape == (16, 32, 64)
    assert {type(extent) for extent in row.problem.shape} == {int}


def test_one_name_and_one_number_stand_for_a_list_of_one() -> None:
    report = predict(shapes="16x16x16", recipes="bf16", families="triton_gemm")
    assert [(r.problem.recipe.name, r.gemm.kernel) for r in report.rows] == [
        ("bf16", "triton_gemm")
    ]
    assert predict(model=MODEL, tokens=16) == predict(model=MODEL, tokens=np.array([16]).tolist())
    assert workbench.select_recipes("bf16", "int8.b32x32") == ["bf16", "jetfire"]


PREDICT: dict[str, tuple[dict[str, Any], str]] = {
    "two extents": ({"shapes": [(16, 16)]}, r"shape \(16, 16\): give \(M, N, K\)"),
    "a shape alone": ({"shapes": (16, 16, 16)}, r"shape 16: give \(M, N, K\)"),
    "a number": ({"shapes": 16}, r"shapes 16: give \(M, N, K\)"),
    "a float": ({"shapes": [(16.5, 16, 16)]}, r"extent 16\.5: give an integer"),
    "a truth value": ({"shapes": [(True, 16, 16)]}, "extent True: give an integer"),
    "a text extent": ({"shapes": [("16", 16, 16)]}, "extent '16': give an integer"),
    "nothing": ({"shapes": [None]}, "shape None: give"),
    "tokens": ({"model": MODEL, "tokens": [16.0]}, r"tokens 16\.0: give integers"),
    "tokens of truth": ({"model": MODEL, "tokens": [True]}, "tokens True: give an integer"),
    "a text of tokens": ({"model": MODEL, "tokens": "16"}, "tokens '16': give integers"),
    "tp": ({"model": MODEL, "tokens": 16, "tp": 2.0}, r"tp 2\.0: give an integer"),
    "model": ({"model": 5, "tokens": 16}, "model 5: give a path or a text"),
    "recipes": ({"shapes": "16x16x16", "recipes": [5]}, "recipes 5: give names"),
    "families": ({"shapes": "16x16x16", "families": [None]}, "families None: give names"),
}


@pytest.mark.parametrize(("arguments", "says"), PREDICT.values(), ids=PREDICT.keys())
def test_predict_tells_which_argument_is_of_another_type(
    arguments: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says) as caught:
        predict(**arguments)
    assert "\n" not in str(caught.value)


VERBS: dict[str, tuple[Callable[[Any, Path], object], str]] = {
    "measurements": (lambda w, f: w.sweep(f, max_measurements="3"), "max_measurements '3': give"),
    "sweep file": (lambda w, _: w.sweep(None), "file None: give a path"),
    "sweep output": (lambda w, f: w.sweep(f, output=5), "output 5: give a path"),
    "unserved": (lambda w, _: w.unserved(None), "file None: give a path"),
    "emit to": (lambda w, _: w.emit("run", None), "output None: give a path"),
    "emit from": (lambda w, _: w.emit(None, "out"), "study None: give a path"),
    "verify": (lambda w, _: w.verify(None), "package None: give a path"),
    "report": (lambda w, _: w.report(None), "study None: give a path"),
    "report to": (lambda w, _: w.report("run", 5), "output 5: give a path"),
    "repair": (lambda w, _: w.repair(None), "study None: give a path"),
}


@pytest.mark.parametrize(("verb", "says"), VERBS.values(), ids=VERBS.keys())
def test_a_verb_tells_which_argument_is_of_another_type(
    verb: Callable[[Any, Path], object],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    with pytest.raises(TypeError, match=says):
        verb(workbench, file)
    assert list(tmp_path.iterdir()) == [file]


def test_a_time_limit_without_a_unit_is_told_how_to_be_written(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    with pytest.raises(ValueError, match="a time limit is written 90s, 30m or 2h, got 30"):
        workbench.sweep(file, output=tmp_path / "run", time_limit=30)  # type: ignore[arg-type]


@pytest.mark.parametrize("extent", [True, 16.0, "16", None])
def test_a_problem_has_integers_for_extents(extent: Any) -> None:
    with pytest.raises(TypeError, match=r"K = .*: a dimension is an integer"):
        Gemm(m=16, n=16, k=extent, recipe=recipe("bf16"))
    with pytest.raises(TypeError, match=r"rows = .*: a dimension is an integer"):
        Quantize(rows=extent, cols=16, target=TensorFormat.parse("int8.row"))
