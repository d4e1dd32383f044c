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


def test_every_product_ships_behind_the_function_for_it(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    shipped = {entry["problem"]: entry["kernel"] for entry in evidence["entries"]}
    expected = dict.fromkeys((JETFIRE, WGRAD, MX, CODES), FAMILY)
    assert shipped == {**expected, BOTH: "hopper_gemm"}
    assert evidence["not_emitted"] == []
    module = package.folder / "src/tile_pack"
    # What stands in: a decoded product, and a product in fp32 with a quantisation behind it.
    for name in (
        "_gemm_packed.py",
        "_gemm_quantized.py",
        "configs/triton_decoded_gemm-mxfp8-e4m3-bf16-default.json",
        "configs/triton_gemm-jetfire-fp32-default-h200.json",
        "configs/triton_quantize_tiles-int8.b32x32-fp32-default.json",
        "kernels/triton/gemm_decoded.py",
        "kernels/triton/quantize_tiles.py",
    ):
        assert (module / name).is_file(), name


def test_sources_and_headers_ship(package: EmittedPackage) -> None:
    folder = package.folder / "src/tile_pack/kernels/cuda"
    original = kernel(FAMILY).template.parent
    for name in (
        "gemm_hopper_blocks.py",
        "gemm_hopper_blocks.cu",
        "hopper_block_factors.cuh",
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


def test_what_nothing_stands_in_for_is_left_out_with_the_reason(tmp_path: Path) -> None:
    # Triton's product takes no MX operands, so that codes of one have no stand-in.
    run = run_of(study("gemm:512x64x256:mxfp8-e4m3:int8.b32x32", family=FAMILY))
    with pytest.raises(ValueError, match="cannot be emitted: nothing stands in for it"):
        emit(run, tmp_path / "out")


def test_defaults_are_legal_wherever_they_may_run(package: EmittedPackage) -> None:
    family, limits = kernel(FAMILY), load_gpu("h100").limits
    path = package.folder / f"src/tile_pack/configs/{FAMILY}-jetfire-bf16-default.json"
    for m, config in parse_config_file(path.read_text()).entries:
        problem = parse_problem(f"gemm:{m}x4096x4096:jetfire:bf16")
        one = family.config_type.from_dict(config)
        assert not hasattr(family.judge(problem, one, limits), "rule")
