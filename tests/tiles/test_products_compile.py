"""Batched and grouped GEMMs compile, without a GPU, to what they were written for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from products_compile_cases import CASES

pytest.importorskip("torch")
pytest.importorskip("triton")

RUNNER = Path(__file__).with_name("products_compile_cases.py")


@pytest.fixture(scope="module")
def compiled() -> dict[str, dict[str, Any]]:
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(RUNNER)],
        env={**environment, "PYTHONPATH": str(RUNNER.parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", CASES)
def test_legal_configurations_do_not_spill_and_fit_their_estimate(
    compiled: dict[str, dict[str, Any]], case: str
) -> None:
    found = compiled[case]
    assert found["legal"] == ""
    assert found["stack_bytes"] == 0
    assert found["smem_bytes"] <= found["estimate"] <= found["smem_bytes"] + 8 * 2**10
    assert found["st.global.v4"] >= 2
    # A layout conversion inside the loop would send the accumulator through shared memory.
    assert found["layout changes"] == 0


@pytest.mark.parametrize("case", CASES)
def test_hopper_multiplies_by_warpgroups_and_loads_in_the_background(
    compiled: dict[str, dict[str, Any]], case: str
) -> None:
    found = compiled[case]
    # Tiles below 64 rows have no warpgroup products.
    assert found["mma"] == ("mma" if case == "decode" else "wgmma")
    gathered = case in ("gathered", "decode")
    assert (found["cp.async.bulk.tensor"] > 0) == (case != "pointers")
    assert (found["cp.async.cg"] > 0) == (gathered or case == "pointers")


def test_registers_leave_room_for_programs_side_by_side(
    compiled: dict[str, dict[str, Any]],
) -> None:
    for case in ("contiguous", "three a multiprocessor", "gathered", "masked int8"):
        ctas = CASES[case][1].get("ctas_per_sm", 2)
        found = compiled[case]
        assert -(-found["registers"] // 8) * 8 * found["threads"] * ctas <= 65536, case
