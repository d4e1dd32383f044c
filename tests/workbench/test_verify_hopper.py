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

def check_operands(a, b, c, a_scale, b_scale, **formats):
    return a.shape[0], b.shape[0], a.shape[1]
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
def test_a_careless_launcher_fails_although_its_digests_match(tmp_path: Path) -> None:
    problem = PROBLEMS[1]
    made = run_of(study(problem, family="hopper_gemm"))
    folder = emit(made, tmp_path / "kernels", name="tile_pack").folder
    with (folder / LAUNCHER).open("a") as stream:
        stream.write(CARELESS)
    reseal(folder)
    report = verify(folder, device="cpu", seed=3)
    assert _failed(report) == {
        f"hopper_gemm {problem}: launcher": "the launcher takes rows off a 16-byte boundary"
    }
    (templates,) = [c for c in report.checks if c.name == "templates"]
    assert templates.status is Outcome.SKIPPED
    assert "gemm_hopper.py" in templates.detail


@pytest.mark.slow
def test_a_direct_cast_and_a_single_row_pass_on_a_cpu(tmp_path: Path) -> None:
    problems = (
        "gemm:16x96x256:unit-scaling:fp32",
        "gemm:1x128x256:int8-b128:bf16",
    )
    made = (study(problem, family="hopper_gemm") for problem in problems)
    package = emit(run_of(*made), tmp_path / "out", name="tile_pack")
    assert _failed(verify(package.folder, device="cpu", seed=5)) == {}
