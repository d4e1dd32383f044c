"""Energy beside time and error: the front, the predictions' columns, the counter's arithmetic."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bench.energy
import tuning.nvml
from bench.energy import main
from bench.energy_counter import per_launch
from workbench.pareto import pareto
from workbench.prediction_tables import energy_tables
from workbench.predictions import predict


def test_the_front_is_what_nobody_beats_in_everything() -> None:
    assert pareto([]) == []
    assert pareto([(1.0, 2.0)]) == [True]
    assert pareto([(1, 4), (2, 3), (2, 4), (3, 3), (4, 1)]) == [True, True, False, False, True]
    assert pareto([(1, 1), (1, 1)]) == [True, True]
    assert pareto([(1, 1), (1, 2)]) == [True, False]


def test_the_front_is_that_of_pairwise_comparisons() -> None:
    random = np.random.default_rng(0)
    points = random.integers(0, 4, (40, 3)).tolist()
    for mine, kept in zip(points, pareto(points), strict=True):
        beats = [
            np.all(np.array(other) <= mine) and np.any(np.array(other) < mine) for other in points
        ]
        assert kept is not any(beats)


def test_predictions_carry_power_energy_and_the_front() -> None:
    report = predict(
        shapes=["512x512x512"], recipes=["bf16", "deepseek-fp8", "int8-row"], calibration="none"
    )
    entries = report.to_dict()["predicted"]
    for row, entry in zip(report.rows, entries, strict=True):
        assert entry["predicted_energy_mj"] == pytest.approx(
            entry["predicted_power_w"] * entry["predicted_time_us"] / 1e3
        )
        more = entry["predicted_energy_with_quantize_mj"] - entry["predicted_energy_mj"]
        assert (more > 0) == (row.quantize is not None)
    assert any(entry["pareto"] for entry in entries)
    # bf16 has the least error, so nothing beats it in everything.
    assert entries[0]["pareto"]
    (table,) = energy_tables(report)
    assert "predicted, not measured" in table.title
    front = next(column for column in table.columns if column.header == "Pareto")
    assert [cell == "yes" for cell in front.cells] == [entry["pareto"] for entry in entries]
    json.dumps(entries, allow_nan=False)


class Board:
    """Takes 2 J a launch, 40 launches a second; its counter steps ten times a second."""

    def __init__(self, step_s: float = 0.1, unit_j: float = 0.001) -> None:
        self.time_s, self.launched = 0.0, 0
        self._step_s, self._unit_j = step_s, unit_j

    def work(self) -> int:
        self.launched += 2
        self.time_s += 0.05
        return 2

    def energy_j(self) -> float | None:
        seen_s = np.floor(self.time_s / self._step_s + 1e-9) * self._step_s
        taken = 1e6 + 80.0 * seen_s
        return float(np.floor(taken / self._unit_j) * self._unit_j)


@pytest.mark.parametrize("step_s", [0.05, 0.1, 0.4, 1.0])
def test_joules_are_divided_between_steps_of_the_counter(step_s: float) -> None:
    board = Board(step_s)
    found = per_launch(board.work, board.energy_j, 3.0, lambda: board.time_s, settle_s=0.5)
    assert found.energy_j == pytest.approx(2.0, rel=1e-4)
    assert found.time_s == pytest.approx(1 / 40, rel=1e-4)
    assert found.power_w == pytest.approx(80.0, rel=1e-4)
    assert 3.5 <= board.time_s < 3.5 + 5 * step_s + 0.1


def test_a_counter_that_is_not_there_or_stands_is_said() -> None:
    board = Board()
    with pytest.raises(ValueError, match="NVML has no energy counter"):
        per_launch(board.work, lambda: None, 3.0, lambda: board.time_s)
    with pytest.raises(ValueError, match=r"the energy counter made 0 steps in 3\d s"):
        per_launch(board.work, lambda: 5.0, 3.0, lambda: board.time_s)


class Sensors:
    """NVML of a board that takes 100 W, in steps of 5 ms; somebody else is seen once."""

    def __init__(self) -> None:
        self.claimed, self.looks = False, 0

    def claim(self) -> None:
        self.claimed = True

    def energy_j(self) -> float:
        return 100.0 * np.floor(time.monotonic() / 0.005) * 0.005

    def company(self) -> str:
        self.looks += 1
        return "process 7 used the GPU, 3 % of the time" if self.looks == 4 else ""


def test_three_runs_of_each_problem_are_written_beside_the_prediction(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sensors, order = Sensors(), []

    def opened(row: dict[str, Any], gpu: object, *, dry: bool) -> Callable[[], int]:
        def work() -> int:
            if order[-1:] != [row["kernel"]]:
                order.append(row["kernel"])
            time.sleep(0.002)
            return 10

        return work

    monkeypatch.setattr(bench.energy, "_opened", opened)
    monkeypatch.setattr(bench.energy, "place", lambda gpu, without: {"gpu": "a fake"})
    monkeypatch.setattr(bench.energy, "SETTLE_S", 0.0)
    monkeypatch.setattr(tuning.nvml, "open_nvml", lambda: sensors)
    record = tmp_path / "energy.json"
    problem = "gemm:8192x8192x8192:bf16:bf16"
    given = [f"--problem={problem}={family}" for family in ("triton_gemm", "hopper_gemm")]
    assert main([*given, "--seconds", "0.1", "--output", str(record)]) == 0
    assert sensors.claimed
    # In turns, every other round in reverse.
    assert order == ["triton_gemm", "hopper_gemm", "triton_gemm", "hopper_gemm"]
    content = json.loads(record.read_text())
    assert content["runs"] == {"count": 3, "seconds": 0.1, "settle_s": 0.0}
    for row in content["rows"]:
        measured = row["measured"]
        assert [len(measured[key]) for key in ("energy_mj", "power_w", "time_us")] == [3] * 3
        for energy, power, time_us in zip(
            measured["energy_mj"], measured["power_w"], measured["time_us"], strict=True
        ):
            assert energy == pytest.approx(power * time_us / 1e3)
            assert power > 0
        predicted = row["predicted"]["energy_mj"]
        assert measured["error_of_prediction"] == pytest.approx(
            predicted / np.median(measured["energy_mj"]) - 1
        )
    told = capsys.readouterr().out.splitlines()
    assert "time " in told[0]
    assert sum(line.endswith("disturbed: process 7 used the GPU, 3 % of the time") for line in told)


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    before = os.environ.get("TRITON_INTERPRET")
    try:
        for given, said in (
            (["--dry-run", "--problem", "gemm:64x64x64:bf16:bf16"], "write PROBLEM=FAMILY"),
            (["--dry-run", "--gpu", "h2"], "unknown gpu 'h2'"),
            (["--dry-run", "--problem", "gemm:64x64x64:bf16:bf16=triton_quantize"], "cannot serve"),
        ):
            assert main(given) == 2
            told = capsys.readouterr().err
            assert told.count("\n") == 1
            assert said in told
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        if before is not None:
            os.environ["TRITON_INTERPRET"] = before


@pytest.mark.slow
def test_a_dry_run_launches_and_measures_nothing() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.energy", "--dry-run"),
            *("--problem", "quantize:8192x8192:int8.row:bf16=triton_quantize"),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert all(line.endswith("mJ, not measured") for line in lines)
