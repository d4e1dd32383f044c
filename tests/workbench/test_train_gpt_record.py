"""Pairs of losses, verdicts, and the record of a comparison."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from train_gpt_cases import settings

from bench.train_gpt.outcome import Outcome, Status, read_outcome, write_outcome
from bench.train_gpt.paired import Verdict, compare
from bench.train_gpt.record import Record, line_of


def ended(recipe: str, seed: int, loss: float | None, status: Status = Status.FINISHED) -> Outcome:
    reason = "" if status is Status.FINISHED else "because"
    return Outcome(recipe=recipe, seed=seed, status=status, loss=loss, steps=7, reason=reason)


def runs(recipe: str, *losses: float) -> list[Outcome]:
    return [ended(recipe, seed, loss) for seed, loss in enumerate(losses)]


def test_differences_are_of_pairs_of_one_seed() -> None:
    base, own = (2.0, 2.2, 1.9), (2.004, 2.21, 1.91)
    found = compare([*runs("bf16", *base), *runs("jetfire", *own)], "jetfire", "bf16")
    apart = np.array(own) / np.array(base) - 1
    assert found.differences == pytest.approx(apart.tolist())
    assert found.mean == pytest.approx(apart.mean())
    assert found.standard_error == pytest.approx(apart.std(ddof=1) / math.sqrt(3))
    assert found.interval is not None
    # Student's t for 95 % and two degrees of freedom, from any table.
    assert found.interval[1] - found.mean == pytest.approx(4.3027 * found.standard_error, rel=1e-4)
    assert found.verdict is Verdict.WITHIN


def test_seeds_are_matched_by_number_whatever_their_order() -> None:
    outcomes = [*runs("bf16", 1.0, 2.0, 3.0), *reversed(runs("int8-row", 1.001, 2.002, 3.003))]
    found = compare(outcomes, "int8-row", "bf16")
    assert found.differences == pytest.approx([1e-3] * 3)


@pytest.mark.parametrize(
    ("loss", "verdict"),
    [
        (2.009, Verdict.WITHIN),
        (2.011, Verdict.OUTSIDE),
        (1.991, Verdict.WITHIN),
        (1.989, Verdict.OUTSIDE),
    ],
)
def test_half_a_percent_is_the_border_on_both_sides(loss: float, verdict: Verdict) -> None:
    outcomes = [*runs("bf16", 2.0, 2.0), *runs("jetfire", loss, loss)]
    assert compare(outcomes, "jetfire", "bf16").verdict is verdict


def test_a_diverged_run_counts_whatever_the_others_reach() -> None:
    outcomes = [*runs("bf16", 2.0, 2.0, 2.0), *runs("jetfire", 2.0, 2.0)]
    outcomes.append(ended("jetfire", 2, None, Status.DIVERGED))
    found = compare(outcomes, "jetfire", "bf16")
    assert found.verdict is Verdict.DIVERGED
    assert found.seeds == (0, 1)


@pytest.mark.parametrize("status", [Status.UNFINISHED, Status.FAILED, Status.REFUSED])
def test_what_is_not_finished_leaves_the_verdict_open(status: Status) -> None:
    outcomes = [*runs("bf16", 2.0, 2.0), *runs("jetfire", 2.0), ended("jetfire", 1, None, status)]
    assert compare(outcomes, "jetfire", "bf16").verdict is Verdict.OPEN


def test_one_pair_has_no_error_and_none_no_mean() -> None:
    one = compare([*runs("bf16", 2.0), *runs("jetfire", 2.1)], "jetfire", "bf16")
    assert (one.standard_error, one.interval) == (None, None)
    assert one.mean == pytest.approx(0.05)
    none = compare([*runs("bf16", 2.0), ended("jetfire", 1, 2.0)], "jetfire", "bf16")
    assert (none.mean, none.verdict, none.seeds) == (None, Verdict.OPEN, ())


def record_at(path: Path) -> Record:
    return Record(path, settings(), 2.5, [{"command": "test"}], [])


def test_the_record_keeps_every_run_and_replaces_its_earlier_outcome(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = record_at(path)
    record.keep(ended("bf16", 0, 2.0))
    record.keep(ended("jetfire", 0, None, Status.UNFINISHED))
    record.keep(ended("jetfire", 0, 2.002))
    bad = replace(
        ended("int4-tensor", 0, None, Status.DIVERGED), held_out_curve=[[1, 3.0], [2, math.nan]]
    )
    record.keep(bad)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["schema"] == "tile-workbench/train-gpt/1"
    assert [(one["recipe"], one["status"]) for one in content["runs"]] == [
        ("bf16", "finished"),
        ("jetfire", "finished"),
        ("int4-tensor", "diverged"),
    ]
    assert content["runs"][2]["held_out_curve"] == [[1, 3.0], [2, None]]
    assert content["bigram_loss"] == 2.5
    verdicts = {one["recipe"]: one["verdict"] for one in content["comparisons"]}
    assert verdicts == {"jetfire": "within", "int4-tensor": "diverged"}
    lines = {
        line.split("|")[1].strip(): line for line in record.table().splitlines() if "|" in line
    }
    assert "+0.10 %" in lines["jetfire"]
    assert "within 0.5 %" in lines["jetfire"]
    assert "1 diverged" in lines["int4-tensor"]
    assert "diverged: because" in line_of(bad, "")


def test_recipes_are_compared_with_fp32_too_where_it_was_trained(tmp_path: Path) -> None:
    record = record_at(tmp_path / "record.json")
    for recipe, loss in (("bf16", 2.0), ("fp32", 1.9), ("mxfp6-e3m2", 1.919)):
        record.keep(ended(recipe, 0, loss))
    found = {(one.recipe, one.baseline): one.mean for one in record.comparisons()}
    assert found["mxfp6-e3m2", "fp32"] == pytest.approx(0.01)
    assert found["mxfp6-e3m2", "bf16"] == pytest.approx(-0.0405)
    assert "+1.00 %" in record.table()


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    assert read_outcome(path) is None
    outcome = replace(ended("jetfire", 2, 1.5), train_curve=[[2, 3.25]], steps_per_s=4.5)
    write_outcome(path, outcome)
    assert read_outcome(path) == outcome
    path.write_text('{"schema": "tile-workbench/train-gpt-run/9"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"run.json: not a tile-workbench/train-gpt-run/1"):
        read_outcome(path)
