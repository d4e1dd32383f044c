"""The tests that an emitted project brings: they pass as emitted, and see what is wrong."""

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.kernels.dataflow_reference import Inputs, outcome
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


GROUPED = tuple(
    f"grouped_gemm:2x64x64x256:int8-row:{rows}:bf16"
    for rows in ("contiguous", "padded.16", "masked.32", "gathered.2")
)


@pytest.mark.slow
def test_rows_that_go_to_another_expert_fail_them(tmp_path: Path) -> None:
    """Of one order of rows: those of the others are right, and pass."""
    made = (study(problem, family="triton_grouped_gemm") for problem in GROUPED)
    folder = emit(run_of(*made), tmp_path / "kernels", name="tile_pack").folder
    path = folder / "src" / "tile_pack" / "_grouped_gemm.py"
    text, right = path.read_text(), "            b,\n            out,\n"
    assert right in text
    path.write_text(
        text.replace(right, right.replace("b,", "b if offsets is not None else b.flip(0),"))
    )
    printed = _own_tests(folder).stdout
    failed = [line for line in printed.splitlines() if line.startswith("FAILED")]
    assert [line for line in failed if "test_grouped_gemm_multiplies_rows" in line] == [
        line for line in failed if "-masked-" in line
    ], printed[-2000:]
    assert len(failed) == 2  # it, and the digest


DATAFLOW = {
    "cuda_dataflow_blocks": ("gelu:int8.b32x32", "silu-bwd:int8.b32x32+sr"),
    "cuda_dataflow_rows": (
        "residual:int8.b32x32", "layernorm:int8.b32x32", "layernorm-bwd:int8.b32x32+sr",
        "rmsnorm-bwd:int8.b32x32+sr",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["", "values", "sums"])
def test_dataflow_operators_are_asked_for_their_values(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels need a GPU: their reference stands in, with a fault or without."""
    made = (
        study(f"dataflow:64x256:{problem}", family=family)
        for family, problems in DATAFLOW.items()
        for problem in problems
    )
    name = f"asked_flow_{wrong or 'right'}"  # torch keeps the operators of a name for good
    folder = emit(run_of(*made), tmp_path / "kernels", name=name).folder
    with imported(folder, name) as package:
        monkeypatch.syspath_prepend(str(folder / "tests"))
        for module in ("test_package", "test_operators"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        asked = importlib.import_module("test_operators")
        monkeypatch.setattr(asked, "_device", lambda: "no GPU, no interpreter")
        operand = asked._operand
        monkeypatch.setattr(asked, "_operand", lambda *given: operand(*given[:-1], "cpu"))
        randn = torch.randn
        monkeypatch.setattr(torch, "randn", lambda *size, device: randn(*size))
        result = importlib.import_module(f"{name}._dataflow_operands").DataflowResult

        def stand_in(op: str, x: torch.Tensor, scales: torch.Tensor, **given: Any) -> Any:
            fmt = TensorFormat.parse(given["format"])
            codes = [
                QuantizedTensor(codes=c, scales=s, format=fmt).dequantize(torch.float64)
                for c, s in ((x, scales), (given.get("other"), given.get("other_scales")))
                if c is not None
            ]
            vectors = {
                name: given[name].double()
                for name in ("gamma", "beta", "mean", "variance")
                if name in given
            }
            inputs = Inputs(
                x=codes[0], other=codes[1] if codes[1:] else None, epsilon=1e-5, **vectors
            )
            exact = outcome(op, inputs)
            values = exact.values * (1.1 if wrong == "values" else 1.0)
            made = quantize_tensor(values.float(), fmt, seed=given.get("seed", 0))
            sums = {
                n: v.float() * (1.1 if wrong == "sums" else 1)
                for n, (v, _) in exact.vectors.items()
            }
            return result(codes=made.codes, scales=made.scales, **sums)

        monkeypatch.setattr(package, "dataflow", stand_in)
        cases = asked._layouts("cuda_dataflow_blocks") + asked._layouts("cuda_dataflow_rows")
        assert len(cases) == 6
        failed = []
        for op, fmt, layout in cases:
            try:
                asked.test_dataflow_operators_are_those_of_float64(op, fmt, layout)
            except AssertionError:
                failed.append(op)
        norms = ["layernorm-bwd", "rmsnorm-bwd"]
        expected = {"": [], "sums": norms, "values": [op for op, *_ in cases]}
        assert sorted(failed) == sorted(expected[wrong])
