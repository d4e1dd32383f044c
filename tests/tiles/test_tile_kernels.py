"""The one-pass tile kernels without a GPU: in the interpreter, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run(script: str, *arguments: str, **environment: str) -> list[str]:
    """Lines that a script beside this file prints in a fresh interpreter."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments],
        cwd=ROOT,
        env=inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("groups", "cases"),
    [("nearest exponents", 20), ("stochastic transposed", 14), ("tensor rest", 16)],
)
def test_interpreted_kernels_equal_the_codec_bit_for_bit(groups: str, cases: int) -> None:
    *differences, count = run("tile_kernel_cases.py", *groups.split(), TRITON_INTERPRET="1")
    assert differences == []
    assert int(count) == cases
