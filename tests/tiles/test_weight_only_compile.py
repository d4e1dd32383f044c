"""The weight-only product compiles to the instructions that it was written for, without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

RUNNER = Path(__file__).with_name("weight_only_compile_cases.py")


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict]:
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"},
        cwd=RUNNER.parents[2],
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return {record["case"]: record for record in records}


def test_no_configuration_spills_or_takes_more_than_estimated(compiled: dict[str, dict]) -> None:
    for name, record in compiled.items():
        facts = record["facts"]
        assert facts["stack_bytes"] == 0, name
        spare = record["estimated_smem_bytes"] - facts["smem_bytes"]
        assert 0 <= spare <= 16 * 2**10, name


def test_pipelines_are_as_deep_as_asked(compiled: dict[str, dict]) -> None:
    for name, record in compiled.items():
        assert record["facts"]["pipeline_depth"] >= 3, name


def test_decode_steps_multiply_by_mma_and_larger_tiles_by_wgmma(compiled: dict[str, dict]) -> None:
    kinds = {name: record["facts"]["mma"] for name, record in compiled.items()}
    for name, kind in kinds.items():
        assert kind == ("mma" if name.startswith("decode") else "wgmma"), name


def test_weights_go_from_shared_memory_to_registers_in_loads_of_16_bytes(
    compiled: dict[str, dict],
) -> None:
    for name, record in compiled.items():
        assert record["wide_shared_loads"] > 0, name
        copies = record["tma_copies"] if "tma" in name else record["wide_copies"]
        assert copies > 0, name


def test_decoded_weights_stay_in_registers(compiled: dict[str, dict]) -> None:
    for name, record in compiled.items():
        assert record["stored_again"] == 0, name
