"""Packages with batched products, outliers apart, dequantisation and transposition: their calls."""

import importlib
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from cuda_division import CudaDivision
from emit_runs import run_of, study
from imported_package import imported

from workbench.emission import EmittedPackage, emit

NAME = "operators_pack"
STUDIES = (
    ("triton_batched_gemm", "batched_gemm:64x1x2048x128:e4m3-row:nk:bf16"),
    ("triton_batched_gemm", "batched_gemm:8x2048x2048x128:e4m3-row:nk:bf16"),
    ("triton_batched_gemm", "batched_gemm:8x2048x128x2048:int8-row:kn:fp16"),
    ("triton_outlier_gemm", "gemm:64x64x256:llm-int8:bf16"),
    ("triton_outlier_gemm", "gemm:64x128x512:int8-fallback:bf16"),
    ("triton_dequantize", "dequantize:64x256:nvfp4:fp32"),
    ("triton_dequantize", "dequantize:64x256:int8.b32x32:bf16"),
    ("triton_transpose", "transpose:64x256:e4m3fn"),
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    run = run_of(*(study(problem, family=family) for family, problem in STUDIES))
    return emit(run, tmp_path_factory.mktemp("operators") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        for part in ("batched_gemm", "gemm_outliers", "outlier_packing", "dequantize", "transpose"):
            importlib.import_module(f"{NAME}._{part}")
        yield found


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


FP8, I8 = torch.float8_e4m3fn, torch.int8
CODES = {"dtype": torch.uint8}


def test_public_names_and_calls_stand_in_the_readme(
    package: EmittedPackage, module: ModuleType
) -> None:
    assert sorted(module.__all__) == [
        "OutlierActivations", "batched_gemm", "dequantize", "gemm_outliers", "pack_outliers",
        "transpose",
    ]  # fmt: skip
    readme = (package.folder / "README.md").read_text()
    for call in (
        'batched_gemm(a, b, a_scale, b_scale, recipe="e4m3-row", second="nk"',
        'pack_outliers(x, weight, recipe="llm-int8")',
        'gemm_outliers(packed, b, b_scale, recipe="llm-int8"',
        'dequantize(codes, scales, "nvfp4", tensor_scale=outer, out_dtype=torch.float32)',
        "transpose(codes)",
        "are nearest in log space, added up",
        "the product is NaN",
    ):
        assert call in readme, call


@pytest.mark.parametrize(
    ("free", "taken"),
    [
        ((64, 1, 2048), (64, 1, 2048)),
        ((32, 1, 9000), (64, 1, 2048)),
        ((8, 512, 1024), (8, 2048, 2048)),
        ((1, 4096, 4096), (8, 2048, 2048)),
    ],
)
def test_the_nearest_tuned_shape_of_heads_as_wide_is_taken(
    module: ModuleType, free: tuple[int, int, int], taken: tuple[int, int, int]
) -> None:
    formats = ("e4m3-row", "nk", "bf16")
    choice = module._lookup.choose("triton_batched_gemm", formats, (128,), free, "NVIDIA H200")
    assert (choice.m, choice.tuned) == (taken, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        choice = module._lookup.choose("triton_batched_gemm", formats, (96,), free, "NVIDIA H200")
    assert not choice.tuned


def test_descriptors_that_cannot_reach_the_operands_give_way(module: ModuleType) -> None:
    batched = module._batched_gemm
    files = {f.formats: f for f in module._lookup.FILES if f.extents and f.gpu}
    lookup = module._lookup

    def fitting(second: str, a: torch.Tensor, b: torch.Tensor) -> Any:
        formats = ("e4m3-row", "nk", "bf16") if second == "nk" else ("int8-row", "kn", "fp16")
        config = {**files[formats].entries[0][1], "tma": True, "block_k": 64}
        choice = lookup.Choice(file=files[formats], m=(8, 2048, 2048), config=config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return batched.fitting(choice, a, b)

    def bytes_(*shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=I8)

    assert fitting("nk", bytes_(2, 5, 64), bytes_(2, 7, 64)).tuned
    assert fitting("nk", bytes_(2, 3, 5, 64), bytes_(2, 3, 7, 64)).tuned
    between = bytes_(2, 5, 3, 64).transpose(1, 2)
    for a, b in (
        (between, bytes_(2, 3, 7, 64)),
        (bytes_(2, 5, 72)[..., :64], bytes_(2, 7, 64)),
        (bytes_(2, 5, 65)[..., 1:], bytes_(2, 7, 64)),
    ):
        found = fitting("nk", a, b)
        assert (found.tuned, found.config["tma"]) == (False, False)
    assert fitting("kn", bytes_(2, 5, 128), bytes_(2, 128, 16)).tuned
    assert not fitting("kn", bytes_(2, 5, 96), bytes_(2, 96, 16)).tuned


def test_shapes_alone_need_no_gpu(module: ModuleType) -> None:
    c = module.batched_gemm(
        *(_meta(2, 3, 5, 128, dtype=FP8), _meta(2, 3, 7, 128, dtype=FP8)),
        *(_meta(2, 3, 5, 1), _meta(2, 3, 7, 1)),
        recipe="e4m3-row",
    )
    assert (c.shape, c.dtype) == ((2, 3, 5, 7), torch.bfloat16)
    c = module.batched_gemm(
        *(_meta(6, 5, 64, dtype=I8), _meta(6, 64, 7, dtype=I8), _meta(6, 5, 1), _meta(6, 7, 1)),
        recipe="int8-row", second="kn", out_dtype=torch.float16,
    )  # fmt: skip
    assert (c.shape, c.dtype) == ((6, 5, 7), torch.float16)
    x = module.dequantize(
        _meta(6, 18, **CODES), _meta(6, 3, **CODES), "nvfp4", columns=35,
        tensor_scale=_meta(1), out_dtype=torch.float32,
    )  # fmt: skip
    assert (x.shape, x.dtype) == ((6, 35), torch.float32)
    turned = module.transpose(_meta(6, 35, dtype=FP8))
    assert (turned.shape, turned.dtype, turned.is_contiguous()) == ((35, 6), FP8, True)
    packed = module.OutlierActivations(
        _meta(6, 64, dtype=I8), _meta(6, 1),
        (_meta(6, 64).half(), _meta(8, 64).half(), _meta(1, dtype=torch.int32)),
    )  # fmt: skip
    c = module.gemm_outliers(packed, _meta(8, 64, dtype=I8), _meta(8, 1), recipe="llm-int8")
    assert (c.shape, c.dtype) == ((6, 8), torch.bfloat16)


def test_what_cannot_run_is_refused_in_one_line(module: ModuleType) -> None:
    a, b = _meta(2, 5, 128, dtype=FP8), _meta(2, 7, 128, dtype=FP8)
    scales = (_meta(2, 5, 1), _meta(2, 7, 1))
    row = {"recipe": "e4m3-row"}
    i8, one = torch.zeros(64, 256, dtype=I8), torch.ones(2, 8)
    x = torch.randn(6, 64)
    columns = module.pack_outliers(x, torch.randn(8, 64), recipe="llm-int8")
    w8, w_scale = torch.zeros(8, 64, dtype=I8), torch.ones(8, 1)
    batched, turn, widen = module.batched_gemm, module.transpose, module.dequantize
    pack, outliers = module.pack_outliers, module.gemm_outliers
    nv = torch.zeros(6, 18, dtype=torch.uint8), torch.zeros(6, 3, dtype=torch.uint8)
    fp32 = {"out_dtype": torch.float32}
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "no batched product for recipe 'e4m3-row', second 'kn'", lambda: batched(
            a, b, *scales, **row, second="kn")),
        (ValueError, "with as many matrices, got", lambda: batched(a, b[:1], *scales, **row)),
        (ValueError, r"b [(]\.\.\., N, K[)], got [(]2, 5, 128[)] and [(]2, 7, 64", lambda: batched(
            a, b[..., :64], *scales, **row)),
        (ValueError, r"b_scale must be \(2, 7, 1\), got \(2, 5, 1\)", lambda: batched(
            a, b, scales[0], scales[0], **row)),
        (ValueError, "a has strides .*: its rows must be contiguous", lambda: batched(
            _meta(2, 128, 5, dtype=FP8).mT, b, *scales, **row)),
        (TypeError, "b must be torch.float8_e4m3fn", lambda: batched(
            a, b.float(), *scales, **row)),
        (ValueError, r"out must be \(2, 5, 7\), got \(5, 7\)", lambda: batched(
            a, b, *scales, **row, out=_meta(5, 7, dtype=torch.bfloat16))),
        (ValueError, "K 132104.* > .*: the int32 accumulator could overflow", lambda: batched(
            _meta(2, 5, 1321040, dtype=I8), _meta(2, 1321040, 7, dtype=I8), _meta(2, 5, 1),
            _meta(2, 7, 1), recipe="int8-row", second="kn", out_dtype=torch.float16)),
        (TypeError, "no transpose of torch.int8: there is e4m3fn", lambda: turn(i8)),
        (ValueError, "transpose takes a contiguous matrix", lambda: turn(i8.view(FP8).t())),
        (ValueError, r"out must be \(256, 64\), got \(64, 256\)", lambda: turn(
            i8.view(FP8), out=i8.view(FP8))),
        (ValueError, "no dequantize from 'int8.row' to torch.bfloat16: there is", lambda: widen(
            i8, one, "int8.row")),
        (ValueError, r"scales must be \(2, 8\), got \(8, 2\)", lambda: widen(
            i8, one.t(), "int8.b32x32")),
        (TypeError, "scales must be torch.float32, got torch.float16", lambda: widen(
            i8, one.half(), "int8.b32x32")),
        (ValueError, "tensor_scale: nvfp4 needs a second level", lambda: widen(
            *nv, "nvfp4", columns=35, **fp32)),
        (ValueError, "codes have 18 bytes a row: 37 columns of 4 bits take 19", lambda: widen(
            *nv, "nvfp4", columns=37, **fp32)),
        (TypeError, "codes hold torch.float32", lambda: widen(one, one, "int8.b32x32")),
        (TypeError, "codes hold torch.float8_e5m2.* takes codes as torch.uint8 or torch.int8",
            lambda: widen(i8.view(torch.float8_e5m2), one, "int8.b32x32")),
        (TypeError, "codes hold torch.int8: nvfp4 takes codes as torch.uint8$", lambda: widen(
            nv[0].view(I8), nv[1], "nvfp4", columns=35, **fp32)),
        (ValueError, "weight: recipe llm-int8 gathers columns of the weights", lambda: pack(
            x, recipe="llm-int8")),
        (ValueError, "weight: recipe int8-fallback takes no weight", lambda: pack(
            x, x, recipe="int8-fallback")),
        (ValueError, "capacity 100: it must be a positive multiple of 64", lambda: pack(
            x, x, recipe="llm-int8", capacity=100)),
        (TypeError, "x must be one of torch.bfloat16", lambda: pack(
            x.double(), recipe="int8-fallback")),
        (ValueError, "no outliers of recipe 'bf16': there is int8-fallback, llm-int8", lambda: pack(
            x, recipe="bf16")),
        (TypeError, "a is Tensor: make it with pack_outliers", lambda: outliers(
            i8, i8, one, recipe="llm-int8")),
        (ValueError, "a holds other outliers than recipe int8-fallback has", lambda: outliers(
            columns, w8, w_scale, recipe="int8-fallback")),
        (ValueError, "outliers.b has 8 rows, b 9: pack with b's own weights", lambda: outliers(
            columns, torch.zeros(9, 64, dtype=I8), torch.ones(9, 1), recipe="llm-int8")),
        (ValueError, r"b_scale must be \(8, 1\), got \(1, 8\)", lambda: outliers(
            columns, w8, w_scale.t(), recipe="llm-int8")),
        # Past torch's dispatcher, whose first call takes seconds.
        (ValueError, "codes lies on cpu: move it to a GPU", lambda: module._transpose._launch(
            i8.view(FP8), i8.view(FP8))),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_more_outlier_columns_than_memory_spoil_the_scales(module: ModuleType) -> None:
    x, weight = torch.randn(6, 640), torch.randn(8, 640)
    x[0, :65] = 100.0
    packed = module.pack_outliers(x, weight, recipe="llm-int8")
    assert packed.outliers[0].shape == (6, 64)
    assert (int(packed.outliers[2]), bool(packed.scales.isnan().all())) == (65, True)
    roomy = module.pack_outliers(x, weight, recipe="llm-int8", capacity=128)
    assert not roomy.scales.isnan().any()
    assert torch.equal(roomy.outliers[1][:, :65], weight[:, :65].half())
    assert not roomy.codes[:, :65].any()


def test_packed_scales_are_the_same_where_division_by_a_number_is_a_product(
    module: ModuleType,
) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(rows, 256, generator=generator) for rows in (300, 8))
    for recipe, inputs in (("llm-int8", (x, weight)), ("int8-fallback", (x,))):
        wanted = module.pack_outliers(*inputs, recipe=recipe)
        with CudaDivision():
            assert not torch.equal(x / 127, x / torch.full_like(x, 127))
            found = module.pack_outliers(*inputs, recipe=recipe)
        assert torch.equal(found.scales, wanted.scales)
        assert torch.equal(found.codes, wanted.codes)


@pytest.mark.slow
def test_packing_compiles_into_one_graph_with_the_same_bits(module: ModuleType) -> None:
    """What verification compiles by itself is not among it: nobody tunes the packing."""
    x = torch.randn(130, 256, generator=torch.Generator().manual_seed(2))

    def call() -> Any:
        return module.pack_outliers(x, recipe="int8-fallback")

    torch.compiler.reset()
    found, wanted = torch.compile(call, fullgraph=True, backend="eager")(), call()
    for mine, its in zip((*found[:2], *found[2]), (*wanted[:2], *wanted[2]), strict=True):
        assert torch.equal(mine, its)
