"""Packages with products of packed codes, products into codes, and their quantisation."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from fake_cupy import fake_cupy
from imported_package import imported

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.cuda import gemm_hopper_aligned, gemm_hopper_blocks, gemm_hopper_skinny
from workbench.emission import EmittedPackage, emit

NAME = "packed_pack"
MX, CODES = "gemm:512x64x256:mxfp8-e4m3:bf16", "gemm:512x64x256:jetfire:int8.b32x32+sr"
NVFP4 = "gemm:16x64x256:nvfp4:bf16"
QUANTIZE = "quantize:64x256:nvfp4:bf16:transposed:swizzled"
FEW_ROWS = "gemm:4x64x256:mxfp8-e4m3:bf16"
MANY_ROWS = "gemm:8192x64x256:mxfp8-e4m3:bf16"
FAMILY, SKINNY = "hopper_block_gemm", "hopper_skinny_gemm"
ALIGNED = "hopper_aligned_gemm"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    run = run_of(
        study(MX, family=FAMILY, time_us=10.0),
        study(MX, family="triton_decoded_gemm", time_us=20.0),
        study(FEW_ROWS, family=SKINNY),
        study(MANY_ROWS, family=ALIGNED),
        study(CODES, family=FAMILY),
        study(NVFP4, family="triton_decoded_gemm"),
        study(QUANTIZE, family="triton_quantize_tiles"),
    )
    return emit(run, tmp_path_factory.mktemp("packed") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        for part in ("_gemm_packed", "_gemm_quantized", "_hopper_gemm"):
            importlib.import_module(f"{NAME}.{part}")
        yield found


def test_the_faster_kernel_of_an_mx_product_ships_with_its_stand_in(
    package: EmittedPackage, module: ModuleType
) -> None:
    assert sorted(module.__all__) == ["gemm_packed", "gemm_quantized", "quantize_packed"]
    choice = module._gemm_packed.choose(
        "triton_decoded_gemm", ("mxfp8-e4m3", "bf16"), (64, 256), 500, "NVIDIA H200", (FAMILY,)
    )
    assert (choice.file.kernel, choice.tuned) == (FAMILY, True)
    readme = (package.folder / "README.md").read_text()
    assert f"| triton_decoded_gemm | {MX} | h200 | {FAMILY} is faster" in readme
    for call in ("gemm_packed(a, b, a_scale, b_scale", "gemm_quantized(a, b", "quantize_packed(x"):
        assert call in readme


def _codes(rows: int, cols: int, fmt: str) -> Any:
    return quantize_tensor(torch.randn(rows, cols), TensorFormat.parse(fmt))


@pytest.fixture
def launched(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the CUDA C++ launcher, once it has checked its operands."""
    calls: list[dict[str, Any]] = []

    def launch(
        a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, c_scale: Any = None, **rest: Any
    ) -> None:
        formats = {key: rest[key] for key in ("element", "out", "scales")}
        if "workspace" in rest:
            held = rest["workspace"]
            gemm_hopper_aligned._check(a, b, c, a_scale, b_scale, held, **formats)
            gemm_hopper_aligned.options(**formats, config=rest["config"])
        elif formats["scales"] == "mx":
            operands = (a, b, c, a_scale, b_scale)
            modes = gemm_hopper_skinny.SCALES
            gemm_hopper_skinny.check_operands(*operands, **formats, modes=modes)
            gemm_hopper_skinny.options(**formats, config=rest["config"])
        else:
            gemm_hopper_blocks.check_operands(a, b, c, a_scale, b_scale, c_scale, **formats)
            gemm_hopper_blocks.options(**formats, config=rest["config"])
        calls.append({"a_scale": a_scale, "b_scale": b_scale, "c_scale": c_scale, **rest})

    hopper = module._hopper_gemm
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    fake = SimpleNamespace(launch=launch, workspace_bytes=gemm_hopper_aligned.workspace_bytes)
    monkeypatch.setattr(hopper, "template", lambda choice: fake)
    monkeypatch.setattr(module._gemm_packed, "template", lambda choice: fake)
    monkeypatch.setattr(hopper, "stream", lambda device: "torch's stream")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return calls


def _tuned(module: ModuleType, formats: tuple[str, str], family: str = FAMILY) -> Any:
    (file,) = [
        file
        for file in module._lookup.FILES
        if (file.kernel, file.formats) == (family, formats) and file.extents is not None
    ]
    return module._lookup.Choice(file=file, m=512, config=file.entries[0][1])


@pytest.mark.parametrize("given", ["bits", "e8m0", "powers"])
def test_mx_scales_reach_the_kernel_as_the_powers_that_they_stand_for(
    module: ModuleType, launched: list[dict[str, Any]], given: str
) -> None:
    a, b = _codes(6, 256, "e4m3fn.mx"), _codes(64, 256, "e4m3fn.mx")
    a.scales[0, 0] = 2.0**-127
    a.scales[1, 1] = torch.nan
    scales = [side.scales for side in (a, b)]
    if given != "powers":
        scales = [side.scale_bits for side in (a, b)]
    if given == "e8m0":
        scales = [scale.view(torch.float8_e8m0fnu) for scale in scales]
    out = torch.empty(6, 64, dtype=torch.bfloat16)
    operands = (a.bits, b.bits, *scales, None, None)
    module._gemm_packed.run(_tuned(module, ("mxfp8-e4m3", "bf16")), operands, out, 256)
    (call,) = launched
    assert (call["element"], call["scales"], call["out"]) == ("e4m3fn", "b1x32", "bf16")
    for name, side in (("a_scale", a), ("b_scale", b)):
        held = call[name].memory.memory.owner
        assert torch.equal(held.nan_to_num(nan=-1.0), side.scales.nan_to_num(nan=-1.0))
        assert held.stride(0) == 1


@pytest.mark.parametrize("given", ["bits", "e8m0", "powers"])
def test_mx_scales_reach_the_kernel_for_few_rows_as_bytes(
    module: ModuleType, launched: list[dict[str, Any]], given: str
) -> None:
    for m, family in ((3, SKINNY), (500, FAMILY)):
        choice = module._gemm_packed.choose(
            "triton_decoded_gemm",
            ("mxfp8-e4m3", "bf16"),
            (64, 256),
            m,
            "NVIDIA H200",
            module._gemm_packed.HOPPER,
        )
        assert (choice.file.kernel, choice.tuned) == (family, True)
    a, b = _codes(6, 256, "e4m3fn.mx"), _codes(64, 256, "e4m3fn.mx")
    a.scales[0, 0] = 2.0**-127
    a.scales[1, 1] = torch.nan
    scales = [side.scales for side in (a, b)]
    if given != "powers":
        scales = [side.scale_bits for side in (a, b)]
    if given == "e8m0":
        scales = [scale.view(torch.float8_e8m0fnu) for scale in scales]
    out = torch.empty(6, 64, dtype=torch.bfloat16)
    operands = (a.bits, b.bits, *scales, None, None)
    choice = _tuned(module, ("mxfp8-e4m3", "bf16"), SKINNY)
    module._gemm_packed.run(choice, operands, out, 256)
    (call,) = launched
    assert (call["element"], call["scales"], call["out"]) == ("e4m3fn", "mx", "bf16")
    for name, side in (("a_scale", a), ("b_scale", b)):
        held = call[name].memory.memory.owner
        assert torch.equal(held.view(torch.uint8), side.scale_bits)


@pytest.mark.parametrize("given", ["bits", "powers"])
def test_an_aligned_product_gets_scales_as_bytes_and_a_workspace_of_its_own(
    package: EmittedPackage, module: ModuleType, launched: list[dict[str, Any]], given: str
) -> None:
    names = {path.name for path in (package.folder / "src" / NAME / "kernels" / "cuda").iterdir()}
    assert {
        "align_mx_scales.cu",
        "align_mx_scales.py",
        "gemm_hopper.cu",
        "gemm_hopper_aligned.py",
        "hopper_row_promotion.cuh",
        "mx_alignment.cuh",
    } <= names
    for m, family in ((3, SKINNY), (500, FAMILY), (8000, ALIGNED)):
        choice = module._gemm_packed.choose(
            "triton_decoded_gemm",
            ("mxfp8-e4m3", "bf16"),
            (64, 256),
            m,
            "NVIDIA H200",
            module._gemm_packed.HOPPER,
        )
        assert (choice.file.kernel, choice.tuned) == (family, True)
    a, b = _codes(6, 256, "e4m3fn.mx"), _codes(64, 256, "e4m3fn.mx")
    scales = [side.scales if given == "powers" else side.scale_bits for side in (a, b)]
    out = torch.empty(6, 64, dtype=torch.bfloat16)
    choice = _tuned(module, ("mxfp8-e4m3", "bf16"), ALIGNED)
    for _ in range(2):
        module._gemm_packed.run(choice, (a.bits, b.bits, *scales, None, None), out, 256)
    assert [call["scales"] for call in launched] == ["mx", "mx"]
    held = [call["workspace"].memory.memory.owner for call in launched]
    assert held[0].data_ptr() != held[1].data_ptr()
    for name, side in (("a_scale", a), ("b_scale", b)):
        bits = launched[0][name].memory.memory.owner
        assert torch.equal(bits.view(torch.uint8), side.scale_bits)


def test_the_function_of_cupy_arrays_leaves_scales_in_bytes_to_gemm_packed(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    cuda = importlib.import_module(f"{NAME}.gemm_cuda")
    assert cuda._KERNELS["mxfp8-e4m3", "bf16"] == (FAMILY,)


def test_codes_leave_the_kernel_with_their_scales_and_seed(
    module: ModuleType, launched: list[dict[str, Any]]
) -> None:
    a, b = _codes(40, 256, "int8.b32x32"), _codes(64, 256, "int8.b32x32")
    target = "int8.b32x32+sr"
    operands = (a.codes, b.codes, a.scales, b.scales)
    outputs = module._gemm_quantized._empty(*operands, "jetfire", target, 1)
    choice = _tuned(module, ("jetfire", target))
    module._gemm_quantized.run(choice, operands, outputs, target, 2**40 + 1)
    (call,) = launched
    assert (call["out"], call["seed"], call["stream"]) == (target, 2**40 + 1, "torch's stream")
    assert call["c_scale"].memory.memory.owner is outputs[1]
    assert (outputs[0].dtype, tuple(outputs[1].shape)) == (torch.int8, (2, 2))


def test_scale_bits_and_powers_are_each_others_inverse(module: ModuleType) -> None:
    operand = sys.modules[f"{NAME}._packed_operand"]
    bits = torch.arange(256, dtype=torch.uint8).view(16, 16)
    powers = operand.powers(bits)
    expected = 2.0 ** (torch.arange(255, dtype=torch.float64) - 127)
    assert torch.equal(powers.flatten()[:255].double(), expected)
    assert powers.flatten()[255].isnan()
    assert torch.equal(operand.scale_bits(powers, "e8m0fnu"), bits)


def test_shapes_alone_need_no_gpu(module: ModuleType) -> None:
    def meta(*shape: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    c = module.gemm_packed(
        meta(6, 256), meta(64, 256), meta(6, 8), meta(64, 8), recipe="mxfp8-e4m3"
    )
    assert (tuple(c.shape), c.dtype) == ((6, 64), torch.bfloat16)
    x = meta(70, 36, dtype=torch.bfloat16)
    found = module.quantize_packed(x, "nvfp4", transposed=True, swizzled=True)
    shapes = {name: tuple(t.shape) for name, t in found._asdict().items()}
    # 70 x 3 blocks of 1x16 in one tile of 128x4; of the transposed matrix 36 x 5 in two.
    assert shapes == {
        "codes": (70, 18),
        "scales": (512,),
        "tensor_scale": (1,),
        "codes_t": (36, 35),
        "scales_t": (1024,),
    }
    floats = meta(2, 8, dtype=torch.float32)
    int8 = meta(64, 256, dtype=torch.int8)
    codes, scales = module.gemm_quantized(
        int8, int8, floats, floats, recipe="jetfire", format="int8.b32x32+sr", seed=3
    )
    assert (codes.shape, scales.shape) == ((64, 64), (2, 2))


def test_what_cannot_run_is_refused_in_one_line(module: ModuleType) -> None:
    mx = torch.zeros(6, 256, dtype=torch.uint8), torch.zeros(64, 256, dtype=torch.uint8)
    scales = torch.zeros(6, 8, dtype=torch.uint8), torch.zeros(64, 8, dtype=torch.uint8)
    x = torch.zeros(8, 32, dtype=torch.bfloat16)
    i8, one = torch.zeros(64, 256, dtype=torch.int8), torch.ones(2, 8)
    jetfire = {"recipe": "jetfire", "format": "int8.b32x32+sr"}
    packed, quantized = module.gemm_packed, module.gemm_quantized
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "no packed product for recipe 'bf16'", lambda: packed(*mx, recipe="bf16")),
        (ValueError, r"a_scale is missing: the recipe takes scales \(6, 8\)", lambda: (
            packed(*mx, recipe="mxfp8-e4m3"))),
        (ValueError, r"b_scale must be \(64, 8\), got \(6, 8\)", lambda: (
            packed(*mx, scales[0], scales[0], recipe="mxfp8-e4m3"))),
        (TypeError, "a_scale must be torch.uint8 or torch.float8_e8m0fnu", lambda: (
            packed(*mx, scales[0].int(), scales[1], recipe="mxfp8-e4m3"))),
        (ValueError, "b has 256 items a row: 512 columns of 8 bits take 512", lambda: (
            packed(mx[0].repeat(1, 2), mx[1], scales[0].repeat(1, 2), None, recipe="mxfp8-e4m3"))),
        (ValueError, "the recipe needs a second level", lambda: packed(
            mx[0][:, :128], mx[1][:, :128], torch.zeros(6, 16, dtype=torch.uint8), None,
            recipe="nvfp4")),
        (TypeError, "a holds torch.float32: view its codes", lambda: (
            packed(mx[0].float(), mx[1], *scales, recipe="mxfp8-e4m3"))),
        (ValueError, "seed: int8.b32x32[+]sr needs a seed", lambda: (
            quantized(i8, i8, one, one, **jetfire))),
        (ValueError, r"a_scale must be \(2, 8\)", lambda: (
            quantized(i8, i8, one[:1], one, **jetfire, seed=1))),
        (TypeError, "b must be torch.int8", lambda: (
            quantized(i8, i8.float(), one, one, **jetfire, seed=1))),
        (ValueError, "no quantize_packed from torch.bfloat16 to 'int8.row'", lambda: (
            module.quantize_packed(x, "int8.row"))),
        (ValueError, "bf16 -> nvfp4 transposed swizzled", lambda: (
            module.quantize_packed(x, "nvfp4"))),
        (ValueError, "nvfp4 rounds to nearest: pass no seed", lambda: (
            module.quantize_packed(x, "nvfp4", transposed=True, swizzled=True, seed=1))),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
