"""Packages whose ``quantize`` has two kernels: which ships, which call takes it, what stands in."""

import contextlib
import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from fake_cupy import FakeArray, fake_cupy
from imported_package import imported
from patched_models import mlp

from tiles.kernels.cuda import quantize_blocks
from workbench.emission import EmittedPackage, emit
from workbench.emission.functions import FUNCTIONS
from workbench.verification import Outcome, verify
from workbench.verification.smoke.quantize import on_cupy

TRITON, CUDA = "triton_quantize", "cuda_quantize"
FEW, MANY = "quantize:16x128:e4m3fn.b1x128:bf16", "quantize:4096x128:e4m3fn.b1x128:bf16"
ALONE, RANDOM = "quantize:4096x192:e4m3fn.b1x128:bf16", "quantize:64x256:int8.b32x32+sr:bf16"
TURNED = "quantize:64x256:int8.b32x32:bf16:transposed"
PRODUCTS = ("gemm:64x192x128:deepseek-fp8:bf16", "gemm:64x128x192:deepseek-fp8:bf16")
FORMATS = ("e4m3fn.b1x128", "bf16")
NAME = "two_quantizes"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    """Triton is faster at 16 rows, CUDA C++ at 4096; 192 columns were tuned for it alone."""
    made = (
        study(FEW, family=TRITON, simulated=False, time_us=4.0),
        study(FEW, family=CUDA, simulated=False, time_us=5.0),
        study(MANY, family=TRITON, simulated=False, time_us=40.0),
        study(MANY, family=CUDA, simulated=False, time_us=30.0),
        study(ALONE, family=CUDA, simulated=False, time_us=35.0),
        study(RANDOM, family=CUDA, simulated=False),
        study(TURNED, family=CUDA, simulated=False),
        *(study(problem) for problem in PRODUCTS),
    )
    return emit(run_of(*made), tmp_path_factory.mktemp("quantize") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        yield found


def test_the_faster_family_of_each_problem_ships(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    shipped = {entry["problem"]: entry["kernel"] for entry in evidence["entries"]}
    assert {problem: shipped[problem] for problem in (FEW, MANY, ALONE)} == {
        FEW: TRITON,
        MANY: CUDA,
        ALONE: CUDA,
    }
    assert {left["reason"] for left in evidence["not_emitted"]} == {
        "triton_quantize is faster: 4.00 us against 5.00 us",
        "cuda_quantize is faster: 30.00 us against 40.00 us",
    }
    names = {path.name for path in package.folder.rglob("*")}
    assert {"_quantize.py", "quantize_cuda.py", "_cupy_views.py", "quantize_blocks.cu"} <= names
    assert f"{TRITON}-e4m3fn.b1x128-bf16-default-h200.json" in names


def test_a_package_of_triton_alone_has_no_part_of_it(tmp_path: Path) -> None:
    folder = emit(run_of(study(FEW, family=TRITON)), tmp_path / "out", name="tile_pack").folder
    names = {path.name for path in folder.rglob("*")}
    assert "_quantize.py" in names
    assert not names & {"quantize_cuda.py", "_cupy_views.py", "cuda"}


#: A problem of every function that launches a kernel through CuPy, and what stands in for it.
ON_CUPY = {
    "gemm": ("hopper_gemm", PRODUCTS[0], ["triton_gemm"]),
    "quantize": (CUDA, MANY, [TRITON]),
    "linear_weight_only": (
        "hopper_weight_prefill",
        "gemm:512x64x512:w4a16-g128:bf16",
        ["triton_weight_only"],
    ),
    "gemm_packed": (
        "hopper_skinny_gemm",
        "gemm:16x64x512:mxfp8-e4m3:bf16",
        ["triton_decoded_gemm"],
    ),
    "quantize_packed": (CUDA, TURNED, ["triton_quantize_tiles"]),
    "gemm_quantized": (
        "hopper_block_gemm",
        "gemm:64x128x128:jetfire:int8.b32x32",
        ["triton_gemm", "triton_quantize_tiles"],
    ),
    "grouped_gemm": (
        "hopper_grouped_gemm",
        "grouped_gemm:4x512x256x256:deepseek-fp8:contiguous:bf16",
        ["triton_grouped_gemm"],
    ),
    "transpose": ("cuda_transpose", "transpose:64x256:int8", ["triton_transpose"]),
    "dataflow": ("cuda_dataflow_blocks", "dataflow:64x128:gelu:int8.b32x32", []),
}


@pytest.mark.parametrize("function", ON_CUPY)
def test_a_readme_tells_of_every_kernel_that_runs_through_cupy(
    function: str, tmp_path: Path
) -> None:
    family, problem, instead = ON_CUPY[function]
    folder = emit(run_of(study(problem, family=family)), tmp_path / "out").folder
    (told,) = [
        part
        for part in (folder / "README.md").read_text().split("\n\n")
        if part.startswith(f"`{function}` launches")
    ]
    assert "through CuPy" in told
    # Of the dataflow set the operators are told, and that nothing stands in.
    for name in (family, *instead) if instead else ("gelu",):
        assert f"`{name}`" in told


def test_no_function_of_cupy_is_forgotten() -> None:
    asked = {f.name for f in FUNCTIONS for family in f.families if f.needs_cupy(family)}
    assert asked == set(ON_CUPY)


@pytest.fixture
def launched(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What reaches either launcher, behind the checks of that in CUDA C++."""
    calls: list[tuple[str, Any]] = []

    def template(choice: Any) -> SimpleNamespace:
        def launch(*operands: Any, stream: Any = None, **told: Any) -> None:
            if choice.file.kernel == CUDA:
                quantize_blocks.prepare(*operands, **told)
                assert stream == "torch's stream"
            calls.append((choice.file.kernel, operands))

        return SimpleNamespace(launch=launch)

    own = importlib.import_module(f"{NAME}._quantize")
    views = importlib.import_module(f"{NAME}._cupy_views")
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(own, "template", template)
    monkeypatch.setattr(own, "check_device", lambda name, tensor: None)
    monkeypatch.setattr(own, "current", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(own, "device_facts", lambda device: ("NVIDIA H200", 132))
    monkeypatch.setattr(views, "stream", lambda device: "torch's stream")
    monkeypatch.setattr(module._lookup, "_warned", set())
    return calls


def _launch(module: ModuleType, x: torch.Tensor) -> None:
    own = importlib.import_module(f"{NAME}._quantize")
    codes, scales = own._empty(x, "e4m3fn.b1x128")
    own._launch(x, "e4m3fn.b1x128", codes, scales)


def test_a_call_takes_the_entry_of_either_kernel(
    module: ModuleType, launched: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = importlib.import_module(f"{NAME}._quantize")
    monkeypatch.setattr(own, "obstacle", lambda device: "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for rows, cols in ((1, 128), (255, 128), (257, 128), (9000, 128), (8, 192)):
            _launch(module, torch.empty(rows, cols, dtype=torch.bfloat16))
    assert [name for name, _ in launched] == [TRITON, TRITON, CUDA, CUDA, CUDA]
    x, codes, scales = launched[2][1]
    assert (x.shape, x.dtype.name) == ((257, 128), "uint16")
    assert (codes.dtype.name, scales.shape) == ("uint8", (257, 1))
    assert scales.strides[0] == 4  # as products take them


def test_what_is_in_the_way_is_said_once_and_triton_runs(
    module: ModuleType, launched: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = importlib.import_module(f"{NAME}._quantize")
    tall = torch.empty(4096, 128, dtype=torch.bfloat16)
    with pytest.warns(RuntimeWarning, match="it needs an NVIDIA GPU: running a conservative"):
        _launch(module, tall)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _launch(module, tall)
    on_gpu = torch.device("cuda", 0)
    assert own.obstacle(on_gpu) == ""
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert own.obstacle(on_gpu).startswith("it needs CuPy")
    assert [name for name, _ in launched] == [TRITON] * 2


def test_rows_apart_are_refused_by_either_kernel(
    module: ModuleType, launched: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = importlib.import_module(f"{NAME}._quantize")
    monkeypatch.setattr(own, "obstacle", lambda device: "")
    apart = torch.empty(4096, 256, dtype=torch.bfloat16)[:, :128]
    with pytest.raises(ValueError, match="it must be C-contiguous"):
        _launch(module, apart)


def test_layers_of_a_patched_model_are_tuned_by_either(module: ModuleType) -> None:
    inside = importlib.import_module(f"{NAME}._linear_recipes")
    recipes, _ = inside.linear_recipes()
    one = recipes["deepseek-fp8"]
    assert [inside.quantizes_tuned(one, torch.bfloat16, k) for k in (128, 192, 256)] == [
        True, True, False
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = module.patch(mlp(), "deepseek-fp8")
    assert [layer.tuned for layer in report.replaced] == [True, True]


def test_the_function_of_cupy_arrays_has_no_random_bits_and_no_copies(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those are other kernels' calls: without their seed they would round to nearest."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    cuda = importlib.import_module(f"{NAME}.quantize_cuda")
    x = FakeArray((64, 256), "uint16")
    for name in ("int8.b32x32+sr", "int8.b32x32"):
        with pytest.raises(ValueError, match=r"there is bf16 -> e4m3fn\.b1x128$"):
            cuda.quantize(x, name)
    assert on_cupy(module._lookup) == [FORMATS]


def test_the_packages_own_tests_are_collected(
    package: EmittedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = package.folder / "tests" / "test_package.py"
    space: dict[str, Any] = {"__file__": str(path), "__name__": "test_package"}
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    exec(compile(path.read_text(), str(path), "exec"), space)
    (mark,) = space["test_quantize_cuda_keeps_the_values"].pytestmark
    names, rows = mark.args
    assert [row[:2] for row in rows] == [FORMATS]
    assert all(len(row) == len(names) for row in rows)


@pytest.mark.slow
def test_what_can_be_verified_without_a_gpu_passes(tmp_path: Path) -> None:
    made = (
        study("quantize:64x256:int8.row:bf16", family=CUDA),
        study("quantize:16x256:int8.row:bf16", family=TRITON),
        study("quantize:64x256:int8.b32x32:bf16", family=CUDA),
    )
    package = emit(run_of(*made), tmp_path / "out", name="quantize_checked")
    report = verify(package.folder, device="cpu", seed=5)
    assert [c.name for c in report.checks if c.status is Outcome.FAILED] == []
    names = {c.name for c in report.checks if c.status is Outcome.PASSED}
    stem = "cuda_quantize quantize:64x256:int8.b32x32:bf16"
    wanted = ("launcher", "configuration", "stand-in: configuration", "stand-in: nasty values")
    assert {f"{stem}: {part}" for part in wanted} <= names
    skipped = {c.name for c in report.checks if c.status is Outcome.SKIPPED}
    assert {f"{stem}: answers", f"{stem} by quantize_cuda"} <= skipped
