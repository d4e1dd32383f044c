"""Formats ranked on a checkpoint: the known best one wins, what has no error says why."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Call
from safetensors.torch import save_file
from weight_files import BEST, FORMATS, known_checkpoint, normal

import workbench
from workbench.weight_report import LayerStatus
from workbench.weights import candidate_formats


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return known_checkpoint(tmp_path_factory.mktemp("known") / "model.safetensors")


def test_the_format_that_keeps_a_layer_is_found(known: Path) -> None:
    report = workbench.error(weights=known, formats=FORMATS).weights
    assert report is not None
    # Natural order: layer 2 stands before layer 10.
    assert [layer.tensor.name for layer in report.ranked] == list(BEST)
    for layer in report.ranked:
        exact = [str(e.format) for e in layer.errors if e.error and e.error.sqnr_db == np.inf]
        assert exact == [BEST[layer.tensor.name]]
    assert [row.best for row in report.ranking()] == [1, 1, 1]
    assert {row.layers for row in report.ranking()} == {3}


def test_what_is_no_weight_matrix_is_recorded_with_its_reason(known: Path) -> None:
    report = workbench.error(weights=known, formats="int8.row").weights
    assert report is not None
    told = {
        layer.tensor.name: layer.reason
        for layer in report.layers
        if layer.status is LayerStatus.SKIPPED
    }
    assert told == {
        "ids": "I64: not floating-point numbers of 8 to 64 bits",
        "layers.1.norm.weight": "1-dimensional: no matrix (a norm, a bias or a scale)",
        "layers.1.zero.weight": "all zero: no signal to compare with",
        "nothing.weight": "empty",
        "step": "I64: not floating-point numbers of 8 to 64 bits",
    }


def test_a_nan_does_not_lose_the_other_layers(call: Call, tmp_path: Path) -> None:
    bad = normal(300, 40, 1)
    bad[280, 7], bad[290, 1] = float("nan"), float("-inf")
    path = tmp_path / "m.safetensors"
    beyond = torch.full((4, 4), 1e300, dtype=torch.float64)
    save_file({"good.weight": normal(64, 64, 2), "bad.weight": bad, "wide.weight": beyond}, path)
    answer = call("error", "--weights", path, "--format", "int8.row", "--json")
    assert answer.code == 0
    layers = json.loads(answer.out)["weights"]["layers"]
    assert [(layer["name"], layer["status"], layer["reason"]) for layer in layers] == [
        (
            "bad.weight",
            "failed",
            "2 values are NaN or infinite, the first at row 280, column 7",
        ),
        ("good.weight", "ranked", ""),
        (
            "wide.weight",
            "failed",
            "16 values are NaN or infinite or beyond fp32, the first at row 0, column 0",
        ),
    ]
    answer = call("error", "--weights", path, "--format", "int8.row")
    assert answer.code == 0
    assert "failed: 2 values are NaN" in answer.out


@pytest.mark.parametrize(
    "overflowing", ["e4m3fn+nosat", "e4m3fn.mx+nosat", "e4m3fn.b256x256+e8m0fnu+nosat"]
)
def test_a_weight_beyond_a_range_that_is_not_clipped_does_not_lose_the_other_layers(
    call: Call, overflowing: str, tmp_path: Path
) -> None:
    bad = normal(300, 64, 1)
    bad[280, 7] = -500.0
    path = tmp_path / "m.safetensors"
    save_file({"bad.weight": bad, "good.weight": normal(64, 64, 2).sign()}, path)
    asked = ("--weights", path, "--format", overflowing)
    answer = call("error", *asked, "--format", "int8.row", "--json")
    assert answer.code == 0
    bad_layer, good = json.loads(answer.out)["weights"]["layers"]
    refused, other = bad_layer["formats"]
    assert refused["error"] is None
    assert refused["reason"].startswith("weights up to 500 are rounded to a NaN or an infinity")
    assert "without +nosat" in refused["reason"]
    assert other["error"]["sqnr_db"] > 0
    assert all(one["error"]["relative_max"] < 0.1 for one in good["formats"])
    # With no other format the layer has no error at all.
    answer = call("error", *asked)
    assert answer.code == 0
    said = " ".join(answer.out.split())
    assert f"failed: weights up to 500 are rounded to a NaN or an infinity by {overflowing}" in said
    assert "bad.weight" in said


def test_recipes_and_formats_choose_the_candidates(known: Path) -> None:
    both = workbench.error(weights=known, recipes=["deepseek-fp8"], formats=["nf4.g64"]).weights
    assert both is not None
    assert list(map(str, both.formats)) == ["e4m3fn.b128x128", "nf4.g64"]
    default = workbench.error(weights=known).weights
    assert default is not None
    assert list(default.formats) == candidate_formats()
    assert all(fmt.scaling is not None for fmt in default.formats)


def test_the_table_names_the_best_format(call: Call, known: Path) -> None:
    answer = call("error", "--weights", known, *(f"--format={f}" for f in FORMATS))
    assert answer.code == 0
    printed = answer.out
    for layer, best in BEST.items():
        (line,) = (text for text in printed.splitlines() if layer in text and "64x64" in text)
        assert line.split("│")[3].strip() == best
        assert "exact" in line
