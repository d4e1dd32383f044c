"""The CUDA backend without a GPU: layers of every recipe, codes of every kind."""

from dataclasses import replace

import pytest
import torch
from cuda_stand_ins import CPU, LIMITS, TWIN, Launches, cuda, launches
from nn_cases import coded, normal

from sim import load_gpu
from tiles.formats import TensorFormat
from tiles.kernels import kernel
from tiles.kernels.triton import gemm_scaled
from tiles.problems import parse_problem
from workbench.nn import RECIPES, Codes, convert
from workbench.nn import cuda_products as products_module
from workbench.nn.choices import Choice, Choices

__all__ = ["launches"]


E4M3 = "gemm:64x64x64:e4m3-row:fp32"
EMULATED = (
    "mxfp6-e3m2",
    "mxfp6-e3m2-rceil",
    "mxfp6-e2m3",
    "mxfp4",
    "mxfp4-w-mxfp6-a",
    "int4-tensor",
)
PRODUCTS = [name for name in RECIPES if name[:3] != "jet" and name != "int8-fallback"]


@pytest.mark.parametrize("recipe", PRODUCTS)
def test_products_of_the_other_recipes(recipe: str, launches: Launches) -> None:
    grads = []
    for backend in (TWIN, cuda()):
        torch.manual_seed(0)
        layer = convert(torch.nn.Linear(256, 64), recipe, backend=backend).model
        x = normal(48, 256, dtype=torch.bfloat16).requires_grad_()
        y = layer(x)
        y.backward(normal(48, 64, seed=1, dtype=torch.bfloat16))
        grads.append([y.detach(), x.grad, layer.weight.grad, layer.bias.grad])
    for expected, found in zip(*grads, strict=True):
        if recipe == "int4-tensor":  # emulated, and codes under an fp32 scale are rounded to bf16
            assert float((found - expected).norm() / expected.norm()) < 2**-8
        else:
            torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-3)
    multiplied = [s for s in launches.seen if "gemm" in s or "hopper" in s]
    emulated = recipe in EMULATED
    assert bool(multiplied) == (recipe[:4] != "bf16" and not emulated)
    unserved = layer.runtime.backend(CPU).unserved
    assert any(what.startswith("gemm") for what in unserved) == emulated
    assert not any("transposed" in what for what in unserved)


@pytest.mark.parametrize("fmt", ["e4m3fn.mx", "e5m2.mx+rceil", "mxint8.mx+sr"])
def test_codes_under_e8m0_scales_come_from_the_kernel(fmt: str, launches: Launches) -> None:
    """A row of zeros, one of the least numbers, one with a NaN: scales of 2^-127 and NaN."""
    backend, out = cuda(), TensorFormat.parse(fmt)
    x = normal(48, 96)
    x[0], x[1], x[2, 5] = 0.0, 1e-38, float("nan")
    found, expected = (b.quantize(x, out, seed=7).main for b in (backend, TWIN))
    assert torch.equal(found.bits, expected.bits)
    assert found.scales is not None
    assert expected.scales is not None
    torch.testing.assert_close(found.scales, expected.scales, rtol=0, atol=0, equal_nan=True)
    assert found.scales.stride() == expected.scales.stride()
    values = backend.dequantize(Codes(main=found), torch.float32)
    torch.testing.assert_close(values, expected.dequantize(), rtol=0, atol=0, equal_nan=True)
    assert launches.seen == ["quantize", "dequantize"]
    assert backend.unserved == {}


@pytest.mark.parametrize("recipe", ["deepseek-fp8", "mxfp8-e4m3"])
def test_both_directions_of_blocks_along_a_row_take_one_pass(
    recipe: str, launches: Launches
) -> None:
    backend = cuda()
    layer = convert(torch.nn.Linear(256, 64), recipe, backend=backend).model
    layer(normal(48, 256).requires_grad_()).backward(normal(48, 64, seed=1))
    # Input, gradient, and weights under MX; DeepSeek's weights have square blocks.
    square = recipe == "deepseek-fp8"
    assert launches.seen.count("quantize both") == (2 if square else 3)
    assert launches.seen.count("quantize") == (1 if square else 0)
    assert backend.unserved == {}


def test_vectors_are_fp32_whatever_the_default_dtype(launches: Launches) -> None:
    x, gamma = coded(64, 96).codes, torch.ones(96)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = cuda().normalize("rmsnorm", x, gamma, None, epsilon=1e-5, out=x.format)
    finally:
        torch.set_default_dtype(before)
    assert found.variance.dtype is torch.float32


@pytest.mark.parametrize("shape", [(64, 64, 512), (128, 64, 2048), (512, 512, 1024)], ids=str)
@pytest.mark.parametrize("fmt", ["int8.b32x32", "int8.b64x64", "int8.b128x128", "e4m3fn.row"])
def test_what_is_predicted_fastest_can_be_launched(
    fmt: str, shape: tuple[int, int, int], launches: Launches
) -> None:
    """The launchers check all that they are given; without a GPU file nothing is predicted."""
    backend = cuda()
    backend.choices = Choices(LIMITS, gpu=load_gpu("h200"))
    m, n, k = shape
    a, b = (TWIN.quantize(normal(rows, k, seed=rows), TensorFormat.parse(fmt)) for rows in (m, n))
    expected = TWIN.product(a, b, dtype=torch.float32)
    for dtype in (torch.bfloat16, torch.float32):
        found = backend.product(a, b, dtype=dtype)
        torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=1e-3)
    assert len(launches.seen) == 2
    assert backend.unserved == {}
    made = [choice for choice in backend.choices._made.values() if isinstance(choice, Choice)]
    assert len(made) == 2
    if k == 2048:  # few tiles, long sums
        assert all(int(choice.config.to_dict()["split_k"]) > 1 for choice in made)


@pytest.mark.parametrize(
    "shared", [{"split_k": 4}, {"stream_k": True, "persistent": True}], ids=str
)
def test_a_tuned_configuration_whose_programs_share_k_is_launched(
    shared: dict[str, int], launches: Launches
) -> None:
    text = "gemm:128x64x2048:int8-row:fp32"
    problem, family = parse_problem(text), kernel("triton_gemm")
    config = replace(family.default(problem, LIMITS), **shared)
    backend = cuda()
    backend.choices = Choices(LIMITS, {text: Choice(family=family.name, config=config)})
    a, b = (TWIN.quantize(normal(rows, 2048), TensorFormat.parse("int8.row")) for rows in (128, 64))
    found = backend.product(a, b, dtype=torch.float32)
    torch.testing.assert_close(found, TWIN.product(a, b, dtype=torch.float32), rtol=1e-5, atol=1e-4)
    assert launches.seen == ["triton gemm"]


@pytest.mark.parametrize("older", [False, True])
def test_a_gpu_without_tensor_cores_for_8_bit_floats_decodes_them(
    older: bool, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(products_module, "must_decode", lambda recipe, device: older)
    monkeypatch.setattr(gemm_scaled, "launch", lambda *tensors, decode, **rest: told.append(decode))
    fmt = TensorFormat.parse("e4m3fn.row")
    a, b = (TWIN.quantize(normal(64, 64, seed=seed), fmt) for seed in range(2))
    backend = cuda()
    config = kernel("triton_gemm").default(parse_problem(E4M3), LIMITS)
    backend.choices = Choices(LIMITS, {E4M3: Choice(family="triton_gemm", config=config)})
    backend.product(a, b, dtype=torch.float32)
    assert told == [older]
