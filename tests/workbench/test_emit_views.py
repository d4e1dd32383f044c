"""Emitted packages' CUDA C++ product: torch's tensors as CuPy's views, and the CuPy function."""

import contextlib
import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from emit_runs import run_of, study
from fake_cupy import FakeArray, fake_cupy

from tiles.formats.torch_codec import empty_scales
from tiles.kernels.cuda import gemm_hopper, gemm_hopper_blocks
from tiles.kernels.cupy_views import cupy_view
from tiles.problems import Gemm, parse_problem
from workbench.emission import emit
from workbench.emission.package_files import _cupy_views, _hopper_gemm, _lookup
from workbench.emission.package_files._lookup import ConfigFile, parse_config_file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[ConfigFile, ...]:
    """Configurations of a package that has the CUDA kernel alone."""
    problems = ("gemm:512x256x384:bf16:bf16", "gemm:512x256x384:deepseek-fp8:bf16")
    run = run_of(*(study(problem, family="hopper_gemm") for problem in problems))
    package = emit(run, tmp_path_factory.mktemp("views") / "kernels", name="tile_pack")
    folder = package.folder / "src/tile_pack/configs"
    return tuple(parse_config_file(path.read_text()) for path in sorted(folder.glob("*.json")))


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy stands in for itself."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())


@pytest.mark.parametrize(
    ("capability", "cupy", "expected"),
    [
        ((9, 0), SimpleNamespace(), ""),
        ((8, 9), SimpleNamespace(), "it needs a GPU of capability 9.0"),
        ((10, 0), SimpleNamespace(), "it needs a GPU of capability 9.0"),
        ((9, 0), None, "it needs CuPy (import of cupy halted"),
    ],
)
def test_what_is_in_the_kernels_way(
    capability: tuple[int, int], cupy: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    _hopper_gemm.obstacle.cache_clear()
    found = _hopper_gemm.obstacle(torch.device("cuda", 0))
    assert found.startswith(expected)
    assert bool(found) == bool(expected)
    assert _hopper_gemm.obstacle(torch.device("cpu")) == "it needs a GPU of capability 9.0"
    _hopper_gemm.obstacle.cache_clear()


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the launcher, after its own checks of the operands."""
    calls: list[dict[str, Any]] = []

    def template(choice: Any) -> SimpleNamespace:
        def launch(a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, **keywords: Any) -> None:
            formats = {key: keywords[key] for key in ("element", "out", "scales")}
            if choice.file.kernel == "hopper_block_gemm":
                gemm_hopper_blocks.check_operands(a, b, c, a_scale, b_scale, **formats)
                gemm_hopper_blocks.options(**formats, config=keywords["config"])
            else:
                gemm_hopper.check_operands(a, b, c, a_scale, b_scale, **formats)
                gemm_hopper.options(**formats, config=keywords["config"])
            operands = {"a": a, "b": b, "c": c, "a_scale": a_scale, "b_scale": b_scale}
            calls.append(operands | keywords)

        return SimpleNamespace(launch=launch)

    monkeypatch.setattr(_hopper_gemm, "template", template)
    monkeypatch.setattr(_hopper_gemm, "stream", lambda device: "torch's stream")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return calls


CONFIG = {
    "block_m": 128,
    "block_n": 128,
    "stages": 4,
    "cluster": 1,
    "group_m": 4,
    "pingpong": False,
    "chained": False,
    "store_buffers": 1,
}
BLOCK_CONFIG = {key: value for key, value in CONFIG.items() if key not in ("pingpong", "chained")}
BLOCK_CONFIG |= {"consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}


def _aligned(rows: int, cols: int, dtype: torch.dtype, pitch: int | None = None) -> torch.Tensor:
    """An empty matrix at a 64-byte boundary; CPU tensors have those anyway."""
    found = torch.empty_strided((rows, cols), (pitch or cols, 1), dtype=dtype)
    assert found.data_ptr() % 16 == 0
    return found


@pytest.mark.parametrize("m", [1, 5, 64])
@pytest.mark.parametrize(
    ("kernel", "recipe", "scales"),
    [
        ("hopper_gemm", "bf16", "none"),
        ("hopper_gemm", "e4m3-tensor", "tensor"),
        ("hopper_gemm", "int8-row", "row"),
        ("hopper_gemm", "deepseek-fp8", "b1x128"),
        ("hopper_gemm", "int8-b128", "b128x128"),
        ("hopper_block_gemm", "e4m3-b1x128", "b1x128"),
        ("hopper_block_gemm", "jetfire", "b32x32"),
    ],
)
def test_torch_tensors_reach_the_launcher_as_views(
    m: int, kernel: str, recipe: str, scales: str, cupy: None, launched: list[dict[str, Any]]
) -> None:
    n, k = 144, 272
    problem = parse_problem(f"gemm:{m}x{n}x{k}:{recipe}:bf16")
    assert isinstance(problem, Gemm)
    fmt = problem.recipe.activation
    dtype = {"bf16": torch.bfloat16, "e4m3fn": torch.float8_e4m3fn, "int8": torch.int8}
    a = _aligned(m, k, dtype[fmt.element.name], pitch=512)
    b = _aligned(n, k, dtype[fmt.element.name])
    out = _aligned(m, n, torch.bfloat16)
    pair: list[torch.Tensor | None] = []
    for rows, side in ((m, fmt), (n, problem.recipe.weight)):
        scale = None
        if side.scaling is not None:
            # As any caller may have them: row-major, in whatever layout the grid asks for.
            scale = empty_scales(rows, k, side.scaling, "cpu").fill_(1.0).contiguous()
        pair.append(scale)
    layout = {"a_element": fmt.element.name, "scales": scales}
    file = SimpleNamespace(kernel=kernel, layout=layout)
    config = CONFIG if kernel == "hopper_gemm" else BLOCK_CONFIG
    choice = SimpleNamespace(file=file, config=config)
    _hopper_gemm.launch(choice, a, b, pair[0], pair[1], out)  # type: ignore[arg-type]
    (call,) = launched
    assert (call["element"], call["out"], call["scales"]) == (fmt.element.name, "bf16", scales)
    assert (call["config"], call["stream"]) == (config, "torch's stream")
    for name, tensor in (("a", a), ("b", b), ("c", out)):
        view = call[name]
        assert view.data.ptr == tensor.data_ptr()
        assert view.memory.memory.owner is tensor
        assert view.strides == tuple(s * tensor.element_size() for s in tensor.stride())
    used = 512 * (m - 1) + k
    assert call["a"].memory.memory.size == used * a.element_size()
    if scales == "b1x128":
        for name, rows in (("a_scale", m), ("b_scale", n)):
            held = call[name].memory.memory.owner
            of_rows = name == "a_scale" or kernel == "hopper_block_gemm"
            assert held.stride() == ((1, -(-rows // 4) * 4) if of_rows else (3, 1))
            assert torch.equal(held, torch.ones_like(held))


def test_scales_that_lie_right_are_not_copied(cupy: None, launched: list[dict[str, Any]]) -> None:
    a, b = _aligned(6, 256, torch.float8_e4m3fn), _aligned(128, 256, torch.float8_e4m3fn)
    fmt = parse_problem("gemm:6x128x256:deepseek-fp8:bf16").recipe.activation  # type: ignore[union-attr]
    assert fmt.scaling is not None
    scale = empty_scales(6, 256, fmt.scaling, "cpu").fill_(1.0)
    layout = {"a_element": "e4m3fn", "scales": "b1x128"}
    file = SimpleNamespace(kernel="hopper_gemm", layout=layout)
    choice = SimpleNamespace(file=file, config=CONFIG)
    weight_scale = torch.ones(1, 2)
    out = _aligned(6, 128, torch.bfloat16)
    _hopper_gemm.launch(choice, a, b, scale, weight_scale, out)  # type: ignore[arg-type]
    (call,) = launched
    assert call["a_scale"].data.ptr == scale.data_ptr()
    assert call["b_scale"].data.ptr == weight_scale.data_ptr()


@pytest.fixture
def gemm_cuda(
    cupy: None, files: tuple[ConfigFile, ...], monkeypatch: pytest.MonkeyPatch
) -> tuple[ModuleType, list[dict[str, Any]]]:
    """The CuPy function with the package's configurations, and what reaches its launcher."""
    monkeypatch.setattr(_lookup, "FILES", files)
    monkeypatch.setattr(_lookup, "_choices", {})
    monkeypatch.setattr(_lookup, "_warned", set())
    name = "workbench.emission.package_files.gemm_cuda"
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    calls: list[dict[str, Any]] = []
    template = SimpleNamespace(launch=lambda *operands, **rest: calls.append(rest))
    monkeypatch.setattr(module, "template", lambda choice: template)
    return module, calls


def test_the_cupy_function_launches_the_tuned_configuration(
    gemm_cuda: tuple[ModuleType, list[dict[str, Any]]], files: tuple[ConfigFile, ...]
) -> None:
    module, calls = gemm_cuda
    a, b = FakeArray((512, 384), "uint16"), FakeArray((256, 384), "uint16")
    out = module.gemm(a, b, recipe="bf16")
    assert (out.shape, out.dtype) == ((512, 256), np.dtype("uint16"))
    (call,) = calls
    (file,) = [
        f
        for f in files
        if f.kernel == "hopper_gemm" and f.extents and f.formats == ("bf16", "bf16")
    ]
    assert call["config"] == dict(file.entries)[512]
    assert (call["element"], call["out"], call["scales"]) == ("bf16", "bf16", "none")
    mine = FakeArray((512, 256), "uint16")
    assert module.gemm(a, b, recipe="bf16", out=mine) is mine
    assert module.gemm(FakeArray((0, 384), "uint16"), b, recipe="bf16").shape == (0, 256)
    assert len(calls) == 2


def test_the_cupy_function_refuses(
    gemm_cuda: tuple[ModuleType, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, calls = gemm_cuda
    a, b = FakeArray((512, 384), "uint16"), FakeArray((256, 384), "uint16")
    with pytest.raises(ValueError, match="no gemm for recipe 'int8-row' and output 'bf16'"):
        module.gemm(a, b, recipe="int8-row")
    with pytest.raises(ValueError, match="there is bf16 -> bf16, deepseek-fp8 -> bf16"):
        module.gemm(a, b, recipe="bf16", out_format="fp32")
    with pytest.raises(TypeError, match="b is ndarray: it must be a CuPy array"):
        module.gemm(a, np.ones((256, 384)), recipe="bf16")
    with pytest.raises(TypeError, match="out is ndarray: it must be a CuPy array"):
        module.gemm(a, b, recipe="bf16", out=np.ones((512, 256)))
    with pytest.raises(ValueError, match=r"gemm takes a \(M, K\) and b \(N, K\)"):
        module.gemm(a, FakeArray((256, 128), "uint16"), recipe="bf16")
    monkeypatch.setattr(module, "_device_facts", {0: ("NVIDIA A100", "80")})
    with pytest.raises(ValueError, match="NVIDIA A100 has capability 80, this kernel is for 90"):
        module.gemm(a, b, recipe="bf16")
    assert calls == []


@pytest.mark.parametrize("dtype", list(_cupy_views._VIEWS), ids=str)
@pytest.mark.usefixtures("cupy")
def test_the_workbench_views_memory_as_its_packages_do(dtype: torch.dtype) -> None:
    """Neither goes through DLPack, whose wait breaks a capture."""
    matrix = torch.ones(6, 8)
    for tensor in (matrix.to(dtype), matrix.to(dtype).t(), matrix.to(dtype)[:2, 3:]):
        one, other = cupy_view(tensor), _cupy_views.view(tensor)
        for name in ("shape", "dtype", "strides"):
            assert getattr(one, name) == getattr(other, name)
        for name in ("ptr", "size", "device"):
            assert getattr(one.memory.memory, name) == getattr(other.memory.memory, name)
        assert one.memory.memory.owner is tensor
    assert cupy_view(torch.empty(0, 8, dtype=dtype)).memory.memory.size == 0
