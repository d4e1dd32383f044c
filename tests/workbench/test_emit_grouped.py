"""Packages with the products of a mixture's experts: what ships, what a call looks up, refusals."""

import contextlib
import importlib
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from fake_cupy import fake_cupy
from imported_package import imported

from tiles.kernels.cuda import gemm_hopper_grouped
from workbench.emission import EmittedPackage, emit

NAME = "grouped_pack"
FAMILY = "triton_grouped_gemm"
PROBLEMS = (
    "grouped_gemm:4x512x64x256:deepseek-fp8:contiguous:bf16",
    "grouped_gemm:4x512x64x256:deepseek-fp8:padded.128:bf16",
    "grouped_gemm:4x512x64x256:deepseek-fp8:masked.256:bf16",
    "grouped_gemm:4x512x64x256:deepseek-fp8:gathered.2:bf16",
)
#: Where the CUDA C++ kernel is faster.
HOPPER = "hopper_grouped_gemm"
ON_HOPPER = (
    "grouped_gemm:4x512x64x256:deepseek-fp8:padded.128:bf16",
    "grouped_gemm:4x512x64x256:deepseek-fp8:masked.256:bf16",
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    made = (study(problem, family=FAMILY, time_us=20.0) for problem in PROBLEMS)
    run = run_of(*made, *(study(one, family=HOPPER, time_us=10.0) for one in ON_HOPPER))
    return emit(run, tmp_path_factory.mktemp("grouped") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        importlib.import_module(f"{NAME}._grouped_gemm")
        yield found


def _operands(rows: int = 512, *, tokens: int | None = None) -> dict[str, Any]:
    def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    fp8, fp32 = torch.float8_e4m3fn, torch.float32
    return {
        "a": meta(tokens or rows, 256, dtype=fp8),
        "b": meta(4, 64, 256, dtype=fp8),
        "a_scale": meta(tokens or rows, 2, dtype=fp32),
        "b_scale": meta(4, 1, 2, dtype=fp32),
        "offsets": meta(5, dtype=torch.int64),
        "counts": meta(4, dtype=torch.int32),
        "ids": meta(rows, dtype=torch.int32),
        "recipe": "deepseek-fp8",
    }


def _call(module: ModuleType, drop: tuple[str, ...], **changes: Any) -> Any:
    arguments = {**_operands(), **changes}
    return module.grouped_gemm(**{k: v for k, v in arguments.items() if k not in drop})


def test_every_order_of_rows_ships(package: EmittedPackage, module: ModuleType) -> None:
    assert module.__all__ == ["grouped_gemm"]
    orders = [formats[1] for formats in module._grouped_gemm._LAYOUTS]
    assert sorted(orders) == ["contiguous", "gathered", "masked", "padded"]
    readme = (package.folder / "README.md").read_text()
    assert 'grouped_gemm(a, b, a_scale, b_scale, recipe="deepseek-fp8", offsets=offsets)' in readme


@pytest.mark.parametrize(
    ("order", "size", "rows"),
    [("contiguous", 1, 512), ("padded", 1, 512), ("masked", 256, 512), ("gathered", 2, 512)],
)
def test_tuned_experts_take_the_tuned_entry(
    module: ModuleType, order: str, size: int, rows: int
) -> None:
    def chosen(extents: tuple[int, ...]) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            formats = ("deepseek-fp8", order, "bf16")
            others = (HOPPER,)
            return module._lookup.choose(FAMILY, formats, extents, rows, "NVIDIA H200", others)

    tuned = chosen((4, 64, 256, size))
    assert (tuned.tuned, tuned.file.kernel) == (
        True,
        HOPPER if order in ("padded", "masked") else FAMILY,
    )
    assert not chosen((8, 64, 256, size)).tuned
    if order in ("masked", "gathered"):
        assert not chosen((4, 64, 256, size + 1)).tuned
    defaults = [f for f in module._lookup.FILES if f.formats[1] == order and f.extents is None]
    assert {file.gpu for file in defaults} == {"h200", None}
    assert not any(c["tma"] for f in defaults if f.kernel == FAMILY for _, c in f.entries)


def test_shapes_alone_need_no_gpu(module: ModuleType) -> None:
    c = _call(module, ("ids", "counts"))
    assert (tuple(c.shape), c.dtype) == ((512, 64), torch.bfloat16)
    masked = _operands()
    masked |= {"a": masked["a"].view(4, 128, 256), "a_scale": masked["a_scale"].view(4, 128, 2)}
    assert _call(module, ("ids", "offsets"), **masked).shape == (4, 128, 64)
    tokens = _operands(tokens=256)
    assert _call(module, ("counts",), **tokens, top_k=2).shape == (512, 64)
    out = torch.empty(512, 64, dtype=torch.bfloat16, device="meta")
    assert _call(module, ("ids", "counts"), out=out) is out


def test_what_does_not_fit_is_refused_in_one_line(module: ModuleType) -> None:
    plain = ("ids", "counts")
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "give offsets [(]contiguous, gathered[)]", lambda: _call(
            module, ("offsets", "counts", "ids"))),
        (ValueError, "no grouped product for recipe 'bf16', contiguous rows", lambda: _call(
            module, plain, recipe="bf16")),
        (ValueError, "a_scale is missing", lambda: _call(module, (*plain, "a_scale"))),
        (TypeError, "b must be torch.float8_e4m3fn", lambda: _call(
            module, plain, b=_operands()["b"].float())),
        (ValueError, r"got \(512, 256\) and \(4, 64\)", lambda: _call(
            module, plain, b=_operands()["b"][:, :, 0])),
        (ValueError, "out must be", lambda: _call(
            module, plain, out=torch.empty(4, 64, dtype=torch.bfloat16, device="meta"))),
        (ValueError, "a lies on meta, offsets on cpu", lambda: _call(
            module, plain, offsets=torch.zeros(5, dtype=torch.int64))),
        (TypeError, "a is list", lambda: _call(module, plain, a=[1])),
        (ValueError, "top_k 0: at least 1", lambda: _call(module, ("counts",), top_k=0)),
        (ValueError, "expected_rows -1: at least 0", lambda: _call(
            module, ("ids",), expected_rows=-1)),
        (ValueError, r"grouped_gemm takes a .* got \(512, 0\) and \(4, 64, 0\)", lambda: _call(
            module, plain, a=_operands()["a"][:, :0], b=_operands()["b"][:, :, :0])),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_two_entries_with_one_key_are_refused(tmp_path: Any) -> None:
    twice = (
        study(problem.replace("padded.128", f"padded.{size}"), family=FAMILY)
        for size, problem in ((64, PROBLEMS[1]), (128, PROBLEMS[1]))
    )
    with pytest.raises(ValueError, match="are looked up by the same extents: emit one of them"):
        emit(run_of(*twice), tmp_path / "out")


@pytest.fixture
def launched(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the CUDA C++ launcher, once it has checked its operands."""
    calls: list[dict[str, Any]] = []

    def launch(*operands: Any, config: Any, stream: Any, **rest: Any) -> None:
        gemm_hopper_grouped._check_operands(*operands, **rest)
        calls.append({**dict(zip(("a", "b", "c", "a_scale"), operands, strict=False)), **rest})

    hopper = importlib.import_module(f"{NAME}._hopper_gemm")
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(hopper, "template", lambda choice: SimpleNamespace(launch=launch))
    monkeypatch.setattr(hopper, "stream", lambda device: "torch's stream")
    monkeypatch.setattr(hopper, "obstacle", lambda device: "")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(module._grouped_gemm, "check_device", lambda name, tensor: None)
    monkeypatch.setattr(module._grouped_gemm, "device_facts", lambda device: ("NVIDIA H200", 132))
    return calls


@pytest.mark.parametrize("masked", [False, True])
def test_experts_reach_the_hopper_kernel_as_views(
    module: ModuleType, launched: list[dict[str, Any]], masked: bool
) -> None:
    rows = (4, 256) if masked else (512,)
    a = torch.zeros(*rows, 256, dtype=torch.int8).view(torch.float8_e4m3fn)
    b = torch.zeros(4, 64, 256, dtype=torch.int8).view(torch.float8_e4m3fn)
    # Row-major, as nobody's kernel wants them: the columns must become contiguous.
    a_scale, b_scale = torch.rand(*rows, 2), torch.rand(4, 1, 2)
    counts = torch.full((4,), 100, dtype=torch.int32)
    offsets = None if masked else torch.arange(5) * 128
    out = torch.empty(*rows, 64, dtype=torch.bfloat16)
    told = (a, b, a_scale, b_scale, offsets, counts, None, "deepseek-fp8", 1, 0, out)
    module._grouped_gemm._launch(*told)
    (call,) = launched
    assert (call["scales"], call["element"], call["out"]) == ("b1x128", "e4m3fn", "bf16")
    held = call["a_scale"].memory.memory.owner
    assert torch.equal(held, a_scale)
    assert (held.stride(-2), held.data_ptr() != a_scale.data_ptr()) == (1, True)
    assert call["counts"].memory.memory.owner is counts
    assert (call["offsets"] is None) == masked


def test_what_the_hopper_kernel_cannot_read_runs_the_stand_in(
    module: ModuleType, launched: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(module._grouped_gemm, "run", lambda choice, *told: chosen.append(choice))
    wide = torch.zeros(512, 257, dtype=torch.int8).view(torch.float8_e4m3fn)
    b = torch.zeros(4, 64, 256, dtype=torch.int8).view(torch.float8_e4m3fn)
    scales = torch.ones(512, 2), torch.ones(4, 1, 2)
    routing = (torch.arange(5) * 128, torch.full((4,), 100, dtype=torch.int32), None)
    out = torch.empty(512, 64, dtype=torch.bfloat16)
    rest = (*scales, *routing, "deepseek-fp8", 1, 0, out)
    with pytest.warns(RuntimeWarning, match="multiples of 16 bytes, or matrices do not follow"):
        module._grouped_gemm._launch(wide[:, 1:], b, *rest)
    assert (chosen[0].file.kernel, chosen[0].tuned) == (FAMILY, False)
    apart = torch.zeros(4, 128, 256, dtype=torch.int8).view(torch.float8_e4m3fn)[:, :64]
    module._grouped_gemm._launch(wide[:, :256].contiguous(), apart, *rest)
    module._grouped_gemm._launch(wide[:, :256].contiguous(), b, *rest)
    assert [choice.file.kernel for choice in chosen[1:]] == [FAMILY, HOPPER]
    assert launched == []
