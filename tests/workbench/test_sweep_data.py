"""One data set of several sweeps: tables, what was predicted, what has no time, the card."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from bench.sweep_data import card, main, shapes_in_view, sweep_set, write_sweep_set
from sim.evaluation.frozen import frozen_parts
from sim.gpu_file import load_gpu
from tiles.kernels import Status
from tiles.problems import parse_problem
from tuning import Measurement, Run, load_run
from tuning.data_sets import DataSet, load_data_sets

ROOT = Path(__file__).parents[2]
REPLAY = ROOT / "data" / "h200" / "replay"


@pytest.fixture(scope="module")
def run() -> Run:
    """A stored run, small: a configuration failed, a study was not reached."""
    stored = load_run(REPLAY / "hopper_gemm")
    first, second, third = (replace(one, trials=one.trials[:5]) for one in stored.studies[:3])
    failed = Measurement(status=Status.RUNTIME, simulated=False, reason="an illegal address")
    trials = (replace(first.trials[0], measurement=failed), *first.trials[1:])
    first = replace(first, trials=trials)
    third = replace(third, trials=(), stopped="the sweep's time limit was reached")
    return replace(stored, studies=(first, second, third))


@pytest.fixture(scope="module")
def stored(run: Run, tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    folder = tmp_path_factory.mktemp("set") / "sweeps"
    write_sweep_set(sweep_set([run], "abc1234"), folder, "this command")
    (found,) = load_data_sets([folder])
    return found


def test_predictions_lie_beside_the_rows_that_they_were_made_for(run: Run, stored: DataSet) -> None:
    assert [len(one) for one in stored.tables] == [4, 5]
    for study, table, told in zip(run.studies, stored.tables, stored.foretold, strict=False):
        trials = {one.config: one for one in study.trials}
        for row, config in enumerate(table.table):
            assert table.time_us[row] == trials[config].measurement.time_us
            assert told.time_us[row] == trials[config].predicted_us
            assert told.low_us[row] == trials[config].predicted_low_us
        assert table.environment["sweep"] == "hopper_gemm"
        assert table.environment["commit"] == "abc1234"


def test_what_has_no_time_is_kept_with_status_and_reason(stored: DataSet) -> None:
    text = (stored.path / "without-a-time.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(text.splitlines()))
    assert [(one["status"], one["reason"]) for one in lines] == [
        ("runtime", "an illegal address"),
        ("not reached", "the sweep's time limit was reached"),
    ]
    assert "block_m=" in lines[0]["configuration"]
    assert not lines[1]["configuration"]
    card = (stored.path / "CARD.md").read_text(encoding="utf-8")
    assert "1 not reached, 1 runtime; 1 studies: the sweep's time limit was reached" in card
    assert "No configuration that was tried failed" not in card
    assert "**Biased**" in card


def test_the_card_tells_the_day_that_it_is_given_and_no_other(run: Run) -> None:
    told, untold = (card(sweep_set([run], "abc1234", day), "this") for day in ("2031-01-02", ""))
    assert "studies in this set's rows, 2031-01-02; the answer" in told
    assert "studies in this set's rows; the answer" in untold


def test_every_second_shape_of_a_kind_is_in_view() -> None:
    names = (
        "gemm:16x8192x8192:bf16:bf16 gemm:128x512x512:int8-row:bf16 gemm:2048x512x512:bf16:bf16 "
        "gemm:16x8192x8192:e4m3-row:bf16 quantize:64x64:int8.row:bf16"
    )
    found = shapes_in_view(map(parse_problem, names.split()))
    assert found == {
        ("gemm", (16, 8192, 8192)),
        ("gemm", (2048, 512, 512)),
        ("quantize", (64, 64)),
    }


def test_a_missing_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(tmp_path / "none"), "--commit", "abc", "--output", str(tmp_path / "out")]
    assert main(given) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def sweeps() -> DataSet:
    (found,) = load_data_sets([ROOT / "data" / "h200" / "sweeps"])
    return found


def test_the_stored_sweeps_are_whole_and_held_out_half_by_half(sweeps: DataSet) -> None:
    found = sweeps
    assert sum(map(len, found.tables)) == 1559
    assert len(found.foretold) == len(found.tables) == 437
    chosen = shapes_in_view(one.problem for one in found.tables)
    for one in found.tables:
        assert one.in_view is ((one.problem.kind, tuple(one.problem.shape)) in chosen)
    size = sum(one.stat().st_size for one in found.path.iterdir())
    assert size < 400_000


def test_what_the_model_reaches_on_shapes_that_it_was_not_set_on(
    sweeps: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a point above what was reached when constants were set last.

    Stochastic rounding then took a random word an element, as the kernels that were measured did.
    The dataflow kernels have another shape since: they are among all.
    """
    monkeypatch.setattr("sim.dataflow_instructions.STOCHASTIC_INSTRUCTIONS", 15.0)
    monkeypatch.setattr("sim.dataflow_instructions.STOCHASTIC_MULTIPLIES", 4.75)
    monkeypatch.setattr("sim.tile_stream.STOCHASTIC", 31.0)
    monkeypatch.setattr("sim.tile_stream.STOCHASTIC_INTEGER", 31.0)
    monkeypatch.setattr("sim.tile_stream.STOCHASTIC_MULTIPLIES", 5.0)
    parts = frozen_parts(sweeps.tables, sweeps.foretold, load_gpu("h200"))
    held = {
        (one.family, one.model): one.mape
        for one in parts
        if one.shapes == "held out" and not one.mode
    }
    assert held["all products", "frozen"] == pytest.approx(0.178, abs=0.001)
    bars = {
        "all products": 0.084,
        "all memory-bound kernels": 0.067,
        "hopper_gemm": 0.048,
        "hopper_block_gemm": 0.072,
        "triton_weight_only": 0.117,
        "triton_gemm": 0.083,
        "triton_quantize_tiles": 0.036,
    }
    for family, bar in bars.items():
        assert held[family, "now"] < bar < held[family, "frozen"], family
