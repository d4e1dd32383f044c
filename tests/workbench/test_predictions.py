"""Predictions of a chosen family, without a baseline, without a quantise step."""

import json

import pytest

import workbench
from tiles.kernels import kernels
from tiles.recipes import RECIPES
from workbench.predictions import predict
from workbench.tables import prediction_tables

SHAPE = "512x512x512"


def cells(report: workbench.PredictionReport, heading: str) -> list[str]:
    """One column of the only table of a report."""
    (table,) = prediction_tables(report)
    (column,) = [c for c in table.columns if str(c.header).replace("\n", " ") == heading]
    return [str(cell) for cell in column.cells]


def refusing(monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """Every family refuses the problems that begin with a text."""
    for family in kernels().values():
        before = family.refusal
        monkeypatch.setattr(
            type(family),
            "refusal",
            lambda self, problem, limits, before=before: (
                "not today" if str(problem).startswith(refused) else before(problem, limits)
            ),
        )


def test_a_family_of_products_leaves_quantising_to_all() -> None:
    chosen = predict(shapes=[SHAPE], families=["triton_gemm"])
    every = predict(shapes=[SHAPE])
    assert [row.problem.recipe.name for row in chosen.rows] == list(RECIPES)
    assert chosen == every


def test_a_family_that_multiplies_nothing_is_refused_by_its_own_reason() -> None:
    report = predict(shapes=[SHAPE], recipes=["e4m3-row"], families=["cuda_quantize"])
    assert report.rows == ()
    assert "cuda_quantize serves quantize problems" in report.refused[0].reason


def test_a_product_that_no_family_quantises_for_keeps_its_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusing(monkeypatch, "quantize:512x512:int8.row")
    names = ["bf16", "e4m3-row", "int8-row"]
    report = predict(shapes=[SHAPE], recipes=names)
    assert report.refused == ()
    assert [row.problem.recipe.name for row in report.rows] == names
    assert [row.speedup_with_quantize is None for row in report.rows] == [False, False, True]
    assert all(row.speedup_kernel is not None for row in report.rows)
    entry = report.to_dict()["predicted"][2]
    assert entry["predicted_speedup_with_quantize"] is None
    assert entry["predicted_quantize_us"] is None
    assert entry["predicted_speedup_kernel"] > 0
    assert [cell == "-" for cell in cells(report, "x bf16 with quantize")] == [False, False, True]
    json.dumps(report.to_dict(), allow_nan=False)


def test_without_a_baseline_times_stay_and_speed_ups_are_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusing(monkeypatch, "gemm:512x512x512:bf16")
    report = predict(shapes=[SHAPE], recipes=["bf16", "e4m3-row"])
    (refused,) = report.refused
    assert refused.problem.recipe.name == "bf16"
    (row,) = report.rows
    assert row.gemm.time_us > 0
    assert (row.speedup_kernel, row.speedup_with_quantize) == (None, None)
    entry = report.to_dict()["predicted"][0]
    assert entry["predicted_speedup_kernel"] is None
    assert entry["predicted_quantize_us"] > 0
    assert cells(report, "x bf16 kernel") == cells(report, "x bf16 with quantize") == ["-"]


def test_bytes_are_whole_numbers() -> None:
    report = predict(shapes=["4096x4096x4096"], recipes=["e4m3-row"])
    (entry,) = report.to_dict()["predicted"]
    for name in ("dram_read_bytes", "dram_write_bytes", "l2_read_bytes"):
        assert type(entry[name]) is int
        assert entry[name] == pytest.approx(getattr(report.rows[0].gemm, name), abs=0.5)
