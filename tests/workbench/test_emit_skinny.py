"""Packages with the CUDA C++ product for few rows or tiles: what ships, and which call takes it."""

import importlib
import json
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from emit_runs import run_of, study
from fake_cupy import FakeArray, fake_cupy

from sim import load_gpu
from tiles.kernels import ConfigTable, kernel
from tiles.kernels.hopper_skinny import HopperSkinnyConfig
from tiles.problems import parse_problem
from workbench.emission import EmittedPackage, emit
from workbench.emission.evidence import digest
from workbench.emission.function import ANY_HOPPER, default_problems
from workbench.emission.package_files import _lookup
from workbench.emission.package_files._lookup import choose_from, parse_config_file
from workbench.verification import Outcome, verify

SMALL, LARGE = "gemm:16x256x384:deepseek-fp8:bf16", "gemm:2048x256x384:deepseek-fp8:bf16"
ALONE = "gemm:8x256x384:int8-row:bf16"
FORMATS, EXTENTS = ("deepseek-fp8", "bf16"), (256, 384)
OTHERS = ("hopper_gemm", "hopper_skinny_gemm")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    """One kernel is faster at M = 16, the other at M = 2048; int8 was tuned for one alone."""
    made = (
        study(SMALL, family="hopper_skinny_gemm", simulated=False, time_us=10.0),
        study(SMALL, family="hopper_gemm", simulated=False, time_us=12.0),
        study(LARGE, family="hopper_skinny_gemm", simulated=False, time_us=50.0),
        study(LARGE, family="hopper_gemm", simulated=False, time_us=40.0),
        study(ALONE, family="hopper_skinny_gemm", simulated=False, time_us=9.0),
    )
    folder = tmp_path_factory.mktemp("skinny") / "kernels"
    return emit(run_of(*made), folder, name="tile_pack")


def _configs(package: EmittedPackage) -> tuple[_lookup.ConfigFile, ...]:
    files = sorted((package.folder / "src/tile_pack/configs").glob("*.json"))
    return tuple(parse_config_file(path.read_text()) for path in files)


def test_the_fastest_family_of_each_problem_ships(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    shipped = {entry["problem"]: entry["kernel"] for entry in evidence["entries"]}
    assert shipped == {
        SMALL: "hopper_skinny_gemm",
        LARGE: "hopper_gemm",
        ALONE: "hopper_skinny_gemm",
    }
    assert {left["reason"] for left in evidence["not_emitted"]} == {
        "hopper_skinny_gemm is faster: 10.00 us against 12.00 us",
        "hopper_gemm is faster: 40.00 us against 50.00 us",
    }


def test_sources_headers_and_defaults_ship(package: EmittedPackage) -> None:
    module = package.folder / "src/tile_pack"
    names = {p.relative_to(module).as_posix() for p in module.rglob("*") if p.is_file()}
    cuda = {
        f"kernels/cuda/{name}"
        for name in (
            "gemm_hopper_skinny.cu",
            "dependent_launch.py",
            "follow_launch.cuh",
            "gemm_hopper_skinny.py",
            "hopper.cuh",
            "hopper_ring.cuh",
            "hopper_wgmma.cuh",
            "hopper_grid.py",
            "hopper_operands.py",
            "launches.py",
            "modules.py",
        )
    }
    assert names >= cuda | {
        "_gemm.py",
        "_hopper_gemm.py",
        "gemm_cuda.py",
        "kernels/triton/gemm_scaled.py",
        "configs/hopper_skinny_gemm-int8-row-bf16-256x384-h200.json",
        "configs/hopper_skinny_gemm-int8-row-bf16-default-h200.json",
        "configs/hopper_skinny_gemm-int8-row-bf16-default.json",
        "configs/triton_gemm-int8-row-bf16-default.json",
    }
    evidence = json.loads(package.evidence.read_text())
    folder = kernel("hopper_skinny_gemm").template.parent
    for name in ("gemm_hopper_skinny.cu", "gemm_hopper_skinny.py"):
        path = f"src/tile_pack/kernels/cuda/{name}"
        expected = digest((folder / name).read_bytes())
        assert evidence["templates"][path] == {"kernel": "hopper_skinny_gemm", "sha256": expected}
        assert digest((package.folder / path).read_bytes()) == expected


def test_a_package_of_this_kernel_alone_leaves_the_others_source_out(tmp_path: Path) -> None:
    run = run_of(study(ALONE, family="hopper_skinny_gemm"))
    folder = emit(run, tmp_path / "out", name="tile_pack").folder
    names = {path.name for path in folder.rglob("*")}
    assert {"gemm_hopper_skinny.cu", "_hopper_gemm.py", "gemm_cuda.py"} <= names
    assert not names & {"gemm_hopper.cu", "gemm_hopper.py"}
    readme = (folder / "README.md").read_text()
    assert "`gemm` launches `hopper_skinny_gemm` through CuPy" in readme
    assert 'gemm_cuda.gemm(a, b, a_scale, b_scale, recipe="int8-row"' in readme


@pytest.mark.parametrize(
    ("m", "family", "key"),
    [(1, "hopper_skinny_gemm", 16), (181, "hopper_skinny_gemm", 16), (182, "hopper_gemm", 2048)],
)
def test_the_nearest_entry_counts_whichever_kernel_it_is_for(
    package: EmittedPackage, m: int, family: str, key: int
) -> None:
    files = _configs(package)
    for device in ("NVIDIA H200", "cpu"):
        choice = choose_from(files, "triton_gemm", FORMATS, EXTENTS, m, device, OTHERS)
        assert (choice.file.kernel, choice.m, choice.tuned) == (family, key, True)


def test_defaults_run_on_any_gpu_of_its_capability(package: EmittedPackage) -> None:
    family = kernel("hopper_skinny_gemm")
    defaults = [f for f in _configs(package) if f.kernel == family.name and f.extents is None]
    assert {file.gpu for file in defaults} == {"h200", None}
    for file in defaults:
        problem = parse_problem(f"gemm:64x4096x4096:{file.formats[0]}:bf16")
        for m, config in file.entries:
            (asked,) = [p for key, p in default_problems(problem, 4096).items() if key == m]
            one = HopperSkinnyConfig.from_dict(config)
            for limits in (ANY_HOPPER, load_gpu("h100").limits):
                rules = family.rules(asked, ConfigTable.of([one]), limits)
                assert [rule.name for rule in rules if rule.broken[0]] == []


def test_the_cupy_function_takes_the_entry_of_either_kernel(
    package: EmittedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(_lookup, "FILES", _configs(package))
    monkeypatch.setattr(_lookup, "_choices", {})
    monkeypatch.setattr(_lookup, "_warned", set())
    name = "workbench.emission.package_files.gemm_cuda"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    taken: list[tuple[str, dict[str, Any]]] = []

    def template(choice: Any) -> Any:
        def launch(*operands: Any, **rest: Any) -> None:
            taken.append((choice.file.template, rest))

        return SimpleNamespace(launch=launch)

    monkeypatch.setattr(module, "template", template)
    weights = FakeArray((256, 384), "uint8")
    scales = FakeArray((2, 3), "float32")
    for m in (16, 2048):
        a, a_scale = FakeArray((m, 384), "uint8"), FakeArray((m, 3), "float32")
        module.gemm(a, weights, a_scale, scales, recipe="deepseek-fp8")
    a, b = FakeArray((8, 384), "int8"), FakeArray((256, 384), "int8")
    pair = FakeArray((8, 1), "float32"), FakeArray((256, 1), "float32")
    module.gemm(a, b, *pair, recipe="int8-row")
    # An extent that nothing was tuned for: the default of a kernel that has the formats.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wide = FakeArray((512, 384), "int8"), FakeArray((512, 1), "float32")
        module.gemm(a, wide[0], pair[0], wide[1], recipe="int8-row")
    assert [name for name, _ in taken] == [
        "cuda.gemm_hopper_skinny",
        "cuda.gemm_hopper",
        "cuda.gemm_hopper_skinny",
        "cuda.gemm_hopper_skinny",
    ]
    assert [rest["scales"] for _, rest in taken] == ["b1x128", "b1x128", "row", "row"]


@pytest.mark.slow
def test_what_can_be_verified_without_a_gpu_passes(tmp_path: Path) -> None:
    problems = (
        "gemm:16x96x256:bf16:bf16",
        "gemm:4x96x384:deepseek-fp8:bf16",
        "gemm:33x96x256:e4m3-row:fp16",
    )
    made = (study(problem, family="hopper_skinny_gemm") for problem in problems)
    package = emit(run_of(*made), tmp_path / "out", name="tile_pack")
    report = verify(package.folder, device="cpu", seed=5)
    assert {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED} == {}
    outcomes = {check.name: check.status for check in report.checks}
    for problem in problems:
        label = f"hopper_skinny_gemm {problem}"
        for part in ("configuration", "launcher", "stand-in: configuration", "stand-in: random"):
            assert outcomes[f"{label}: {part}"] is Outcome.PASSED
        assert outcomes[f"{label}: answers"] is Outcome.SKIPPED
