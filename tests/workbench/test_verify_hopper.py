"""Verification of packages with the CUDA C++ product, as far as it goes without a GPU."""

import shutil
from pathlib import Path

import pytest
from emit_runs import reseal, run_of, study

from workbench.emission import EmittedPackage, emit
from workbench.verification import Outcome, VerifyReport, verify

PROBLEMS = ("gemm:512x64x256:deepseek-fp8:bf16", "gemm:512x64x256:bf16:bf16")
LAUNCHER = "src/tile_pack/kernels/cuda/gemm_hopper.py"

#: Takes whatever it is given.
CARELESS = """

def check_operands(a, b, c, a_scale, b_scale, element, out, scales):
    raise RuntimeError("no CuPy here")
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    run = run_of(*(study(problem, family="hopper_gemm") for problem in PROBLEMS))
    return emit(run, tmp_path_factory.mktemp("verify") / "kernels", name="tile_pack")


@pytest.fixture(scope="module")
def report(original: EmittedPackage) -> VerifyReport:
    return verify(original.folder, device="cpu", seed=3)


def _outcomes(report: VerifyReport) -> dict[str, Outcome]:
    return {check.name: check.status for check in report.checks}


def _failed(report: VerifyReport) -> dict[str, str]:
    return {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED}


def test_what_can_be_checked_without_a_gpu_passes(report: VerifyReport) -> None:
    assert _failed(report) == {}
    outcomes = _outcomes(report)
    for problem in PROBLEMS:
        label = f"hopper_gemm {problem}"
        for part in ("configuration", "launcher", "stand-in: configuration", "stand-in: random"):
            assert outcomes[f"{label}: {part}"] is Outcome.PASSED
        assert outcomes[f"{label}: stand-in: NaN block"] is Outcome.PASSED
        recipe = problem.split(":")[2]
        assert outcomes[f"triton_gemm gemm:19x37x133:{recipe}:bf16: untuned odd extents"] is (
            Outcome.PASSED
        )
        assert outcomes[f"operator {recipe} bf16: opcheck"] is Outcome.PASSED
    for name in ("digests", "installed files", "templates", "independence", "light import"):
        assert outcomes[name] is Outcome.PASSED


def test_what_needs_a_gpu_is_named(report: VerifyReport) -> None:
    outcomes = _outcomes(report)
    for problem in PROBLEMS:
        assert outcomes[f"hopper_gemm {problem}: answers"] is Outcome.SKIPPED
    assert any(line.startswith("CuPy kernels") for line in report.not_checked)
    assert report.rivals == ()


@pytest.mark.parametrize("name", [LAUNCHER, LAUNCHER.replace(".py", ".cu")])
def test_an_edited_template_is_refused_by_name(
    original: EmittedPackage, tmp_path: Path, name: str
) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(original.folder, copy)
    with (copy / name).open("a") as stream:
        stream.write("\n")
    with pytest.raises(ValueError, match=f"{name} is not what EVIDENCE.json recorded"):
        verify(copy, device="cpu")


@pytest.mark.slow
def test_a_careless_launcher_fails_although_its_digests_match(
    original: EmittedPackage, tmp_path: Path
) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(original.folder, copy)
    with (copy / LAUNCHER).open("a") as stream:
        stream.write(CARELESS)
    reseal(copy)
    report = verify(copy, device="cpu", seed=3)
    failed = _failed(report)
    assert set(failed) == {f"hopper_gemm {problem}: launcher" for problem in PROBLEMS}
    (templates,) = [c for c in report.checks if c.name == "templates"]
    assert templates.status is Outcome.SKIPPED
    assert "gemm_hopper.py" in templates.detail


@pytest.mark.slow
def test_every_scale_mode_and_output_passes_on_a_cpu(tmp_path: Path) -> None:
    problems = (
        "gemm:64x96x256:fp16:fp16",
        "gemm:16x96x256:unit-scaling:fp32",
        "gemm:64x96x256:e5m2-tensor:bf16",
        "gemm:64x96x256:int8-row:fp32",
        "gemm:1x128x256:int8-b128:bf16",
        "gemm:64x96x256:e5m2-b128:bf16",
    )
    made = (study(problem, family="hopper_gemm") for problem in problems)
    package = emit(run_of(*made), tmp_path / "out", name="tile_pack")
    assert _failed(verify(package.folder, device="cpu", seed=5)) == {}
