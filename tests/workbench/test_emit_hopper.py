"""Packages with two kernels for one product: which ships, what stands in, CuPy's part of it."""

import ast
import json
import os
import subprocess
import sys
import tomllib
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from emit_runs import run_of, study

from sim import load_gpu
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.closure import imported_names
from tiles.kernels.hopper_gemm import HopperGemmConfig
from tiles.problems import parse_problem
from workbench.emission import EmittedPackage, emit
from workbench.emission.evidence import digest
from workbench.emission.function import ANY_HOPPER, default_problems
from workbench.emission.package_files import _lookup
from workbench.emission.package_files._lookup import choose_from, parse_config_file

SMALL, LARGE = "gemm:16x256x384:deepseek-fp8:bf16", "gemm:512x256x384:deepseek-fp8:bf16"
PLAIN = "gemm:512x256x384:bf16:bf16"
FORMATS = ("deepseek-fp8", "bf16")


def _studies(simulated: bool = True) -> list[Any]:
    """Triton is faster at M = 16, the CUDA kernel at M = 512; bf16 was tuned for it alone."""

    def one(problem: str, family: str, time_us: float) -> Any:
        return study(problem, family=family, simulated=simulated, time_us=time_us)

    return [
        one(SMALL, "triton_gemm", 10.0),
        one(SMALL, "hopper_gemm", 12.5),
        one(LARGE, "triton_gemm", 40.0),
        one(LARGE, "hopper_gemm", 30.0),
        one(PLAIN, "hopper_gemm", 50.0),
    ]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    folder = tmp_path_factory.mktemp("hopper") / "kernels"
    return emit(run_of(*_studies(simulated=False)), folder, name="tile_pack")


def _configs(package: EmittedPackage) -> tuple[_lookup.ConfigFile, ...]:
    files = sorted((package.folder / "src/tile_pack/configs").glob("*.json"))
    return tuple(parse_config_file(path.read_text()) for path in files)


def test_the_faster_family_of_each_problem_ships(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    shipped = {entry["problem"]: entry["kernel"] for entry in evidence["entries"]}
    assert shipped == {SMALL: "triton_gemm", LARGE: "hopper_gemm", PLAIN: "hopper_gemm"}
    assert package.entries == 3
    assert evidence["not_emitted"] == [
        {
            "kernel": "hopper_gemm",
            "problem": SMALL,
            "gpu": "h200",
            "reason": "triton_gemm is faster: 10.00 us against 12.50 us",
        },
        {
            "kernel": "triton_gemm",
            "problem": LARGE,
            "gpu": "h200",
            "reason": "hopper_gemm is faster: 30.00 us against 40.00 us",
        },
    ]


def test_a_simulated_run_says_that_its_choice_was_simulated(tmp_path: Path) -> None:
    evidence = json.loads(emit(run_of(*_studies()), tmp_path / "out").evidence.read_text())
    assert all(left["reason"].endswith(" us (simulated)") for left in evidence["not_emitted"])


def test_a_measured_entry_comes_before_a_simulated_one(tmp_path: Path) -> None:
    run = run_of(
        study(LARGE, simulated=False, time_us=40.0),
        study(LARGE, family="hopper_gemm", simulated=True, time_us=30.0),
    )
    (entry,) = json.loads(emit(run, tmp_path / "out").evidence.read_text())["entries"]
    assert entry["kernel"] == "triton_gemm"


def test_the_stand_ins_template_and_defaults_ship_as_well(package: EmittedPackage) -> None:
    module = package.folder / "src/tile_pack"
    names = {p.relative_to(module).as_posix() for p in module.rglob("*") if p.is_file()}
    assert names >= {
        "_gemm.py",
        "_hopper_gemm.py",
        "gemm_cuda.py",
        "kernels/cuda/gemm_hopper.cu",
        "kernels/cuda/gemm_hopper.py",
        "kernels/triton/gemm_scaled.py",
        "configs/hopper_gemm-bf16-bf16-256x384-h200.json",
        "configs/hopper_gemm-bf16-bf16-default-h200.json",
        "configs/hopper_gemm-bf16-bf16-default.json",
        "configs/triton_gemm-bf16-bf16-default-h200.json",
        "configs/triton_gemm-bf16-bf16-default.json",
    }
    assert "configs/triton_gemm-bf16-bf16-256x384-h200.json" not in names
    for path in package.folder.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
        assert not imported_names(tree) & {"workbench", "tuning", "sim", "tiles"}, path


def test_a_package_of_triton_alone_has_no_part_of_it(tmp_path: Path) -> None:
    folder = emit(run_of(study(PLAIN)), tmp_path / "out", name="tile_pack").folder
    names = {p.name for p in folder.rglob("*")}
    assert not names & {"_hopper_gemm.py", "gemm_cuda.py", "gemm_hopper.cu", "cuda"}
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert not any("cupy" in line for line in project["dependencies"])


def test_cupy_is_required_where_a_product_is_faster_with_it(package: EmittedPackage) -> None:
    project = tomllib.loads((package.folder / "pyproject.toml").read_text())["project"]
    wanted = [line.partition(">")[0] for line in project["dependencies"]]
    assert wanted == ["torch", "triton", "numpy", "cupy-cuda13x"]
    assert "optional-dependencies" not in project


def test_both_templates_are_byte_for_byte_the_workbenchs(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    folder = kernel("hopper_gemm").template.parent
    families = {record["kernel"] for record in evidence["templates"].values()}
    assert families == {"hopper_gemm", "triton_gemm"}
    with zipfile.ZipFile(package.wheel) as wheel:
        for name in ("gemm_hopper.py", "gemm_hopper.cu"):
            path = f"src/tile_pack/kernels/cuda/{name}"
            expected = digest((folder / name).read_bytes())
            assert evidence["templates"][path] == {"kernel": "hopper_gemm", "sha256": expected}
            assert expected == evidence["files"][path]
            assert expected == digest((package.folder / path).read_bytes())
            assert expected == digest(wheel.read(f"tile_pack/kernels/cuda/{name}"))


def test_readme_names_both_kernels_and_the_cupy_function(package: EmittedPackage) -> None:
    readme = (package.folder / "README.md").read_text()
    assert f"| hopper_gemm | {LARGE} | h200 | native | 19.5 | 30.0 |" in readme
    assert 'gemm_cuda.gemm(a, b, a_scale, b_scale, recipe="deepseek-fp8"' in readme
    assert "a default of `triton_gemm` runs in its place" in readme


@pytest.mark.parametrize(
    ("m", "family", "key"),
    [(1, "triton_gemm", 16), (90, "triton_gemm", 16), (91, "hopper_gemm", 512)],
)
def test_the_nearest_entry_counts_whichever_kernel_it_is_for(
    package: EmittedPackage, m: int, family: str, key: int
) -> None:
    files = _configs(package)
    others = ("hopper_gemm",)
    for device in ("NVIDIA H200", "cpu"):
        choice = choose_from(files, "triton_gemm", FORMATS, (256, 384), m, device, others)
        assert (choice.file.kernel, choice.m, choice.tuned) == (family, key, True)
    # The CuPy function has the CUDA kernel's entries alone.
    alone = choose_from(files, "hopper_gemm", FORMATS, (256, 384), m, "NVIDIA H200")
    assert (alone.file.kernel, alone.m) == ("hopper_gemm", 512)


def test_untuned_extents_and_other_gpus_take_tritons_default(package: EmittedPackage) -> None:
    files, others = _configs(package), ("hopper_gemm",)
    cases = (("NVIDIA H200", (512, 384), "h200"), ("NVIDIA L40S", (256, 384), None))
    for device, extents, gpu in cases:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            choice = choose_from(files, "triton_gemm", FORMATS, extents, 512, device, others)
        assert (choice.file.kernel, choice.tuned) == ("triton_gemm", False)
        assert choice.file.gpu == gpu


def test_defaults_of_the_cuda_kernel_run_on_any_gpu_of_its_capability(
    package: EmittedPackage,
) -> None:
    family = kernel("hopper_gemm")
    defaults = [f for f in _configs(package) if f.kernel == "hopper_gemm" and f.extents is None]
    assert {file.gpu for file in defaults} == {"h200", None}
    for file in defaults:
        problem = parse_problem(f"gemm:64x4096x4096:{file.formats[0]}:bf16")
        for m, config in file.entries:
            (asked,) = [p for key, p in default_problems(problem, 4096).items() if key == m]
            one = HopperGemmConfig.from_dict(config)
            for limits in (ANY_HOPPER, load_gpu("h100").limits):
                rules = family.rules(asked, ConfigTable.of([one]), limits)
                assert [rule.name for rule in rules if rule.broken[0]] == []


def test_stand_in_is_the_default_of_the_tuned_gpu(
    package: EmittedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _configs(package)
    monkeypatch.setattr(_lookup, "FILES", files)
    monkeypatch.setattr(_lookup, "_warned", set())
    tuned = choose_from(
        files, "triton_gemm", FORMATS, (256, 384), 512, "NVIDIA H200", ("hopper_gemm",)
    )
    said = "hopper_gemm deepseek-fp8 bf16 256x384: no luck: running a"
    with pytest.warns(RuntimeWarning, match=said):
        choice = _lookup.stand_in(tuned, "triton_gemm", 512, "no luck")
    assert (choice.file.kernel, choice.file.gpu, choice.tuned) == ("triton_gemm", "h200", False)
    assert choice.config["tma"] is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _lookup.stand_in(tuned, "triton_gemm", 300, "no luck")
    # Another shape has a warning of its own.
    other = replace(tuned, file=replace(tuned.file, extents=(64, 128)))
    with pytest.warns(RuntimeWarning, match="bf16 64x128: no luck"):
        _lookup.stand_in(other, "triton_gemm", 512, "no luck")


#: Runs with the emitted module on sys.path[0]; prints nothing and exits 0 when all holds.
SCRIPT = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
sys.modules["cupy"] = None
warnings.simplefilter("ignore", DeprecationWarning)
import torch
import tile_pack
assert tile_pack.__all__ == ["gemm"]

m, n, k = 40, 64, 256
a = torch.randn(m, k).to(torch.float8_e4m3fn)
b = torch.randn(n, k).to(torch.float8_e4m3fn)
a_scale, b_scale = torch.rand(m, 1) + 0.5, torch.rand(n, 1) + 0.5

def product(a, a_scale):
    return tile_pack.gemm(a, b, a_scale, b_scale, recipe="e4m3-row") * 2

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    eager = product(a, a_scale)
    product(a, a_scale)
told = [str(w.message) for w in caught if "hopper_gemm" in str(w.message)]
assert len(told) == 1 and "it needs a GPU of capability 9.0" in told[0], told
exact = (a.double() * a_scale) @ (b.double() * b_scale).T
assert (eager.double() / 2 - exact).norm() < 0.01 * exact.norm()
warnings.simplefilter("ignore")
compiled = torch.compile(product, fullgraph=True, backend="aot_eager", dynamic=True)
assert torch.equal(compiled(a, a_scale), eager)
out = torch.full((m, n), torch.nan, dtype=torch.bfloat16)
assert tile_pack.gemm(a, b, a_scale, b_scale, recipe="e4m3-row", out=out) is out
assert torch.equal(out * 2, eager)
# Rows that overlap have no descriptor: the default runs.
same = a[:1].expand(m, k)
assert torch.equal(product(same, a_scale), product(same.contiguous(), a_scale))
"""


@pytest.mark.slow
def test_the_stand_in_runs_where_the_kernel_cannot(tmp_path: Path) -> None:
    made = study("gemm:40x64x256:e4m3-row:bf16", family="hopper_gemm")
    package = emit(run_of(made), tmp_path / "out", name="tile_pack")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(package.folder / "src")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
