"""``workbench error`` on simulated data and on a caller's matrices."""

import json
import math
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from command_line import Call
from numpy.typing import NDArray

import workbench
from sim.error import numpy_rounder, sample, tensor_error
from tiles.formats import TensorFormat
from tiles.recipes import RECIPES

SHAPE = "96x64"


def test_the_table_has_tensors_and_products_of_every_kind_of_data(call: Call) -> None:
    answer = call("error", "--recipe", "jetfire", "--shape", "300x64", "--data", "all")
    assert answer.code == 0
    printed = answer.out
    for data in ("normal", "laplace", "student-t", "outlier"):
        assert f"{data} data  activations 300x64, weights 300x64" in printed
        assert f"{data} data  products, M=256 N=256 K=64" in printed
    assert printed.count("int8.b32x32+sr") == 4
    assert printed.count("gradients: the activations' values in the gradients' formats") == 4
    assert "first rows of either side" in printed
    assert printed.count("│ jetfire │ exact │") == 4


def test_json_is_what_the_python_api_says(call: Call) -> None:
    options = ["--recipe", "jetfire", "--format", "bf16", "--shape", SHAPE, "--data", "normal"]
    answer = call("error", *options, "--json")
    assert answer.code == 0
    printed = json.loads(answer.out)
    report = workbench.error(recipes="jetfire", formats="bf16", shape=(96, 64), data="normal")
    assert printed == report.to_dict()
    assert printed["schema"] == "tile-workbench/error/1"
    assert [(row["recipe"], row["operand"]) for row in printed["tensors"]] == [
        ("jetfire", "activation"),
        ("jetfire", "weight"),
        ("jetfire", "gradient"),
        (None, "activation"),
        (None, "weight"),
    ]
    assert printed["product_shape"] == [96, 96, 64]
    assert printed["gradient_data"] == "activations"
    answer = call("error", "--recipe", "int8-row", "--shape", SHAPE)
    assert answer.code == 0
    assert "gradient" not in answer.out


def test_every_recipe_has_an_error_on_every_operand_and_a_product() -> None:
    report = workbench.error(recipes="all", shape="48x32", weight_shape="40x32", data="outlier")
    assert [row.recipe for row in report.products] == list(RECIPES)
    operands = {name: 3 if one.trains else 2 for name, one in RECIPES.items()}
    assert Counter(row.recipe for row in report.tensors) == operands
    assert {row.error.count for row in report.tensors if row.operand == "weight"} == {40 * 32}
    assert len(workbench.error(shape="8x8", data="normal").products) == len(RECIPES)


def test_tensor_errors_are_those_of_the_reference_codec() -> None:
    (row, _) = workbench.error(formats="e4m3fn.mx", shape=SHAPE, data="laplace").tensors
    expected = tensor_error(sample("laplace", 96, 64), TensorFormat.parse("e4m3fn.mx"))
    assert row.error == expected
    assert row.bits_per_element == 8.25


def test_a_format_meets_a_matrix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[str, tuple[int, int]]] = Counter()

    def counting(x: Any, fmt: TensorFormat, seed: int = 0) -> Any:
        seen[str(fmt), x.shape] += 1
        return numpy_rounder(x, fmt, seed)

    monkeypatch.setattr("workbench.errors.numpy_rounder", counting)
    # Recipes without outliers of their own; normal and outlier data share their weights.
    names = ["bf16", "bf16-kahan", "int8-row", "e4m3-row", "w8a16"]
    workbench.error(recipes=names, formats="int8.row", shape=(96, 64), weight_shape=(40, 64))
    assert seen["int8.row", (40, 64)] == 1
    assert seen["int8.row", (96, 64)] == 2
    assert seen["bf16", (96, 64)] == 2


def test_the_products_sample_has_the_scales_of_the_whole_matrix() -> None:
    x = sample("normal", 300, 64)
    plain = workbench.error(recipes="int8-tensor", data={"x": x})
    x[299, 0] = 1000.0  # outside the sample of 256 rows
    spoilt = workbench.error(recipes="int8-tensor", data={"x": x})
    assert spoilt.products[0].error.sqnr_db < plain.products[0].error.sqnr_db - 20


def test_expected_sqnr_stands_beside_the_measured_one() -> None:
    report = workbench.error(formats=["int8.b32x32", "e4m3fn.row"], shape="512x512", data="normal")
    for row in report.tensors:
        assert row.expected_sqnr_db == pytest.approx(row.error.sqnr_db, abs=0.3)
    own = workbench.error(formats="int8.row", data={"mine": sample("normal", 32, 32)})
    assert [row.expected_sqnr_db is None for row in own.tensors] == [True, False]


def test_tensors_count_outliers_in_as_the_recipe_stores_them(call: Call) -> None:
    names = ("int8-row", "llm-int8", "int8-b128", "int8-fallback")
    report = workbench.error(recipes=names, shape="512x512", data="outlier")
    rows = {row.recipe: row for row in report.tensors if row.operand == "activation"}
    sqnr = {name: row.error.sqnr_db for name, row in rows.items()}
    assert sqnr["llm-int8"] > sqnr["int8-row"] + 20
    assert sqnr["int8-fallback"] > sqnr["int8-b128"] + 0.5
    # 3 of 512 columns in fp16; 4 of 16 blocks twice.
    assert rows["llm-int8"].bits_per_element == (3 * 16 + 509 * 8 + 32) / 512
    bits = rows["int8-b128"].bits_per_element
    assert rows["int8-fallback"].bits_per_element == pytest.approx(1.25 * bits)
    assert rows["llm-int8"].expected_sqnr_db is None
    answer = call("error", "--recipe", "llm-int8", "--shape", SHAPE)
    assert answer.code == 0
    assert "columns with |x| > 6 in fp16" in answer.out


def test_objects_say_what_their_names_say() -> None:
    names = workbench.error(recipes="int8-row", formats="nf4.g64", shape=SHAPE, data="normal")
    objects = workbench.error(
        recipes=RECIPES["int8-row"],
        formats=[TensorFormat.parse("nf4.g64")],
        shape=[96, 64],
        data=["normal"],
    )
    assert objects == names
    own = replace(RECIPES["int8-row"], name="mine", activation=TensorFormat.parse("e5m2.row"))
    (row,) = workbench.error(recipes=[own, own], shape=SHAPE, data="normal").products
    assert row.recipe == "mine"
    x = sample("normal", 16, 64)
    alone = workbench.error(recipes="int8-row", data=x)
    assert alone == workbench.error(recipes="int8-row", data={"data": torch.from_numpy(x)})


def test_limited_sums_cost_precision() -> None:
    def sqnr(accumulation: str) -> float:
        report = workbench.error(
            recipes="e4m3-row", shape="64x4096", data="normal", accumulation=accumulation
        )
        assert report.accumulation == accumulation
        return report.products[0].error.sqnr_db

    exact, promoted, never = map(sqnr, ("exact", "hopper-fp8+128", "hopper-fp8"))
    assert exact > promoted > never


def test_products_have_the_error_of_their_rounded_output_too(call: Call) -> None:
    """Jetfire's INT8 output adds about as much noise as one INT8 operand, 42 dB, to 39 dB."""
    answer = call("error", "--recipe", "jetfire", "--data", "normal", "--json")
    assert answer.code == 0
    (row,) = json.loads(answer.out)["products"]
    assert row["output"] == "int8.b32x32"
    expected = -10 * math.log10(10 ** (-row["sqnr_db"] / 10) + 10**-4.2)
    assert row["output_sqnr_db"] == pytest.approx(expected, abs=0.2)
    assert row["output_relative_rms"] == pytest.approx(10 ** (-row["output_sqnr_db"] / 20))
    answer = call("error", "--recipe", "jetfire", "--data", "normal")
    assert answer.code == 0
    assert f"│ int8.b32x32 │          {row['output_sqnr_db']:.2f} │" in answer.out


def test_every_product_says_how_its_sums_were_modelled(call: Call) -> None:
    names = ["e4m3-row", "bf16", "int8-row", "fp8-ptq-e3m4"]
    options = [x for name in names for x in ("--recipe", name)]
    options += ["--shape", "32x128", "--data", "normal", "--accumulation", "hopper-fp8+128"]
    answer = call("error", *options, "--json")
    assert answer.code == 0
    products = json.loads(answer.out)["products"]
    found = {row["recipe"]: row["accumulation"] for row in products}
    assert found == dict.fromkeys(names, "exact") | {"e4m3-row": "hopper-fp8+128"}
    answer = call("error", *options)
    assert answer.code == 0
    printed = answer.out
    assert re.search(r"│ e4m3-row +│ hopper-fp8\+128 │", printed)
    assert re.search(r"│ int8-row +│ exact +│", printed)


def test_a_format_that_keeps_everything_is_exact_and_json_can_say_it(call: Call) -> None:
    answer = call("error", "--format", "fp32", "--shape", SHAPE)
    assert answer.code == 0
    assert "exact" in answer.out
    report = workbench.error(formats="fp32", shape=SHAPE).to_dict()
    assert report["tensors"][0]["sqnr_db"] is None
    json.dumps(report, allow_nan=False)


def _torch(x: NDArray[np.float32]) -> Any:
    import torch

    return torch.from_numpy(x).to(torch.bfloat16)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.float64),
        lambda x: np.asfortranarray(x),
        lambda x: x.astype(ml_dtypes.bfloat16),
        _torch,
    ],
    ids=["float64", "fortran", "ml_dtypes", "torch"],
)
def test_own_data_of_any_floating_type(convert: Any) -> None:
    x = sample("normal", 48, 64).astype(ml_dtypes.bfloat16).astype(np.float32)
    expected = workbench.error(recipes="int8-row", data={"own": x})
    assert workbench.error(recipes="int8-row", data={"own": convert(x)}) == expected
    assert expected.shape == (48, 64)


def test_the_seed_changes_data_and_stochastic_rounding() -> None:
    first, again, other = (
        workbench.error(recipes="jetfire", shape=SHAPE, data="normal", seed=seed)
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first.tensors != other.tensors


def test_the_readme_shows_what_the_command_prints(call: Call) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    block = re.search(r"\$ workbench error (.*)\n([^`]+)```", readme)
    assert block is not None
    answer = call("error", *block[1].split())
    assert answer.code == 0
    printed = answer.out
    number = r"[0-9]+\.?[0-9]*"

    def words(text: str) -> list[str]:
        # NumPy may draw other data in another version: errors then differ a little.
        return re.sub(number, "#", text).split()

    assert words(printed) == words(block[2])
    for got, shown in zip(re.findall(number, printed), re.findall(number, block[2]), strict=True):
        assert float(got) == pytest.approx(float(shown), rel=0.5)
    assert printed.count("42.1") >= 2


def test_simulated_data_need_no_torch() -> None:
    script = (
        "import sys, workbench; workbench.error(recipes='jetfire', shape='64x64'); "
        "print(sorted({'torch', 'triton', 'plotly', 'safetensors'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
