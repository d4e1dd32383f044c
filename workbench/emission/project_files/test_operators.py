"""Answers of batched products, dequantisation and transposition on small shapes.

They need a GPU, or ``TRITON_INTERPRET=1`` in the environment.
"""

import importlib
import warnings
from typing import Any

import pytest

_beside: Any = importlib.import_module("test_package")
_device, _layouts, _module = _beside._device, _beside._layouts, _beside._module
_operand, _spread = _beside._operand, _beside._spread


@pytest.mark.parametrize(("recipe", "second", "out", "layout"), _layouts("triton_batched_gemm"))
def test_batched_gemm_is_close_to_the_products_in_float64(
    recipe: str, second: str, out: str, layout: Any
) -> None:
    device = _device()
    torch = importlib.import_module("torch")
    package, dtype = _module(), _module("_torch_device").DTYPES[out]
    torch.manual_seed(0)
    batch, m, n, k = 2, 17, 33, 160
    sides: list[list[Any]] = []
    for rows, side in ((m, "a"), (n, "b")):
        element, block = layout[f"{side}_element"], layout[f"{side}_block"]
        made = [_operand(torch, rows, k, element, block, device) for _ in range(batch)]
        sides.append(
            [None if one[0] is None else torch.stack(one) for one in zip(*made, strict=True)]
        )
    (a, a_scale, a_value), (b, b_scale, b_value) = sides
    stored = b.mT.contiguous() if second == "kn" else b
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        c = package.batched_gemm(
            a, stored, a_scale, b_scale, recipe=recipe, second=second, out_dtype=dtype
        )
    expected = a_value @ b_value.mT
    assert (c.double() - expected).norm() <= 0.01 * expected.norm()


@pytest.mark.parametrize(("source", "out", "layout"), _layouts("triton_dequantize"))
def test_dequantize_gives_codes_times_scales(source: str, out: str, layout: Any) -> None:
    device = _device()
    if layout["element"] not in ("int8", "e4m3fn", "e5m2") or layout["stored"] != "fp32":
        pytest.skip("torch decodes neither these codes nor these scales")
    if device == "cpu" and layout["element"] != "int8":
        pytest.skip("Triton's interpreter does not decode 8-bit floats")
    torch = importlib.import_module("torch")
    package, dtype = _module(), _module("_torch_device").DTYPES[out]
    torch.manual_seed(0)
    codes, scales, _ = _operand(torch, 65, 160, layout["element"], layout["block"], device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        found = package.dequantize(codes, scales, source, out_dtype=dtype)
    expected = codes.double() * _spread(scales, layout["block"], *codes.shape)
    # Rounded to fp32 and from there to the output; Triton's interpreter cuts bf16 off.
    step = {"bf16": 2.0**-7, "fp16": 2.0**-10, "fp32": 2.0**-23}[out]
    assert ((found.double() - expected).abs() <= step * expected.abs() + 1e-6).all()


@pytest.mark.parametrize(("element", "layout"), _layouts("triton_transpose"))
def test_transpose_moves_every_code(element: str, layout: Any) -> None:
    device = _device()
    torch = importlib.import_module("torch")
    bits = torch.randint(0, 256, (65, 160), dtype=torch.uint8, device=device)
    codes = bits.view(_module("_torch_device").DTYPES[element])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        turned = _module().transpose(codes)
    assert torch.equal(turned.view(torch.uint8), bits.t())
