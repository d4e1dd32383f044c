"""Answers of batched and grouped products, dequantisation, transposition and dataflow operators.

They need a GPU, or ``TRITON_INTERPRET=1`` in the environment; dataflow operators need a GPU.
"""

import importlib
import warnings
from typing import Any

import pytest

_beside: Any = importlib.import_module("test_package")
_device, _layouts, _module = _beside._device, _beside._layouts, _beside._module
_operand, _spread, _half_ulp = _beside._operand, _beside._spread, _beside.HALF_ULP


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


#: Where rows of two experts lie: 5 and 12 of them, gathered 8 and 12 entries of 10 tokens.
ROUTED: dict[str, dict[str, Any]] = {
    "contiguous": {"rows": (17,), "offsets": [0, 5, 17], "counts": None},
    "padded": {"rows": (32,), "offsets": [0, 16, 32], "counts": [5, 12]},
    "masked": {"rows": (2, 16), "offsets": None, "counts": [5, 12]},
    "gathered": {"rows": (10,), "offsets": [0, 8, 20], "counts": None},
}


@pytest.mark.parametrize(("recipe", "order", "out", "layout"), _layouts("triton_grouped_gemm"))
def test_grouped_gemm_multiplies_rows_by_their_experts_weights(
    recipe: str, order: str, out: str, layout: Any
) -> None:
    device = _device()
    torch = importlib.import_module("torch")
    package, dtype = _module(), _module("_torch_device").DTYPES[out]
    torch.manual_seed(0)
    n, k, routed = 33, 160, ROUTED[order]
    shape = routed["rows"]
    made = [
        _operand(torch, shape[-1], k, layout["a_element"], layout["a_block"], device)
        for _ in range(2 if order == "masked" else 1)
    ]
    if order == "masked":
        made = [[None if p[0] is None else torch.stack(p) for p in zip(*made, strict=True)]]
    a, a_scale, a_value = made[0]
    sides = [_operand(torch, n, k, layout["b_element"], layout["b_block"], device) for _ in "12"]
    experts: list[Any] = [
        None if p[0] is None else torch.stack(p) for p in zip(*sides, strict=True)
    ]
    b, b_scale, b_value = experts
    ids = torch.randperm(20, device=device) if order == "gathered" else None
    offsets, counts = (
        None if at is None else torch.tensor(at, dtype=kind, device=device)
        for at, kind in ((routed["offsets"], torch.int64), (routed["counts"], torch.int32))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        c = package.grouped_gemm(
            a, b, a_scale, b_scale, recipe=recipe, offsets=offsets, counts=counts, ids=ids,
            top_k=2 if ids is not None else 1, out_dtype=dtype,
        )  # fmt: skip
    for expert in range(2):
        read: Any
        written: Any
        if order == "masked":
            read = written = (expert, slice(0, routed["counts"][expert]))
        else:
            first = routed["offsets"][expert]
            last = routed["offsets"][expert + 1]
            if order == "padded":
                last = first + routed["counts"][expert]
            read = written = slice(first, last)
            if order == "gathered":
                assert ids is not None
                written = ids[first:last]
                read = written // 2
        expected = a_value[read] @ b_value[expert].T
        assert (c[written].double() - expected).norm() <= 0.01 * expected.norm()


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
    # Half a last place of the output and fp32's own; Triton's interpreter cuts bf16 off.
    step = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-24}[out] + 2.0**-24
    step *= 2 if device == "cpu" else 1
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


def _exact(torch: Any, op: str, x: Any, other: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """An operator in float64, and the gradient of it by autograd."""
    functional, kind = torch.nn.functional, op.partition("-")[0]
    if kind == "residual":
        return x + other, {}
    x, gamma, beta = (t.clone().requires_grad_() for t in (x, gamma, beta))
    if kind == "layernorm":
        y = functional.layer_norm(x, x.shape[1:], gamma, beta, epsilon)
    elif kind == "rmsnorm":
        y = functional.rms_norm(x, x.shape[1:], gamma, epsilon)
    else:
        y = getattr(functional, kind)(x)
    if not op.endswith("-bwd"):
        return y.detach(), {}
    y.backward(other)
    sums = {"d_gamma": gamma.grad, "d_beta": beta.grad}
    return x.grad, {name: value for name, value in sums.items() if value is not None}


@pytest.mark.parametrize(
    ("op", "format", "layout"), _layouts("cuda_dataflow_blocks") + _layouts("cuda_dataflow_rows")
)
def test_dataflow_operators_are_those_of_float64(op: str, format: str, layout: Any) -> None:
    device = _device()
    if device == "cpu":
        pytest.skip("needs a GPU: no interpreter runs CUDA C++")
    if op == "dropout":
        pytest.skip("its random bits are the package's own")
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    rows, cols, element, block = 65, 160, layout["element"], layout["block"]
    x, x_scales, x_value = _operand(torch, rows, cols, element, block, device)
    y, y_scales, y_value = _operand(torch, rows, cols, element, block, device)
    gamma, beta = (torch.randn(cols, device=device) for _ in "12")
    given: dict[str, Any] = {}
    if op == "residual" or op.endswith("-bwd"):
        given |= {"other": y, "other_scales": y_scales}
    if op.partition("-")[0] in ("layernorm", "rmsnorm"):
        given["gamma"] = gamma
        if "-" in op:
            given["mean"] = x_value.mean(dim=1).float()
            given["variance"] = x_value.var(dim=1, correction=0).float()
        if op in ("layernorm", "layernorm-apply"):
            given["beta"] = beta
    if layout["stochastic"]:
        given["seed"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the shape was never tuned
        found = _module().dataflow(op, x, x_scales, format=format, epsilon=1e-5, **given)
    wide = (x_value, y_value, gamma.double(), beta.double())
    exact, sums = _exact(torch, op, *wide, 1e-5)
    scale = _spread(found.scales, block, rows, cols)
    relative, absolute = (part * (1 + layout["stochastic"]) for part in _half_ulp[element])
    # Beside a rounding of the codes the kernel's own arithmetic, in fp32.
    limit = relative * exact.abs() + absolute * scale + 1e-4 * exact.abs().amax()
    assert ((found.codes.double() * scale - exact).abs() <= limit).all()
    for name, value in sums.items():
        if (vector := getattr(found, name)) is not None:
            assert (vector.double() - value).norm() <= 1e-4 * value.norm(), name
