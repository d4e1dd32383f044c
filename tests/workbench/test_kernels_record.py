"""The record of the table of ratios: gone on with, told from others, joined, cut short."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reach_lines import SESSION, lined, timed

from bench import kernels as script
from bench.join_records import main as join
from bench.kernels import main
from bench.kernels_record import SCHEMA, Record
from bench.reach_table import Line


def test_a_record_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    first, second, third, fourth = (lined(f"gemm:{m}x64x64:bf16:bf16")[0] for m in (1, 2, 3, 4))
    record = Record(path, dict(SESSION), dry=False)
    assert record.plan([first, second, third, fourth]) == [first, second, third, fourth]
    record.begin(first, [second])
    record.end(timed(first), [second])
    record.begin(second, [])
    record.end(replace(second, wrong="out of memory"), [])
    record.begin(third, [fourth])  # and here the machine is taken away
    stored = json.loads(path.read_text())
    assert stored["not_measured"] == ["bf16: gemm:4x64x64:bf16:bf16"]
    assert [path.name for path in tmp_path.iterdir()] == ["kernels.json"]

    again = Record(path, dict(SESSION) | {"commit": "cd"}, dry=False)
    assert again.lines == record.lines
    # What failed or was cut off comes last.
    assert again.plan([first, second, third, fourth]) == [fourth, second, third]
    again.end(timed(second, 5.0), [])
    stored = json.loads(path.read_text())
    assert [(one["problem"], one["session"]) for one in stored["lines"]] == [
        ("gemm:1x64x64:bf16:bf16", 0),
        ("gemm:2x64x64:bf16:bf16", 1),
    ]
    assert [one["commit"] for one in stored["sessions"]] == ["ab", "cd"]
    assert stored["begun"] == [list(third.key)]
    # Another winner of a problem is measured, and takes the place of the one before.
    other = replace(first, config={"block_m": 1})
    assert again.plan([other]) == [other]
    again.end(timed(other), [])
    assert [line.config for line in again.lines] == [{}, {"block_m": 1}]


def test_a_record_is_not_mixed_with_another(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    line, _ = lined()
    Record(path, dict(SESSION), dry=False).end(timed(line), [])
    with pytest.raises(
        ValueError, match=r"lines of NVIDIA H200, the device is NVIDIA L40S: choose"
    ):
        Record(path, {"environment": {"gpu": "NVIDIA L40S"}}, dry=False)
    text = path.read_text().replace('"row": "bf16"', '"row": "bf15"')
    path.write_text(text)
    with pytest.raises(ValueError, match=r"lines of another table \('bf15'\)"):
        Record(path, dict(SESSION), dry=False)
    Record(path, dict(SESSION), dry=True).end(timed(line), [])
    with pytest.raises(ValueError, match="a record of a dry run"):
        Record(path, dict(SESSION), dry=False)
    path.write_text('{"schema": "tile-workbench/plan/1"}')
    with pytest.raises(ValueError, match="holds no tile-workbench/kernels"):
        Record(path, dict(SESSION), dry=False)


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three problems whose results are made up; the third is interrupted."""
    pairs = [lined(f"gemm:{m}x4096x4096:bf16:bf16") for m in (1, 2, 3)]

    def result(line: Line, winner: Any) -> Line:
        if line.problem.shape[0] == 3:
            raise KeyboardInterrupt
        return timed(line)

    monkeypatch.setenv("TRITON_INTERPRET", "1")  # main sets it for a dry run; undone here
    monkeypatch.setattr(script, "_planned", lambda arguments, name: pairs)
    monkeypatch.setattr(script, "_session", lambda arguments: dict(SESSION) | {"stale": []})
    monkeypatch.setattr(script, "_measuring", lambda arguments, session, left: result)


@pytest.mark.usefixtures("planned")
def test_a_run_that_is_cut_short_keeps_what_it_has(tmp_path: Path) -> None:
    output = tmp_path / "kernels.json"
    with pytest.raises(KeyboardInterrupt):
        main(["--dry-run", "--output", str(output)])
    record = json.loads(output.read_text())
    assert record["schema"] == SCHEMA
    assert [line["problem"] for line in record["lines"]] == [
        "gemm:1x4096x4096:bf16:bf16",
        "gemm:2x4096x4096:bf16:bf16",
    ]
    assert [key[1] for key in record["begun"]] == ["gemm:3x4096x4096:bf16:bf16"]


@pytest.mark.usefixtures("planned")
def test_no_problem_begins_after_the_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--time-limit", "1e-9"]) == 0
    assert "3 of 3 lines were not begun" in capsys.readouterr().out


def test_records_of_two_gpus_are_joined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third, fourth = (lined(f"gemm:{m}x64x64:bf16:bf16")[0] for m in (1, 2, 3, 4))
    one, other, table = (tmp_path / name for name in ("a.json", "b.json", "table.json"))
    record = Record(one, dict(SESSION), dry=False)
    record.end(timed(first, 10.0), [third])
    record.end(timed(second, 20.0), [third, fourth])
    record = Record(other, dict(SESSION) | {"commit": "cd"}, dry=False)
    record.end(timed(third, 30.0), [])
    record.end(replace(first, wrong="out of memory"), [])  # no time: the other's stays
    record.end(timed(second, 25.0), [])
    assert join([str(one), str(other), "--output", str(table)]) == 0
    assert "| bf16 |" in capsys.readouterr().out
    stored = json.loads(table.read_text())
    assert [(line["ours"]["time_us"], line["session"]) for line in stored["lines"]] == [
        (10.0, 0),
        (25.0, 1),
        (30.0, 1),
    ]
    assert [session["commit"] for session in stored["sessions"]] == ["ab", "cd"]
    assert stored["not_measured"] == ["bf16: gemm:4x64x64:bf16:bf16"]
    # The joined record is gone on with like any other.
    assert Record(table, dict(SESSION), dry=False).plan([first, fourth]) == [fourth]
    Record(other, dict(SESSION), dry=True).end(timed(line=third), [])
    for wrong, reason in ((other, "no measured record"), (tmp_path / "none.json", "No such file")):
        with pytest.raises(SystemExit) as ended:
            join([str(one), str(wrong), "--output", str(table)])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
