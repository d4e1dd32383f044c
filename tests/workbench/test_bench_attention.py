"""Attention alone, on a CPU: both directions, what ran, what the model says; mistakes."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
from bench.attention import CASES, main
from sim.network.attention import AttentionKernel


def test_both_directions_are_timed_beside_their_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "attention.json"
    assert main(["--device", "cpu", "--output", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["schema"] == "tile-workbench/attention/1"
    assert record["command"] == "python -m bench.attention --device cpu --output attention.json"
    (row,) = record["rows"]
    for kernel in AttentionKernel:
        for direction in ("forward", "backward"):
            one = row[kernel.value][direction]
            assert one["measured_us"] > 0
            assert one["predicted_us"] > 0
            assert any("attention" in name for name in one["kernels"])
    printed = capsys.readouterr().out
    assert "flash-2: forward measured" in printed


def test_the_cases_hold_those_of_the_blocks_and_vary_them() -> None:
    assert len(set(CASES)) == len(CASES)
    assert {"attention:8x64x1024x64:causal", "attention:4x32x2048x128:causal"} < set(
        map(str, CASES)
    )


def test_a_file_of_another_kind_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "notes.json"
    output.write_text('{"schema": "tile-workbench/block/1"}')
    assert main(["--device", "cpu", "--output", str(output)]) == 2
    assert "notes.json" in capsys.readouterr().err
