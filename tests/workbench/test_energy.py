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
from bench.energy import main
from bench.energy_load import Load, load
from sim import load_gpu
from tuning.conditions import Reading
from tuning.energy_counter import Counted, counted
from tuning.timer import Timer
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
            entry["predicted_power_w"] * entry["predicted_sustained_time_us"] / 1e3
        )
        assert entry["predicted_sustained_time_us"] >= entry["predicted_time_us"]
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


class Device(Timer):
    """Draws 600 W at work and 100 W waiting; a look at its counter takes the host 4 ms."""

    launches = 1
    samples = 8

    def __init__(self, launch_us: float = 500.0, look_s: float = 0.004) -> None:
        self.launch_us, self.look_s = launch_us, look_s
        self.time_s = self.busy_until_s = self.queued_s = 0.0
        self._running_until_s = 0.0

    def sample(self, count: int, meanwhile: Callable[[], None] | None = None) -> list[float]:
        self._queue(count)
        self.time_s = self.busy_until_s
        return [self.launch_us] * count

    def bout(self, replays: int) -> None:
        before, self._running_until_s = self._running_until_s, self._queue(replays)
        self.time_s = max(self.time_s, before)

    def energy_j(self) -> float:
        self.time_s += self.look_s
        busy_s = self.queued_s - max(0.0, self.busy_until_s - self.time_s)
        return 600.0 * busy_s + 100.0 * (self.time_s - busy_s)

    def _queue(self, count: int) -> float:
        took_s = count * self.launch_us / 1e6
        self.queued_s += took_s
        self.busy_until_s = max(self.busy_until_s, self.time_s) + took_s
        return self.busy_until_s


def test_the_device_works_on_while_the_counter_is_read() -> None:
    """Waiting for each bout before the look charged launches for 4 ms of idleness a bout."""
    device = Device()
    found = counted(
        load(device, device.launch_us).work,
        device.energy_j,
        lambda: device.time_s,
        window_s=2.0,
        longest_s=20.0,
        least_steps=5,
    )
    assert isinstance(found, Counted)
    assert found.launch_s == pytest.approx(500e-6, rel=0.01)
    assert found.power_w == pytest.approx(600.0, rel=0.01)
    assert found.look_s == pytest.approx(0.004)


def test_a_run_has_the_short_time_before_and_the_sensors_behind_it() -> None:
    device = Device()
    one = load(device, device.launch_us)
    assert one.short_time_us() == 500.0
    reading = one.read(lambda: Reading(power_w=device.busy_until_s - device.time_s))
    assert reading.power_w == pytest.approx(0.1)  # seconds of work left when the sensors are read


class Sensors:
    """NVML of a board that takes 100 W, in steps of 5 ms; somebody else is seen once."""

    def __init__(self) -> None:
        self.claimed, self.looks = False, 0

    def claim(self) -> None:
        self.claimed = True

    def energy_j(self) -> float:
        return 100.0 * np.floor(time.monotonic() / 0.005) * 0.005

    def read(self) -> Reading:
        return Reading(sm_clock_mhz=1455, throttled=("power cap",))

    def company(self) -> str:
        self.looks += 1
        return "process 7 used the GPU, 3 % of the time" if self.looks == 4 else ""


def test_three_runs_of_each_problem_are_written_beside_the_prediction(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sensors, order = Sensors(), []

    def opened(row: dict[str, Any]) -> Load:
        def work() -> int:
            if order[-1:] != [row["kernel"]]:
                order.append(row["kernel"])
            time.sleep(0.002)
            return 10

        return Load(work=work, short_time_us=lambda: 190.0, read=lambda sensors: sensors())

    def moment() -> str:
        order.append("started")
        return "2026-01-01T00:00:00Z"

    monkeypatch.setattr(bench.energy, "moment", moment)
    monkeypatch.setattr(bench.energy, "opened", opened)
    monkeypatch.setattr(bench.energy, "place", lambda gpu, without: {"gpu": "a fake"})
    monkeypatch.setattr(bench.energy, "SETTLE_S", 0.0)
    monkeypatch.setattr(bench.energy, "open_nvml", lambda: sensors)
    record = tmp_path / "energy.json"
    problem = "gemm:8192x8192x8192:bf16:bf16"
    given = [f"--problem={problem}={family}" for family in ("triton_gemm", "hopper_gemm")]
    assert main([*given, "--seconds", "0.1", "--output", str(record)]) == 0
    assert sensors.claimed
    # In turns, every other round in reverse.
    assert order == ["started", "triton_gemm", "hopper_gemm", "triton_gemm", "hopper_gemm"]
    content = json.loads(record.read_text())
    assert content["started"] == "2026-01-01T00:00:00Z"
    assert content["runs"] == {"count": 3, "seconds": 0.1, "settle_s": 0.0}
    for row in content["rows"]:
        measured = row["measured"]
        assert {len(measured[name]) for name in bench.energy.MEASURED} == {3}
        assert measured["short_time_us"] == [190.0] * 3
        assert (measured["clock_mhz"], measured["throttled"]) == ([1455] * 3, [["power cap"]] * 3)
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


def test_a_board_without_a_counter_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sensors = Sensors()
    monkeypatch.setattr(sensors, "energy_j", lambda: None)
    launches = Load(work=lambda: 1, short_time_us=lambda: 190.0, read=lambda sensors: sensors())
    monkeypatch.setattr(bench.energy, "opened", lambda row: launches)
    monkeypatch.setattr(bench.energy, "place", lambda gpu, without: {"gpu": "a fake"})
    monkeypatch.setattr(bench.energy, "SETTLE_S", 0.0)
    monkeypatch.setattr(bench.energy, "open_nvml", lambda: sensors)
    given = ["--problem", "gemm:8192x8192x8192:bf16:bf16=triton_gemm"]
    assert main([*given, "--output", str(tmp_path / "energy.json")]) == 2
    said = "there is no energy counter: measure on another GPU"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not list(tmp_path.iterdir())


def test_a_record_is_predicted_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, family = bench.energy.PROBLEMS[-1]
    row = bench.energy._row(text, family, load_gpu("h200"))
    now = dict(row["predicted"])
    row["predicted"]["energy_mj"] = 99.0  # of an older model
    measured = {"energy_mj": [200.0, 210.0, 190.0], "time_us": [300.0] * 3}
    record = tmp_path / "energy.json"
    content = {"schema": bench.energy.SCHEMA, "dry_run": False, "rows": [row]}
    record.write_text(json.dumps(content | {"rows": [row | {"measured": measured}]}))
    assert main(["--predict-again", str(record)]) == 0
    header, rule, line = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == line.count("|")
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2:6] == [
        *("200.0", "99.0", f"{now['energy_mj']:.1f}"),
        f"{100 * (now['energy_mj'] / 200 - 1):+.0f} %",
    ]
    assert cells[6:] == [
        *("", f"{now['time_us']:.0f}", "300", f"{now['sustained_time_us']:.0f}"),
    ]
    record.write_text(json.dumps(content | {"dry_run": True}))
    for path, said in ((record, "no measured record"), (tmp_path / "none.json", "cannot read")):
        assert main(["--predict-again", str(path)]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert said in told


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
