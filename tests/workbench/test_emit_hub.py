"""A Hugging Face kernel: its files, names, digests and imports, and what cannot be one."""

import ast
import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from emit_runs import files_in, run_of, study
from hub_kernels import HOPPER, MADE, emitted

from sim import load_gpu
from tiles.kernels import kernel
from tiles.kernels.closure import imported_names, template_closure
from workbench.emission.evidence import digest
from workbench.emission.hub_configs import device_name
from workbench.emission.hub_kernel import EmittedKernel, check_hub_name, check_module, write
from workbench.emission.hub_variant import variant_digests, variant_id
from workbench.emission.package_files import _ops


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> EmittedKernel:
    return emitted(tmp_path_factory.mktemp("hub") / "kernel")


def test_writes_exactly_these_files(made: EmittedKernel) -> None:
    gemm = "configs/triton_gemm-{}-bf16"
    quantize = "configs/triton_quantize-int8.b32x32-bf16"
    configs = [
        f"{folder}/{name}"
        for folder, shape in (
            (gemm.format("e4m3-row"), "N=256,K=384"),
            (gemm.format("deepseek-fp8"), "N=256,K=384"),
            (quantize, "columns=256"),
        )
        for name in (
            "about.json",
            "default.json",
            "default,device_name=NVIDIA_H200.json",
            f"{shape},device_name=NVIDIA_H200.json",
        )
    ]
    templates = {
        f"kernels/triton/{source.name}"
        for family in ("triton_gemm", "triton_quantize")
        for source in template_closure(kernel(family).template)
    }
    module = [
        "__init__.py",
        "_gemm.py",
        "_lookup.py",
        "_operands.py",
        "_operator.py",
        "_quantize.py",
        "_torch_device.py",
        "_workspace.py",
        "kernels/__init__.py",
        "kernels/triton/__init__.py",
        "tuning.py",
        *configs,
        *templates,
    ]
    # Only the built form has what the library's builder makes.
    built = [*module, "_ops.py", "metadata.json"]
    around = ["CARD.md", "EVIDENCE.json", "LICENSE", "benchmarks/benchmark.py", "build.toml"]
    around += ["flake.nix", "tests/conftest.py", "tests/test_kernel.py"]
    assert files_in(made.folder) == sorted(
        [
            *around,
            *(f"torch-ext/tile_gemm/{name}" for name in module),
            *(f"build/torch-cuda/{name}" for name in built),
        ]
    )


def test_the_module_is_the_wheels_own_files(made: EmittedKernel) -> None:
    module = made.folder / "torch-ext/tile_gemm"
    static = Path(_ops.__file__).parent
    for name in files_in(module):
        if name.startswith("kernels/triton/") and not name.endswith("__init__.py"):
            source = kernel("triton_gemm").template.with_name(Path(name).name)
        elif name.endswith(".py") and name != "__init__.py":
            source = static / name
        else:
            continue
        assert digest((module / name).read_bytes()) == digest(source.read_bytes()), name


def test_every_file_is_python_3_9_and_imports_torch_and_triton_at_most(
    made: EmittedKernel,
) -> None:
    seen: set[str] = set()
    for path in (made.folder / "build/torch-cuda").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        seen |= imported_names(tree) - sys.stdlib_module_names
    assert seen == {"torch", "triton"}
    for path in (made.folder / "tests", made.folder / "benchmarks"):
        for file in path.glob("*.py"):
            ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_the_build_file_is_edition_5(made: EmittedKernel) -> None:
    assert tomllib.loads((made.folder / "build.toml").read_text()) == {
        "general": {
            "name": "tile-gemm",
            "version": 1,
            "edition": 5,
            "license": "Apache-2.0",
            "backends": ["cuda"],
            "hub": {"repo-id": "my-team/tile-gemm"},
        },
        "torch-noarch": {
            "pyext": ["json", "py"],
            "cuda_capabilities": ["8.0", "9.0", "10.0", "12.0"],
        },
    }


def test_a_configuration_file_maps_m_to_the_winner(made: EmittedKernel) -> None:
    configs = made.folder / "torch-ext/tile_gemm/configs"
    path = configs / "triton_gemm-e4m3-row-bf16/N=256,K=384,device_name=NVIDIA_H200.json"
    rows = json.loads(path.read_text())
    winners = {str(one.problem.tokens): one.best for one in MADE[:2]}
    assert list(rows) == ["16", "512"]
    for m, best in winners.items():
        assert best is not None
        assert rows[m] == best.config.to_dict()


def test_metadata_has_the_digest_of_every_built_file(made: EmittedKernel) -> None:
    variant = made.folder / "build/torch-cuda"
    metadata = json.loads((variant / "metadata.json").read_text())
    found = variant_digests(variant)
    assert sorted([*found, "metadata.json"]) == files_in(variant)
    assert metadata["digest"] == {"algorithm": "sha256", "files": found}
    assert metadata["id"] == variant_id("tile-gemm", found)
    assert metadata["id"].startswith("_tile_gemm_cuda_")
    assert (metadata["python-depends"], metadata["version"]) == ([], 1)
    assert metadata["backend"] == {"type": "cuda", "archs": ["8.0", "9.0", "10.0", "12.0"]}
    assert "provenance" not in metadata  # which would name a builder that was not there


@pytest.mark.slow
def test_two_emissions_are_the_same_bytes(made: EmittedKernel, tmp_path: Path) -> None:
    again = write(
        run_of(*MADE, HOPPER), tmp_path / "again", name="tile-gemm", repo_id="my-team/tile-gemm"
    )
    for name in files_in(made.folder):
        assert (again.folder / name).read_bytes() == (made.folder / name).read_bytes(), name


def test_what_cannot_go_in_is_listed_with_its_reason(made: EmittedKernel) -> None:
    evidence = json.loads((made.folder / "EVIDENCE.json").read_text())
    assert (made.entries, made.left) == (4, 1)
    (left,) = evidence["not_emitted"]
    assert left["kernel"] == "hopper_gemm"
    assert left["reason"].startswith("CUDA C++ runs through CuPy, which a Hub kernel may not")
    card = (made.folder / "CARD.md").read_text()
    assert "There is no `patch` for whole models here: the same sweep emitted as a wheel" in card
    assert left["reason"] in card
    assert 'get_kernel("my-team/tile-gemm", version=1)' in card
    assert "c = kernel.gemm(a, b, a_scale, b_scale, recipe=" in card
    assert "Available functions: `gemm`, `quantize`." in card
    assert "Python 3.10" in card
    assert made.lines()[-1] == "1 studies are not in the kernel: CARD.md has the reasons"


@pytest.mark.slow
def test_triton_ships_where_a_faster_family_cannot(tmp_path: Path) -> None:
    slow = study("gemm:64x256x384:e4m3-row:bf16", time_us=50.0)
    write(run_of(HOPPER, slow), tmp_path / "out", name="tile-gemm")
    evidence = json.loads((tmp_path / "out/EVIDENCE.json").read_text())
    assert [entry["kernel"] for entry in evidence["entries"]] == ["triton_gemm"]


@pytest.mark.parametrize(
    ("problem", "family", "name"),
    [
        ("transpose:64x256:int8", "triton_transpose", "transpose"),
        pytest.param(
            "dequantize:64x256:e4m3fn.b1x128:bf16",
            "triton_dequantize",
            "dequantize",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "quantize:64x256:e2m1fn.mx:bf16",
            "triton_quantize_tiles",
            "quantize_packed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_functions_of_rows_and_columns_go_in(
    problem: str, family: str, name: str, tmp_path: Path
) -> None:
    made = write(run_of(study(problem, family=family)), tmp_path / "out")
    assert made.name == "tile-kernels-h200"
    assert f'__all__ = ["{name}", "tuning"]' in (made.variant / "__init__.py").read_text()
    (tuned,) = made.variant.glob("configs/*/columns=256,device_name=NVIDIA_H200.json")
    assert list(json.loads(tuned.read_text())) == ["64"]
    # The library's runner fails where a script has no workloads.
    assert not (made.folder / "benchmarks").exists()
    assert "kernels benchmark" not in (made.folder / "CARD.md").read_text()


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (HOPPER, "gemm:64x256x384:e4m3-row:bf16 with hopper_gemm cannot be emitted: CUDA C++"),
        (
            study("batched_gemm:8x64x64x64:bf16:nk:bf16", family="triton_batched_gemm"),
            "transpose, not batched_gemm: emit a wheel",
        ),
        (study("gemm:8x96x128:bf16:bf16", correct=False), "no study of this run has a correct"),
    ],
    ids=["cuda", "function", "no winner"],
)
def test_a_run_without_anything_for_the_hub(one: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        write(run_of(one), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_amd_gpu_is_refused(tmp_path: Path) -> None:
    run = replace(run_of(study("gemm:64x96x128:bf16:bf16")), gpu=load_gpu("mi300x"))
    with pytest.raises(ValueError, match="Hub kernels are written for CUDA: emit a wheel"):
        write(run, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tile_gemm", ", e.g. tile-gemm"),
        ("Tile-GEMM", ", e.g. tile-gemm"),
        ("tile-", ", e.g. tile"),
        ("-tile", ", e.g. tile"),
        ("9lives", ""),
        ("t", ""),
        ("", ""),
        ("a" * 42, ", e.g. "),
        ("a/b", ", e.g. a-b"),
        ("../up", ", e.g. up"),
        ("tile\n", ", e.g. tile"),
    ],
)
def test_refuses_names_that_the_hub_refuses(name: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kernel name .*: write 2 to 41 of a-z, 0-9") as caught:
        write(run_of(MADE[0]), tmp_path / "out", name=name)
    assert "\n" not in str(caught.value)
    assert hint in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["torch", "json", "class", "tiles"])
def test_refuses_names_that_a_module_may_not_have(name: str) -> None:
    with pytest.raises(ValueError, match="is taken by Python or a dependency"):
        check_hub_name(name)


@pytest.mark.parametrize("repo", ["", "no-owner", "a/b/c", "a b/c", 'a/b"\nx = 1'])
def test_refuses_repositories_that_are_none(repo: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="write OWNER/NAME") as caught:
        write(run_of(MADE[0]), tmp_path / "out", repo_id=repo)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is left as it is"):
        write(run_of(MADE[0]), tmp_path / "out")
    assert files_in(tmp_path) == ["out/mine.txt"]


def test_a_module_of_foreign_imports_or_newer_syntax_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("from . import b\nimport torch, json\n")
    check_module(tmp_path)
    (tmp_path / "b.py").write_text("def f():\n    import numpy\n")
    with pytest.raises(ValueError, match=r"b\.py imports numpy: a Hub kernel may import"):
        check_module(tmp_path)
    (tmp_path / "b.py").write_text("match 1:\n    case 1:\n        pass\n")
    with pytest.raises(ValueError, match=r"b\.py, line 3: not Python 3\.9"):
        check_module(tmp_path)


def test_a_source_that_was_not_swept_is_not_emitted(tmp_path: Path) -> None:
    run = replace(run_of(MADE[0]), plan={"sources": {"triton_gemm": "0" * 64}})
    with pytest.raises(ValueError, match="the source of triton_gemm is not the one"):
        write(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_devices_are_named_as_loaders_name_them() -> None:
    assert device_name(["NVIDIA H200"], "h200") == "NVIDIA_H200"
    assert device_name(["NVIDIA L4*", "NVIDIA L4/24Q x"], "l4") == "NVIDIA_L4_24Q_x"
    assert device_name(["NVIDIA*"], "my-gpu") == "my-gpu"


@pytest.mark.slow
def test_rows_are_thinned_for_the_hub_as_well(tmp_path: Path) -> None:
    run = run_of(*(study(f"gemm:{m}x256x384:bf16:bf16", time_us=9.0) for m in (16, 17, 18)))
    made = write(run, tmp_path / "out", rows_loss=0.5)
    assert made.entries == 1
    assert "1 entries for 3 tuned M, 16 to 18" in (made.folder / "CARD.md").read_text()
