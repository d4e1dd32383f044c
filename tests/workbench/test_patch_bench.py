"""The table of patched blocks: a dry run of the very script, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.block_timing import Case
from bench.patch import MODEL, SCHEMA, main
from bench.patched_block import expected_error, predict_patched


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in (
        (["--dry-run", "--package", str(tmp_path)], "no emitted package: give the folder that"),
        (["--dry-run", "--output", str(tmp_path)], "is a folder"),
        (["--dry-run", "--recipes", "posit9"], "unknown recipe 'posit9'"),
        (["--dry-run", "--calibration", "no.json"], "calibration no.json: "),
    ):
        before = os.environ.get("TRITON_INTERPRET")
        try:
            assert main(given) == 2
        finally:
            os.environ.pop("TRITON_INTERPRET", None)
            if before is not None:
                os.environ["TRITON_INTERPRET"] = before
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert message in told
        assert told.count("\n") == 1


def test_an_expected_error_is_that_of_both_operands() -> None:
    # e4m3: 3 bits of significand; half a step of 2^-3 uniformly spread, about 2^-5.2 of x.
    assert 0.03 < expected_error("deepseek-fp8", 512) < 0.045
    assert 0.005 < expected_error("int8-row", 512) < 0.015
    assert expected_error("bf16", 512) == 0
    weights = expected_error("w4a16-g128", 512)
    assert expected_error("deepseek-fp8", 512) < weights < 0.2


@pytest.mark.parametrize("name", ["deepseek-fp8", "int8-row"])
def test_a_patched_block_is_predicted_by_kernels_that_patch_launches(name: str) -> None:
    found = predict_patched(Case(model=MODEL, sequences=4, length=2048), "h200", name)
    kernels = {one["operator"]: one["kernel"] for one in found["operators"]["patched"]}
    for linear in ("qkv", "o", "gate_up", "down"):
        assert kernels[f"{linear} input quantize"] in ("triton_quantize", "cuda_quantize")
        assert kernels[linear] in ("hopper_gemm", "triton_gemm")
    assert not any("quantize" in one["operator"] for one in found["operators"]["bf16"])
    for side in ("bf16", "patched"):
        total = sum(one["predicted_us"] for one in found["operators"][side])
        assert found[f"{side}_us"] == pytest.approx(total)
    assert found["speedup"] == found["bf16_us"] / found["patched_us"]


@pytest.mark.slow
def test_a_dry_run_patches_a_tiny_block_and_times_nothing(tmp_path: Path) -> None:
    record = tmp_path / "patch.json"
    done = subprocess.run(
        f"{sys.executable} -m bench.patch --dry-run --recipes int8-row --output {record}".split(),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "tiny 2x8, int8-row: error 0.0" in done.stdout
    content = json.loads(record.read_text())
    assert (content["schema"], content["dry_run"]) == (SCHEMA, True)
    (row,) = content["rows"]
    assert row["measured"]["patched_us"] is None
    assert {one["name"] for one in row["measured"]["report"]["replaced"]} == {
        "linears.qkv", "linears.o", "linears.gate_up", "linears.down",
    }  # fmt: skip
    assert row["predicted"]["speedup"] == pytest.approx(
        row["predicted"]["bf16_us"] / row["predicted"]["patched_us"]
    )
