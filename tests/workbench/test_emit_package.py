"""What emit writes: the files, their bytes, the evidence."""

import ast
import json
import subprocess
import sys
import tomllib
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from emit_runs import files_in, run_of, simulated_run, study

from sim import load_gpu
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.closure import imported_names
from tiles.kernels.gemm import GemmConfig
from tiles.problems import Gemm, parse_problem
from tuning import Run
from workbench.emission import EmittedPackage, emit
from workbench.emission.evidence import digest
from workbench.emission.package_files import _torch_device
from workbench.emission.package_files._lookup import choose_from, parse_config_file

REPOSITORY = Path(__file__).resolve().parents[2]

PRODUCTS = [
    (f"gemm:{m}x256x384:{name}:bf16", "triton_gemm")
    for name in ("e4m3-row", "deepseek-fp8", "jetfire")
    for m in (16, 512)
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return simulated_run(tmp_path_factory.mktemp("run") / "sweep", PRODUCTS)


@pytest.fixture(scope="module")
def package(run: Run, tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    return emit(run, tmp_path_factory.mktemp("emit") / "kernels", name="tile_pack")


def test_emits_exactly_these_files(package: EmittedPackage) -> None:
    configs = [
        f"src/tile_pack/configs/triton_gemm-{name}-bf16-{part}.json"
        for name in ("deepseek-fp8", "e4m3-row", "jetfire")
        for part in ("256x384-h200", "default-h200", "default")
    ]
    assert files_in(package.folder) == sorted(
        [
            *configs,
            "EVIDENCE.json",
            "LICENSE",
            "README.md",
            "benchmarks/benchmark.py",
            "dist/tile_pack-0.1.0-py3-none-any.whl",
            "pyproject.toml",
            "src/tile_pack/EVIDENCE.json",
            "src/tile_pack/__init__.py",
            "src/tile_pack/_gemm.py",
            "src/tile_pack/_lookup.py",
            "src/tile_pack/_operands.py",
            "src/tile_pack/_operator.py",
            "src/tile_pack/_ops.py",
            "src/tile_pack/_torch_device.py",
            "src/tile_pack/_workspace.py",
            "src/tile_pack/kernels/__init__.py",
            "src/tile_pack/kernels/triton/__init__.py",
            "src/tile_pack/kernels/triton/gemm_arguments.py",
            "src/tile_pack/kernels/triton/gemm_epilogue.py",
            "src/tile_pack/kernels/triton/gemm_scaled.py",
            "src/tile_pack/kernels/triton/gemm_specialized.py",
            "src/tile_pack/kernels/triton/gemm_split.py",
            "src/tile_pack/kernels/triton/gemm_tile.py",
            "src/tile_pack/kernels/triton/launch_checks.py",
            "src/tile_pack/kernels/triton/operand_checks.py",
            "src/tile_pack/kernels/triton/split_workspace.py",
            "src/tile_pack/py.typed",
            "tests/test_package.py",
        ]
    )


def test_each_kernel_family_brings_its_module_and_sources(tmp_path: Path) -> None:
    made = (
        study("gemm:64x96x128:bf16:bf16"),
        study("quantize:64x256:int8.b32x32:bf16", family="triton_quantize"),
        study("quantize:64x256:e4m3fn.b1x128:bf16", family="cuda_quantize"),
    )
    both = emit(run_of(*made), tmp_path / "both", name="tile_pack")
    module = both.folder / "src/tile_pack"
    python = {name for name in files_in(module) if not name.endswith(".json")}
    assert python >= {
        "_gemm.py",
        "_quantize.py",
        "quantize_cuda.py",
        "kernels/triton/gemm_scaled.py",
        "kernels/triton/quantize_blocks.py",
        "kernels/cuda/quantize_blocks.py",
        "kernels/cuda/quantize_blocks.cu",
    }
    folder = kernel("cuda_quantize").template.parent
    for name in ("quantize_blocks.py", "quantize_blocks.cu"):
        assert (module / "kernels/cuda" / name).read_bytes() == (folder / name).read_bytes()
    project = tomllib.loads((both.folder / "pyproject.toml").read_text())["project"]
    names = [line.partition(">")[0] for line in project["dependencies"]]
    assert names == ["torch", "triton", "numpy", "cupy-cuda13x"]


def test_template_emitted_file_wheel_and_evidence_agree_byte_for_byte(
    package: EmittedPackage,
) -> None:
    template = kernel("triton_gemm").template
    path = "src/tile_pack/kernels/triton/gemm_scaled.py"
    evidence = json.loads(package.evidence.read_text())
    assert evidence["templates"][path]["kernel"] == "triton_gemm"
    with zipfile.ZipFile(package.wheel) as wheel:
        installed = wheel.read("tile_pack/kernels/triton/gemm_scaled.py")
    expected = digest(template.read_bytes())
    assert expected == digest((package.folder / path).read_bytes())
    assert expected == digest(installed)
    assert expected == evidence["files"][path] == evidence["templates"][path]["sha256"]


def test_evidence_has_the_digest_of_every_other_file(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    others = [
        name
        for name in files_in(package.folder)
        if not name.startswith("dist/") and not name.endswith("EVIDENCE.json")
    ]
    assert sorted(evidence["files"]) == others
    for name in others:
        assert evidence["files"][name] == digest((package.folder / name).read_bytes()), name


def test_two_emissions_give_the_same_wheel(
    run: Run, package: EmittedPackage, tmp_path: Path
) -> None:
    again = emit(run, tmp_path / "again", name="tile_pack")
    assert digest(again.wheel.read_bytes()) == digest(package.wheel.read_bytes())
    assert files_in(again.folder) == files_in(package.folder)


def test_every_python_file_is_python_3_10_and_imports_no_workbench(package: EmittedPackage) -> None:
    seen = 0
    for path in package.folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
        assert not imported_names(tree) & {"workbench", "tuning", "sim", "tiles"}, path
        seen += 1
    assert seen == 21


def test_module_imports_without_torch_and_without_cupy(package: EmittedPackage) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.modules['cupy'] = None\n"
        "import tile_pack\n"
        "assert tile_pack.__all__ == ['gemm'], tile_pack.__all__\n"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-I", "-c", code, str(package.folder / "src")], check=True, timeout=900
    )


def test_pyproject_is_a_flit_project_without_build_dependencies(package: EmittedPackage) -> None:
    project = tomllib.loads((package.folder / "pyproject.toml").read_text())
    assert project["build-system"] == {
        "requires": ["flit_core>=3.11,<5"],
        "build-backend": "flit_core.buildapi",
    }
    assert project["project"]["name"] == "tile_pack"
    assert project["project"]["requires-python"] == ">=3.10"


def test_configurations_of_the_files_are_the_winners(run: Run, package: EmittedPackage) -> None:
    for found in run.studies:
        assert isinstance(found.problem, Gemm)
        name = f"triton_gemm-{found.problem.recipe}-bf16-256x384-h200.json"
        file = json.loads((package.folder / "src/tile_pack/configs" / name).read_text())
        entries = {entry["m"]: entry["config"] for entry in file["entries"]}
        assert found.best is not None
        assert entries[found.problem.m] == found.best.config.to_dict()
        assert file["schema"] == "tile-workbench/configs/1"
        assert file["devices"] == ["NVIDIA H200"]


def test_defaults_use_no_descriptors(package: EmittedPackage) -> None:
    files = sorted((package.folder / "src/tile_pack/configs").glob("*-default-*.json"))
    assert len(files) == 3
    for path in files:
        for entry in json.loads(path.read_text())["entries"]:
            assert entry["config"]["tma"] is False, path


@pytest.mark.parametrize("name", ["NVIDIA L40S", "NVIDIA A100-SXM4-80GB"])
@pytest.mark.parametrize("gpu", ["l40s", "a100"])
def test_an_unseen_gpu_is_given_what_it_can_run(
    package: EmittedPackage, name: str, gpu: str
) -> None:
    configs = (package.folder / "src/tile_pack/configs").glob("*.json")
    files = tuple(parse_config_file(path.read_text()) for path in sorted(configs))
    limits = replace(load_gpu(gpu).limits, smem_bytes_per_cta=96 * 1024)
    for scheme in ("deepseek-fp8", "e4m3-row", "jetfire"):
        for m in (1, 16, 100, 512, 8192):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                choice = choose_from(files, "triton_gemm", (scheme, "bf16"), (256, 384), m, name)
            assert not choice.tuned
            # Whether 8-bit floats are decoded is decided where the GPU can be asked.
            assert choice.file.layout["decode"] is None
            config = GemmConfig(**choice.config)
            assert not config.tma
            problem = parse_problem(f"gemm:{choice.m}x4095x4095:{scheme}:bf16")
            gate = kernel("triton_gemm").rules(problem, ConfigTable.of([config]), limits)
            assert [rule.name for rule in gate if rule.broken[0]] == []


def test_an_unseen_gpu_casts_to_8_bit_floats_in_software(tmp_path: Path) -> None:
    made = study("quantize:64x256:e4m3fn.b1x128:bf16", family="triton_quantize")
    folder = emit(run_of(made), tmp_path / "out", name="tile_pack").folder
    stem = "src/tile_pack/configs/triton_quantize-e4m3fn.b1x128-bf16-default"
    for name, software in (("", True), ("-h200", False)):
        entries = json.loads((folder / f"{stem}{name}.json").read_text())["entries"]
        assert {entry["config"]["software_cast"] for entry in entries} == {software}


@pytest.mark.parametrize(
    ("capability", "decode"), [((8, 0), True), ((8, 6), True), ((8, 9), False), ((9, 0), False)]
)
def test_gpus_before_ada_decode_8_bit_floats(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], decode: bool
) -> None:
    asked = []
    monkeypatch.setattr(_torch_device, "_decodes", {})
    monkeypatch.setattr(
        torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability
    )
    device = torch.device("cuda", 1)
    assert [_torch_device.decodes(device) for _ in range(3)] == [decode] * 3
    assert asked == [device]
    assert not _torch_device.decodes(torch.device("cpu"))


def test_simulated_sweep_says_it_was_never_measured(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    assert package.simulated
    assert evidence["simulated"] is True
    assert evidence["statement"].startswith("simulated, never measured")
    for entry in evidence["entries"]:
        assert entry["simulated"]
        assert entry["measured"] is None
        assert entry["simulation"]["time_us"] > 0
        assert entry["predicted"]["time_us"] > 0
    readme = (package.folder / "README.md").read_text()
    assert readme.count("simulated, never measured") == len(evidence["entries"]) + 1


def test_measured_entry_keeps_samples_environment_and_accuracy(tmp_path: Path) -> None:
    package = emit(run_of(study("gemm:64x96x128:bf16:bf16", simulated=False)), tmp_path / "out")
    evidence = json.loads(package.evidence.read_text())
    (entry,) = evidence["entries"]
    assert package.name == "tile_kernels_h200"
    assert evidence["statement"] == "every entry was measured on the GPU that it names"
    assert entry["measured"]["time_us"] == 21.8125
    assert entry["measured"]["samples"] == len(entry["measured"]["samples_us"]) == 30
    assert entry["measured"]["iqr_us"] == 1.875
    assert entry["simulation"] is None
    assert entry["predicted"] == {"time_us": 19.5, "low_us": 15.0, "high_us": 25.0}
    assert entry["environment"]["driver"] == "580.1"
    assert entry["accuracy"]["max_error_over_bound"] == 0.25
    assert "| 19.5 | 21.8 |" in (tmp_path / "out/README.md").read_text()


def test_other_source_than_was_swept_is_not_emitted(run: Run, tmp_path: Path) -> None:
    changed = replace(run, plan={"sources": dict.fromkeys(run.plan["sources"], "0" * 64)})
    with pytest.raises(ValueError, match="the source of triton_gemm is not the one that was swept"):
        emit(changed, tmp_path / "out", name="tile_pack")
    assert not (tmp_path / "out").exists()
