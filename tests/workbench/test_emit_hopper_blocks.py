"""Packages with the CUDA C++ product of small blocks: what ships, what is left out, its checks."""

import json
from pathlib import Path

import pytest
from emit_runs import run_of, study

from sim import load_gpu
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.emission import EmittedPackage, emit
from workbench.emission.package_files._lookup import choose_from, parse_config_file
from workbench.verification import Outcome, verify

JETFIRE, WGRAD = "gemm:512x64x256:jetfire:bf16", "gemm:512x64x256:e4m3-b1x128:fp32"
BOTH = "gemm:512x64x256:int8-b128:bf16"
MX, CODES = "gemm:512x64x256:mxfp8-e4m3:bf16", "gemm:512x64x256:jetfire:int8.b32x32"
FAMILY = "hopper_block_gemm"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    run = run_of(
        *(study(problem, family=FAMILY) for problem in (JETFIRE, WGRAD, MX, CODES)),
        study(BOTH, family="hopper_gemm"),
    )
    return emit(run, tmp_path_factory.mktemp("blocks") / "kernels", name="tile_pack")


def test_products_that_triton_can_stand_in_for_ship(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    shipped = {entry["problem"]: entry["kernel"] for entry in evidence["entries"]}
    assert shipped == {JETFIRE: FAMILY, WGRAD: FAMILY, BOTH: "hopper_gemm"}
    left = {one["problem"]: one["reason"] for one in evidence["not_emitted"]}
    assert set(left) == {MX, CODES}
    for reason in left.values():
        assert reason.startswith("nothing stands in for it where it cannot run: triton_gemm ")


def test_sources_and_headers_ship(package: EmittedPackage) -> None:
    folder = package.folder / "src/tile_pack/kernels/cuda"
    original = kernel(FAMILY).template.parent
    for name in (
        "gemm_hopper_blocks.py",
        "gemm_hopper_blocks.cu",
        "hopper_block_quantizer.cuh",
        "hopper_block_scales.cuh",
        "hopper_raster.cuh",
        "hopper_ring.cuh",
        "hopper_staging.cuh",
        "hopper_wgmma.cuh",
        "hopper.cuh",
        "gemm_hopper.py",
        "modules.py",
    ):
        assert (folder / name).read_bytes() == (original / name).read_bytes(), name


def test_its_entries_count_beside_the_other_kernels(package: EmittedPackage) -> None:
    files = tuple(
        parse_config_file(path.read_text())
        for path in sorted((package.folder / "src/tile_pack/configs").glob("*.json"))
    )
    others = ("hopper_gemm", FAMILY)
    for text in (JETFIRE, WGRAD):
        problem = parse_problem(text)
        choice = choose_from(
            files, "triton_gemm", problem.formats, (64, 256), 500, "NVIDIA H200", others
        )
        assert (choice.file.kernel, choice.tuned) == (FAMILY, True)
        assert choice.file.template == "cuda.gemm_hopper_blocks"
        assert choice.file.layout["scales"] in ("b32x32", "b1x128")
    readme = (package.folder / "README.md").read_text()
    assert "`gemm` launches `hopper_gemm` and `hopper_block_gemm` through CuPy" in readme


def test_a_run_of_nothing_else_says_why_it_cannot_be_emitted(tmp_path: Path) -> None:
    run = run_of(study(MX, family=FAMILY))
    with pytest.raises(ValueError, match="cannot be emitted: nothing stands in for it"):
        emit(run, tmp_path / "out")


def test_defaults_are_legal_wherever_they_may_run(package: EmittedPackage) -> None:
    family, limits = kernel(FAMILY), load_gpu("h100").limits
    path = package.folder / f"src/tile_pack/configs/{FAMILY}-jetfire-bf16-default.json"
    for m, config in parse_config_file(path.read_text()).entries:
        problem = parse_problem(f"gemm:{m}x4096x4096:jetfire:bf16")
        one = family.config_type.from_dict(config)
        assert not hasattr(family.judge(problem, one, limits), "rule")


@pytest.mark.slow
def test_what_can_be_checked_without_a_gpu_passes(package: EmittedPackage) -> None:
    report = verify(package.folder, device="cpu", seed=3)
    assert {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED} == {}
    outcomes = {check.name: check.status for check in report.checks}
    for text in (JETFIRE, WGRAD):
        for part in ("configuration", "launcher", "stand-in: configuration", "stand-in: random"):
            assert outcomes[f"{FAMILY} {text}: {part}"] is Outcome.PASSED
        assert outcomes[f"{FAMILY} {text}: answers"] is Outcome.SKIPPED
