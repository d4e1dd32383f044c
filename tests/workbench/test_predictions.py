"""Predictions of a chosen family, without a baseline, without a quantise step."""

import json

import pytest

import sim
import workbench
from sim import PricedTable
from tiles.kernels import Kernel, kernels
from tiles.problems import Problem
from tiles.recipes import RECIPES
from workbench import pricer
from workbench.prediction_tables import bytes_text, prediction_tables
from workbench.predictions import predict

SHAPE = "512x512x512"


def cells(report: workbench.PredictionReport, heading: str) -> list[str]:
    """One column of the only table of a report."""
    (table,) = prediction_tables(report)
    (column,) = [c for c in table.columns if c.header.replace("\n", " ") == heading]
    return list(column.cells)


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


PRODUCTS = [
    "triton_gemm",
    "hopper_gemm",
    "hopper_block_gemm",
    "hopper_skinny_gemm",
    "triton_weight_only",
    "hopper_weight_prefill",
    "triton_decoded_gemm",
    "triton_outlier_gemm",
]


def test_a_family_of_products_leaves_quantising_to_all() -> None:
    chosen = predict(shapes=[SHAPE], families=PRODUCTS)
    every = predict(shapes=[SHAPE])
    names = [row.problem.recipe.name for row in chosen.rows]
    refused = [row.problem.recipe.name for row in chosen.refused]
    assert {"bf16", "jetfire", "unit-scaling"} <= set(names)
    assert [name for name in RECIPES if name not in refused] == names
    assert chosen.rows == every.rows
    assert [row.problem for row in every.refused] == [row.problem for row in chosen.refused]


def test_the_faster_family_is_told_and_one_can_be_asked_for() -> None:
    names = ["bf16", "deepseek-fp8", "jetfire"]
    both = predict(shapes=["4096x4096x4096"], recipes=names)
    times = {}
    for family in ("triton_gemm", "hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm"):
        alone = predict(shapes=["4096x4096x4096"], recipes=names, families=[family])
        assert {row.gemm.kernel for row in alone.rows} == {family}
        times |= {(family, row.problem.recipe.name): row.gemm.time_us for row in alone.rows}
    # Blocks of 32 x 32 are Triton's and those of the family for small blocks.
    assert ("hopper_gemm", "jetfire") not in times
    assert ("hopper_block_gemm", "bf16") not in times
    for row in both.rows:
        name = row.problem.recipe.name
        assert row.gemm.time_us == min(t for (_, recipe), t in times.items() if recipe == name)
        assert row.gemm.time_us == times[row.gemm.kernel, name]
    told = cells(both, "best configuration")
    assert told[0].startswith("hopper 128x")
    assert told[2].startswith("hopper_block 128x128 ")


@pytest.mark.parametrize("gpu", ["a100", "b200", "l40s", "mi300x", "rtx4090"])
def test_a_family_for_hopper_is_predicted_nowhere_else(gpu: str) -> None:
    every = predict(gpu=gpu, shapes=[SHAPE], recipes=["bf16", "int8-row"])
    assert {row.gemm.kernel for row in every.rows} == {"triton_gemm"}


def test_recipes_of_the_same_product_are_priced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    priced: list[tuple[str, str]] = []

    def price(problem: Problem, family: Kernel, *rest: object) -> PricedTable:
        priced.append((family.name, str(problem)))
        return sim.price(problem, family, *rest)

    monkeypatch.setattr(pricer, "price", price)
    names = ["int8-b128", "jetfire-128", "bf16", "bf16-kahan", "bf16-sr"]
    report = predict(shapes=[SHAPE], recipes=names)
    assert priced == [
        ("triton_gemm", f"gemm:{SHAPE}:bf16:bf16"),
        ("hopper_gemm", f"gemm:{SHAPE}:bf16:bf16"),
        ("hopper_skinny_gemm", f"gemm:{SHAPE}:bf16:bf16"),
        ("triton_gemm", f"gemm:{SHAPE}:int8-b128:bf16"),
        ("hopper_gemm", f"gemm:{SHAPE}:int8-b128:bf16"),
        ("hopper_block_gemm", f"gemm:{SHAPE}:int8-b128:bf16"),
        ("hopper_skinny_gemm", f"gemm:{SHAPE}:int8-b128:bf16"),
        ("triton_quantize", "quantize:512x512:int8.b128x128:bf16"),
        ("cuda_quantize", "quantize:512x512:int8.b128x128:bf16"),
        ("triton_quantize_tiles", "quantize:512x512:int8.b128x128:bf16"),
    ]
    # Each row says its own recipe; what differs is the training, not the product.
    assert [row.problem.recipe.name for row in report.rows] == names
    times = [row.gemm.time_us for row in report.rows]
    assert times[0] == times[1] != times[2] == times[3] == times[4]


def test_a_direct_cast_has_no_speedup_with_quantize_that_nobody_priced() -> None:
    (row,) = predict(shapes=[SHAPE], recipes=["fp8-ptq-e5m2"]).rows
    assert row.quantize is None
    assert row.speedup_kernel is not None
    assert row.speedup_with_quantize is None


def test_a_family_that_multiplies_nothing_is_refused_by_its_own_reason() -> None:
    report = predict(shapes=[SHAPE], recipes=["e4m3-row"], families=["cuda_quantize"])
    assert report.rows == ()
    assert "cuda_quantize serves quantize problems" in report.refused[0].reason


def test_setting_outliers_apart_has_no_time() -> None:
    """Finding and storing them is more than the quantisation that a kernel is predicted for."""
    for row in predict(shapes=[SHAPE], recipes=["llm-int8", "int8-fallback"]).rows:
        assert row.gemm.kernel == "triton_outlier_gemm"
        assert row.quantize is None
        assert row.speedup_kernel is not None
        assert row.speedup_with_quantize is None


def test_families_of_another_kind_are_not_among_the_reasons() -> None:
    (refused,) = predict(gpu="mi300x", shapes=[SHAPE], recipes=["posit8"]).refused
    assert "triton_gemm multiplies bf16" in refused.reason
    assert "hopper_gemm" in refused.reason
    assert "triton_outlier_gemm serves recipes with outliers apart" in refused.reason
    assert "serves quantize problems" not in refused.reason


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


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (6, "6 B"),
        (1020, "1020 B"),
        (1023.9, "1 KiB"),
        (999 * 2**20, "999 MiB"),
        (1022.6 * 2**20, "1023 MiB"),
        (1023.9 * 2**20, "0.9999 GiB"),
        (1.2637 * 2**30, "1.264 GiB"),
        (54_321 * 2**30, "54321 GiB"),
    ],
)
def test_bytes_have_no_exponent(count: float, text: str) -> None:
    """1.02e+03 MiB stood in the table of an L40S."""
    assert bytes_text(count) == text
