"""Linear layers on a CUDA device, without a GPU: launchers check their operands, then answer.

As ``tests/workbench/nn/test_nn_cuda_wiring.py``: each launch is replaced by the launcher's own
checks and the product of the operands that it was given.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ptq_cases import assert_close, normal
from torch import nn

from sim import load_gpu
from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels import gemm_workload
from tiles.kernels.cuda import gemm_hopper
from tiles.kernels.decoded_workload import stored_matrix
from tiles.kernels.triton import gemm_decoded, gemm_outliers, gemm_scaled, gemm_weight_only
from tiles.kernels.triton.decoded_arguments import arguments as decoded_arguments
from tiles.kernels.triton.outlier_arguments import arguments as outlier_arguments
from tiles.kernels.triton.weight_arguments import arguments as weight_arguments
from tiles.kernels.weight_only_workload import multiplied_weights, pack_quantized
from workbench.nn import cuda_products
from workbench.nn.cuda_backend import CudaBackend
from workbench.ptq import load, quantize
from workbench.ptq.decoded_route import DecodedRoute
from workbench.ptq.layers import moved
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.routes import OutlierRoute, WeightOnlyRoute

LIMITS = load_gpu("h200").limits
DECODED = ("fp8-ptq-e3m4", "fp8-ptq-mixed", "mxfp6-e2m3", "mxfp4", "mxint8", "nvfp4", "posit8")


def cuda() -> CudaBackend:
    return CudaBackend(torch.device("cpu"), limits=LIMITS)


def view(tensor: torch.Tensor) -> Any:
    """What the launcher's checks look at in a CuPy array."""
    pattern = tensor.dtype not in (torch.int8, torch.float32)
    dtype = np.dtype("uint8") if pattern else np.dtype(str(tensor.dtype).removeprefix("torch."))
    return SimpleNamespace(
        shape=tuple(tensor.shape),
        ndim=tensor.ndim,
        dtype=dtype,
        strides=tuple(s * tensor.element_size() for s in tensor.stride()),
        flags=SimpleNamespace(c_contiguous=tensor.is_contiguous()),
        data=SimpleNamespace(ptr=tensor.data_ptr()),
        device=0,
    )


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []

    def scaled(a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, **given: Any) -> None:
        gemm_scaled.arguments(a, b, c, a_scale, b_scale, **given)
        seen.append("triton_gemm")
        c.copy_((a.double() * a_scale.double()) @ (b.double() * b_scale.double()).t())

    def hopper(*operands: Any, config: Any, stream: Any, **formats: Any) -> None:
        gemm_hopper.check_operands(*map(view, operands), **formats)
        seen.append("hopper_gemm")
        a, b, c, a_scale, b_scale = operands
        c.copy_((a.double() * a_scale.double()) @ (b.double() * b_scale.double()).t())

    monkeypatch.setattr(gemm_scaled, "launch", scaled)
    monkeypatch.setattr(gemm_hopper, "launch", hopper)
    monkeypatch.setattr(cuda_products, "cupy_view", lambda tensor: tensor)
    monkeypatch.setattr(CudaBackend, "_stream", lambda self: None)
    monkeypatch.setattr(cuda_products, "multiprocessors", lambda device: 132)
    return seen


@pytest.mark.parametrize("recipe", ["fp8-ptq-e4m3", "fp8-bert", "int8-tensor"])
@pytest.mark.parametrize("features", [64, 50], ids=["whole", "padded"])
def test_static_codes_reach_the_kernel_with_their_scales(
    recipe: str, features: int, launched: list[str]
) -> None:
    linear, x = nn.Linear(features, 48), normal(2, 9, features)
    plain = quantize(linear, recipe, calibration=[x * 0.7])
    backed = quantize(linear, recipe, calibration=[x * 0.7], backend=cuda())
    with torch.no_grad():
        assert_close(backed.model(x), plain.model(x), rtol=1e-5, atol=1e-5)
    # A scale a tensor on one side and one a row on the other is no mode of hopper_gemm.
    mixed = recipe == "fp8-ptq-e4m3"
    assert set(launched) == {"triton_gemm" if mixed else "hopper_gemm"}
    assert set(backed.ran.values()) == {"cuda backend"}
    assert backed.model._values is None  # no weight of full size beside the codes


def test_formats_without_a_kernel_run_on_values_and_say_why(launched: list[str]) -> None:
    linear, x = nn.Linear(64, 48), normal(9, 64)
    linear.weight.requires_grad_(False)
    backed = quantize(linear, "int8-tensor", calibration=[x], backend=cuda())
    launched.clear()
    layer = backed.model
    assert isinstance(layer, QuantizedLinear)
    # FP8 weights under INT8 activations: codes of both, and no kernel that multiplies them.
    layer.take(quantize_tensor(linear.weight, TensorFormat.parse("e4m3fn.row")))
    with torch.no_grad():
        y = layer(x)
    assert not launched
    assert layer.values is not None
    rounded = layer.operator.operands["input"].rounded(x)
    assert_close(y, nn.functional.linear(rounded, layer.values, linear.bias.data))
    reason = backed.ran["int8.tensor x e4m3fn.row on cpu"]
    assert reason.startswith("reference (values of codes")
    assert "two of one element" in reason


def test_outlier_columns_reach_their_kernel_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    linear, x = nn.Linear(128, 64), normal(2, 9, 128)
    x[..., [3, 77]] *= 40
    made = quantize(linear, "llm-int8", calibration=[x])
    with torch.no_grad():
        expected = made.model(x)
    assert set(made.ran.values()) == {
        "reference (values of codes, multiplied in the model's dtype): no kernels on cpu"
    }
    counts: list[int] = []

    def launch(*operands: Any, a_block: Any, b_block: Any, config: Any) -> None:
        outlier_arguments(*operands, a_block=a_block, b_block=b_block, config=config)
        a, b, c, a_scale, b_scale, outliers = operands
        counts.append(int(outliers.count))
        low = (a.double() * a_scale.double()) @ (b.double() * b_scale.double()).t()
        c.copy_(low + outliers.a.double() @ outliers.b.double().t())

    monkeypatch.setattr(gemm_outliers, "launch", launch)
    monkeypatch.setitem(made.path._outliers, x.device, OutlierRoute(LIMITS))
    with torch.no_grad():
        assert_close(made.model(x), expected, atol=1e-2)  # outlier inputs rounded to fp16 once
    assert counts == [2]
    assert made.ran == {"int8.row x int8.row, outliers on cpu": "triton_outlier_gemm"}


@pytest.mark.parametrize(("recipe", "rows"), [("w4a16-g128", 3), ("w4a16-g128", 200), ("w8a16", 3)])
def test_weights_alone_reach_their_kernel_packed(
    recipe: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, x = nn.Linear(256, 64), normal(rows, 256)
    made = quantize(linear, recipe)
    layer = made.model
    assert isinstance(layer, QuantizedLinear)
    assert layer.codes is not None
    expected_weight = pack_quantized(layer.codes)
    seen: list[torch.dtype] = []

    def launch(x: Any, weight: Any, c: Any, *, config: Any, workspace: Any) -> None:
        weight_arguments(x, weight, c, config=config, workspace=workspace)
        for one, other in zip(weight.tensors, expected_weight.tensors, strict=True):
            assert torch.equal(one, other)
        seen.append(x.dtype)
        values = multiplied_weights(layer.codes, x.dtype, fold=config["fold"])
        c.copy_(x.double() @ values.t())

    monkeypatch.setattr(gemm_weight_only, "launch", launch)
    route = WeightOnlyRoute(LIMITS)
    monkeypatch.setattr(layer.path, "_of", lambda *given: route)
    with torch.no_grad():
        y = layer(x)
        again = layer(x)
    expected = quantize(linear, recipe).model(x).detach()
    assert_close(y, expected, rtol=1e-2, atol=2e-2)  # scales are folded in bf16
    assert torch.equal(y, again)
    assert seen == [torch.bfloat16] * 2
    assert list(made.ran.values()) == ["triton_weight_only"]
    assert list(layer.held) == ["triton_weight_only"]  # packed once


@pytest.mark.parametrize("rows", [3, 300], ids=["in the loop", "staged"])
@pytest.mark.parametrize("recipe", DECODED)
def test_codes_that_no_tensor_core_takes_reach_their_kernel_packed(
    recipe: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear, x = nn.Linear(256, 64), normal(rows, 256)
    made = quantize(linear, recipe, calibration=[x])
    layer = made.model
    assert isinstance(layer, QuantizedLinear)
    with torch.no_grad():
        expected = layer(x)
    seen: list[tuple[int, int]] = []

    def launch(a: Any, b: Any, c: Any, *, config: Any, workspace: Any, num_sms: int) -> None:
        assert config["staged"] == (rows > 256)
        decoded_arguments(a, b, c, config, workspace, num_sms)
        assert layer.codes is not None
        assert torch.equal(b.codes, stored_matrix(layer.codes).codes)
        seen.append((int(a.codes.shape[1]), a.columns))
        operand = layer.operator.operands["input"]
        assert torch.equal(a.codes, stored_matrix(operand.codes(x)).codes)
        c.copy_(operand.rounded(x).double() @ layer.values.double().t())

    monkeypatch.setattr(gemm_decoded, "launch", launch)
    monkeypatch.setattr(gemm_workload, "multiprocessors", lambda device: 132)
    route = DecodedRoute(LIMITS)
    monkeypatch.setattr(layer.path, "_of", lambda *given: route)
    with torch.no_grad():
        y = layer(x)
    assert_close(y, expected, rtol=1e-5, atol=1e-5)
    bits = layer.operator.operands["input"].format.element.bits
    assert seen == [(256 * bits // 8, 256)]  # packed
    assert list(made.ran.values()) == ["triton_decoded_gemm"]
    assert list(layer.held) == ["triton_decoded_gemm"]


@pytest.mark.slow
def test_decoded_layers_compute_what_their_codes_stand_for() -> None:
    script = Path(__file__).with_name("interpreted_decoded.py")
    done = subprocess.run(
        [sys.executable, str(script), *DECODED],
        env={**os.environ, "PYTHONPATH": str(script.parents[3]), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == dict.fromkeys(DECODED, "")


def test_a_direct_cast_reaches_the_kernel_under_scales_of_one(launched: list[str]) -> None:
    linear, x = nn.Linear(64, 48), normal(2, 9, 64)
    plain = quantize(linear, "fp8-ptq-e5m2", calibration=[x])
    backed = quantize(linear, "fp8-ptq-e5m2", calibration=[x], backend=cuda())
    with torch.no_grad():
        assert_close(backed.model(x), plain.model(x), rtol=1e-5, atol=1e-5)
    assert set(launched) == {"hopper_gemm"}
    assert set(backed.ran.values()) == {"cuda backend"}


@pytest.mark.parametrize("fmt", ["e4m3fn.mx", "e4m3fn.b1x128", "int4.g128", "uint4.g128", "nvfp4"])
def test_codes_that_move_keep_the_layout_that_kernels_read(fmt: str) -> None:
    codes = quantize_tensor(normal(41, 256), TensorFormat.parse(fmt))
    there = moved(codes, torch.device("meta"))
    assert codes.scales is not None
    assert there.scales is not None
    assert codes.scales.stride() == (1, 44)  # columns begin at multiples of four
    assert there.scales.stride() == codes.scales.stride()
    assert there.scales.dtype == codes.scales.dtype
    assert there.codes.is_meta
    assert there.scales.is_meta


@pytest.mark.parametrize("recipe", ["fp8-ptq-e4m3", "fp8-bert", "int8-ptq"])
def test_a_file_s_codes_reach_the_kernel(recipe: str, launched: list[str], tmp_path: Path) -> None:
    """Of rows and columns that fill no tile: launchers check the operands that were read."""
    linear, x = nn.Linear(256, 41), normal(7, 256)
    made = quantize(linear, recipe, calibration=[x])
    path = made.save(tmp_path / "a.safetensors")
    read = load(nn.Linear(256, 41), path, recipe, backend=cuda())
    launched.clear()
    with torch.no_grad():
        assert_close(read.model(x), made.model(x), rtol=1e-5, atol=1e-5)
    assert launched == ["triton_gemm"]
    assert set(read.ran.values()) == {"cuda backend"}
