"""The tests that an emitted project brings: they pass as emitted, and see what is wrong."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from emit_runs import run_of, study

from workbench.emission import emit
from workbench.verification.package import open_package

QUANTIZE = "quantize:64x256:int8.b32x32:bf16"
KERNELS = "src/tile_pack/kernels/triton"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of a product and a quantisation."""
    made = (
        study("gemm:16x256x384:e4m3-row:bf16"),
        study("gemm:16x256x384:deepseek-fp8:bf16"),
        study(QUANTIZE, family="triton_quantize"),
    )
    return emit(run_of(*made), tmp_path / "kernels", name="tile_pack").folder


def _own_tests(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command of the project's README, against its own sources."""
    defaults = {"TRITON_INTERPRET": "1", "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"}
    merged: Mapping[str, str] = {**os.environ, **defaults, **environment}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "tests"],
        check=False,
        cwd=project,
        timeout=900,
        env=dict(merged),
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_emitted_project_passes_its_own_tests(project: Path) -> None:
    done = _own_tests(project)
    assert done.returncode == 0, done.stdout[-3000:]
    assert (project / ".pytest_cache").exists()
    open_package(project)  # what the tests leave behind is no change


@pytest.mark.slow
def test_a_quantisation_that_truncates_fails_them(project: Path) -> None:
    path = project / KERNELS / "block_codes.py"
    text = path.read_text()
    nearest = "(ratio + 12582912.0).to(tl.int32, bitcast=True).to(tl.int8)"
    assert nearest in text
    path.write_text(text.replace(nearest, "ratio.to(tl.int32).to(tl.int8)"))
    done = _own_tests(project)
    assert "FAILED tests/test_package.py::test_quantize_keeps_the_values[int8.b32x32" in done.stdout


@pytest.mark.slow
def test_another_installed_version_fails_them(project: Path, tmp_path: Path) -> None:
    other = emit(run_of(study("gemm:16x64x128:bf16:bf16")), tmp_path / "other", name="tile_pack")
    done = _own_tests(project, PYTHONPATH=str(other.folder / "src"))
    assert "src/tile_pack is not this project's: pip install" in done.stdout
    assert "test_the_nearest_tuned_extent_is_taken" in done.stdout.partition("FAILED")[2]


@pytest.mark.slow
def test_a_transposition_that_misplaces_codes_fails_alone(tmp_path: Path) -> None:
    made = (
        study("batched_gemm:8x64x256x64:int8-row:nk:bf16", family="triton_batched_gemm"),
        study("dequantize:64x256:int8.b32x32:bf16", family="triton_dequantize"),
        study("transpose:64x256:int8", family="triton_transpose"),
    )
    folder = emit(run_of(*made), tmp_path / "kernels", name="tile_pack").folder
    path = folder / KERNELS / "transpose_codes.py"
    text = path.read_text()
    right = "(first_col * rows + first_row)"
    assert right in text
    path.write_text(text.replace(right, "(first_row * cols + first_col)"))
    printed = _own_tests(folder).stdout
    failed = [line for line in printed.splitlines() if line.startswith("FAILED")]
    names = sorted(line.partition("::")[2].partition("[")[0].partition(" ")[0] for line in failed)
    assert names == [
        "test_files_are_those_of_the_evidence",
        "test_transpose_moves_every_code",
    ], printed[-2000:]
