"""The one-pass tile kernels cross-compiled for sm_90."""

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def compile_cases() -> list[str]:
    """What the script beside this file prints in a fresh interpreter that compiles."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(HERE / "tile_compile_cases.py")],
        cwd=ROOT,
        env=inherited | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_compiled_for_sm_90_moves_16_bytes_at_a_time_and_spills_nothing() -> None:
    facts = {f["case"]: f for f in map(json.loads, compile_cases())}
    for case, found in facts.items():
        assert found["flushes"] == 0, case
        assert found["stack_bytes"] in (0, None), case
        # 32 elements a thread (codes of the transposition: 128) in loads of 16 bytes.
        assert found["wide_loads"] >= 2, case
    quantize = [f for case, f in facts.items() if case.startswith("quantize")]
    for found in quantize:
        assert found["wide_loads"] == 4, found
        # One a block that a thread has part of, never one an element.
        assert found["divisions"] <= 4, found
    exponents = [f for f in quantize if ".mx" in f["case"]]
    assert all(f["divisions"] == 0 for f in exponents)
    codes = [f for f in quantize if "e2m1fn" not in f["case"]]
    assert [f["wide_stores"] for f in codes] == [2, 2, 2, 2, 4]
    assert all(f["registers"] is None or f["registers"] <= 128 for f in facts.values())
    for name in ("dequantize:4096x4096:e4m3fn.b1x128:bf16", "transpose:4096x4096:int8"):
        assert facts[name]["wide_stores"] >= 4
        assert facts[name]["byte_stores"] == 0
