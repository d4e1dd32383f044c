"""The torch twin against NumPy: codes and scales of every operator, bit for bit."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from nn_cases import coded, normal

from tiles.formats import TensorFormat, dequantize, quantize
from tiles.formats.codec import Quantized
from tiles.kernels.dataflow_reference import Inputs, dropped, outcome
from workbench.nn import CodedTensor, Codes, ReferenceBackend
from workbench.nn.seeds import derived

SHAPES = [(64, 96), (33, 80), (1, 16)]
FORMATS = ["int8.b32x32", "int8.b32x32+sr", "int8.b64x64+sr", "int8.b128x128"]
SEED = 0x0123456789ABCDEF
TWIN = ReferenceBackend()


def exact(x: Codes | CodedTensor) -> np.ndarray:
    codes = x.codes if isinstance(x, CodedTensor) else x
    return codes.dequantize(torch.float64).numpy()


def wanted(values: np.ndarray, fmt: TensorFormat, seed: int = SEED) -> Quantized:
    return quantize(values.astype(np.float32), fmt, seed=seed)


def assert_same(codes: Codes, reference: Quantized) -> None:
    assert codes.main.scales is not None
    np.testing.assert_array_equal(codes.main.codes.numpy(), reference.codes.view(np.int8))
    np.testing.assert_array_equal(codes.main.scales.numpy(), reference.scales)


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_quantises_as_numpy_does(shape: tuple[int, int], fmt: str) -> None:
    x = normal(*shape, seed=1, dtype=torch.bfloat16)
    found = TWIN.quantize(x, TensorFormat.parse(fmt), seed=SEED)
    assert_same(found, wanted(x.float().numpy(), TensorFormat.parse(fmt)))
    reference = wanted(x.float().numpy(), TensorFormat.parse(fmt))
    np.testing.assert_array_equal(exact(found), dequantize(reference))


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", ["gelu", "silu", "relu"])
def test_activations_in_both_directions(op: str, shape: tuple[int, int], fmt: str) -> None:
    out, plain = TensorFormat.parse(fmt), fmt.removesuffix("+sr")
    x, dy = coded(*shape, seed=2, fmt=plain), coded(*shape, seed=3, fmt=plain)
    forward = outcome(op, Inputs(x=exact(x))).values
    assert_same(TWIN.elementwise(op, x.codes, out=out, seed=SEED), wanted(forward, out))
    back = outcome(f"{op}-bwd", Inputs(x=exact(x), other=exact(dy))).values
    found = TWIN.elementwise(f"{op}-bwd", x.codes, dy=dy.codes, out=out, seed=SEED)
    assert_same(found, wanted(back, out))


@pytest.mark.parametrize("op", ["silu", "gelu"])
def test_gates_in_both_directions(op: str) -> None:
    out = TensorFormat.parse("int8.b32x32+sr")
    gate, up, dy = (coded(64, 96, seed=s) for s in (4, 5, 6))
    plain = TensorFormat.parse("int8.b32x32")
    opened = outcome(op, Inputs(x=exact(gate))).values
    found = TWIN.gate(op, gate.codes, up.codes, out=plain, share=0.0)
    assert_same(found, wanted(opened * exact(up), plain))
    d_gate, d_up = TWIN.gate_backward(op, gate.codes, up.codes, dy.codes, out=out, seed=SEED)
    through = outcome(f"{op}-bwd", Inputs(x=exact(gate), other=exact(dy) * exact(up))).values
    assert_same(d_gate, wanted(through, out))
    assert_same(d_up, wanted(exact(dy) * opened, out, derived(SEED, 0)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dropout(shape: tuple[int, int]) -> None:
    out = TensorFormat.parse("int8.b32x32+sr")
    x = coded(*shape, seed=7)
    below = round(0.3 * 65536)
    kept = ~dropped(*shape, below, 99)
    values = exact(x) * kept * (65536 / (65536 - below))
    found = TWIN.dropout(x.codes, out=out, probability=0.3, mask_seed=99, seed=SEED)
    assert_same(found, wanted(values, out))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", ["layernorm", "rmsnorm"])
def test_norms_in_both_directions(op: str, shape: tuple[int, int]) -> None:
    plain, out = TensorFormat.parse("int8.b32x32"), TensorFormat.parse("int8.b32x32+sr")
    x, dy = coded(*shape, seed=8), coded(*shape, seed=9)
    gamma, beta = normal(shape[1], seed=10), normal(shape[1], seed=11)
    given: dict[str, Any] = {"gamma": gamma.double().numpy(), "epsilon": 1e-5}
    centred = {"beta": beta.double().numpy()} if op == "layernorm" else {}
    forward = outcome(op, Inputs(x=exact(x), **given, **centred))
    shift = beta if op == "layernorm" else None
    found = TWIN.normalize(op, x.codes, gamma, shift, epsilon=1e-5, out=plain)
    assert_same(found.y, wanted(forward.values, plain))
    for name in ("mean", "variance"):
        exactly = forward.vectors[name][0].astype(np.float32)
        np.testing.assert_allclose(getattr(found, name).numpy(), exactly, rtol=2e-7, atol=1e-12)
    moments = {n: getattr(found, n).double().numpy() for n in ("mean", "variance")}
    back = outcome(f"{op}-bwd", Inputs(x=exact(x), other=exact(dy), **moments, **given))
    grads = TWIN.normalize_backward(
        op, x.codes, dy.codes, found.mean, found.variance, gamma, epsilon=1e-5, out=out, seed=SEED
    )
    assert_same(grads.dx, wanted(back.values, out))
    for name, (value, _) in back.vectors.items():
        np.testing.assert_allclose(getattr(grads, name).numpy(), value, rtol=2e-7, atol=1e-6)
    assert (grads.d_beta is None) == (op == "rmsnorm")


@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
def test_products(turned: tuple[bool, bool]) -> None:
    a, b = coded(48, 80, seed=12), coded(112, 80, seed=13)
    bias = normal(112, seed=14)
    product = exact(a) @ exact(b).T + 0.0
    stored = []
    for x, turn in zip((a, b), turned, strict=True):
        main = x.codes.main
        assert main.scales is not None
        t = type(main)(codes=main.codes.t(), scales=main.scales.t(), format=main.format)
        stored.append(Codes(main=t) if turn else x.codes)
    found = TWIN.product(
        *stored, dtype=torch.float32, bias=bias, turn_a=turned[0], turn_b=turned[1]
    )
    summed = product.astype(np.float32) + bias.numpy()
    np.testing.assert_array_equal(found.numpy(), summed)
    out = TensorFormat.parse("int8.b32x32+sr")
    if not turned[0]:
        quantized = TWIN.coded_product(*stored, out=out, bias=bias, turn_b=turned[1], seed=SEED)
        assert_same(quantized, wanted(summed, out))


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_that_of_torch(causal: bool) -> None:
    q, k, v, dy = (normal(2, 3, 24, 16, seed=s, dtype=torch.bfloat16) for s in (15, 16, 17, 18))
    for x in (q, k, v):
        x.requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    reference = torch.nn.functional.scaled_dot_product_attention(*wide, is_causal=causal)
    reference.backward(dy.double())
    with torch.no_grad():
        found = TWIN.attend(q, k, v, causal=causal)
        grads = TWIN.attend_backward(dy, q, k, v, found, causal=causal)
    # Rounded to bf16 once: half a unit of 2^-8, beside fp32 sums of 24 terms.
    torch.testing.assert_close(found.out.double(), reference, rtol=2**-8, atol=1e-5)
    scores = (wide[0] @ wide[1].transpose(-1, -2)).detach() / 4
    if causal:
        later = torch.ones(24, 24, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    torch.testing.assert_close(found.log_sum.double(), scores.logsumexp(-1), rtol=1e-6, atol=1e-6)
    for grad, x in zip(grads, wide, strict=True):
        assert grad.dtype is torch.bfloat16
        # The output enters the gradient in bf16: 2^-9 of it times the gradient, over 16 columns.
        assert x.grad is not None
        torch.testing.assert_close(grad.double(), x.grad, rtol=2**-7, atol=0.06)


def test_attention_is_the_same_under_autocast() -> None:
    q, k, v = (normal(1, 2, 32, 16, seed=seed).bfloat16() * 3 for seed in range(3))
    expected = TWIN.attend(q, k, v, causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = TWIN.attend(q, k, v, causal=True)
    assert found.log_sum.dtype is torch.float32
    assert torch.equal(found.log_sum, expected.log_sum)
    assert torch.equal(found.out, expected.out)
