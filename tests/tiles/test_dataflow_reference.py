"""The dataflow reference against torch's autograd, GELU's polynomial, what the check refuses."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tiles.formats import TensorFormat
from tiles.formats.rounding import philox
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.cuda import dataflow_blocks, philox_keys
from tiles.kernels.dataflow_check import compare, compare_vector
from tiles.kernels.dataflow_operands import drop_mask
from tiles.kernels.dataflow_reference import (
    GATE_ERROR,
    TAIL,
    Inputs,
    Outcome,
    dropped,
    outcome,
    statistics,
)

RNG = np.random.default_rng(0)
X, DY = RNG.standard_normal((2, 12, 40)) * 3
GAMMA, BETA = RNG.standard_normal((2, 40))


def test_gelu_s_polynomial_keeps_its_bound_and_rises_beyond_the_fit() -> None:
    source = Path(dataflow_blocks.__file__).with_suffix(".cu").read_text()
    found = re.findall(r"f\.a[0-3] = (-?[0-9.e-]+)f \* s", source.replace("square * ", ""))
    a = [-float(text) for text in found[:4]]
    assert len(a) == 4
    x = np.concatenate([np.arange(0, 5, 1e-4), [5.0]])
    gate = 1 / (1 + np.exp2(-x * (a[0] + x**2 * (a[1] + x**2 * (a[2] + x**2 * a[3])))))
    exact = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    beyond = np.arange(5, 60, 1e-2)
    slope = a[0] + 3 * a[1] * beyond**2 + 5 * a[2] * beyond**4 + 7 * a[3] * beyond**6
    # Between two points of the grid the error moves by less than 1e-4 x 3 of the bound.
    assert (np.abs(gate - exact) <= (GATE_ERROR - 1e-5) * (1 - exact)).all()
    assert (slope > 0).all()
    assert 1 - exact[-1] < TAIL
    assert 1 - gate[-1] < TAIL


@pytest.mark.parametrize(
    ("op", "forward"),
    [
        ("gelu", torch.nn.functional.gelu),
        ("silu", torch.nn.functional.silu),
        ("relu", torch.nn.functional.relu),
    ],
)
def test_activations_are_torch_s_own(op: str, forward) -> None:  # type: ignore[no-untyped-def]
    x = torch.from_numpy(X).requires_grad_()
    y = forward(x)
    y.backward(torch.from_numpy(DY))
    np.testing.assert_allclose(outcome(op, Inputs(x=X)).values, y.detach(), atol=1e-13)
    back = outcome(f"{op}-bwd", Inputs(x=X, other=DY)).values
    np.testing.assert_allclose(back, x.grad, atol=1e-13)


@pytest.mark.parametrize("op", ["layernorm", "rmsnorm"])
def test_normalisations_are_torch_s_own(op: str) -> None:
    x = torch.from_numpy(X).requires_grad_()
    gamma, beta = (torch.from_numpy(v).requires_grad_() for v in (GAMMA, BETA))
    centred = op == "layernorm"
    y = (
        torch.nn.functional.layer_norm(x, (40,), gamma, beta, 1e-3)
        if centred
        else torch.nn.functional.rms_norm(x, (40,), gamma, 1e-3)
    )
    y.backward(torch.from_numpy(DY))
    forward = outcome(op, Inputs(x=X, gamma=GAMMA, beta=BETA, epsilon=1e-3))
    np.testing.assert_allclose(forward.values, y.detach(), atol=1e-12)
    moments = {name: value for name, (value, _) in statistics(X).items()}
    known = Inputs(x=X, other=DY, gamma=GAMMA, beta=BETA, epsilon=1e-3, **moments)
    np.testing.assert_allclose(outcome(f"{op}-apply", known).values, forward.values, atol=1e-12)
    back = outcome(f"{op}-bwd", known)
    np.testing.assert_allclose(back.values, x.grad, atol=1e-12)
    np.testing.assert_allclose(back.vectors["d_gamma"][0], gamma.grad, atol=1e-12)
    if centred:
        np.testing.assert_allclose(back.vectors["d_beta"][0], beta.grad, atol=1e-12)


def test_numpy_and_torch_carry_the_same_reference() -> None:
    moments = {name: value for name, (value, _) in statistics(X).items()}
    arrays = {"x": X, "other": DY, "gamma": GAMMA, "beta": BETA, **moments}
    tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
    for op in ("gelu", "gelu-bwd", "silu-bwd", "residual", "layernorm", "rmsnorm-bwd"):
        one, other = outcome(op, Inputs(**arrays)), outcome(op, Inputs(**tensors))
        np.testing.assert_allclose(one.values, other.values, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(one.error, other.error, rtol=1e-9)


def test_dropout_drops_its_share_by_halves_of_philox_words() -> None:
    mask = dropped(100, 333, 6554, 7)
    assert 0.095 < mask.mean() < 0.105
    words = philox(np.array([1], np.uint64), 7)[0]  # of elements 8 to 15
    assert mask.reshape(-1)[11] == (words[1] >> 16 < 6554)
    other = drop_mask(100, 333, 6554, 7, torch.device("cpu"))
    np.testing.assert_array_equal(mask, other.numpy())


def test_round_keys_are_those_of_the_reference() -> None:
    keys = philox_keys.round_keys(2**63 + 5)
    assert (keys[0], keys[1]) == (5, 2**31)
    assert keys[18] == (5 + 9 * 0x9E3779B9) % 2**32
    with pytest.raises(ValueError, match="64-bit unsigned"):
        philox_keys.round_keys(-1)


def test_output_scale_s_division_is_correctly_rounded() -> None:
    """All mantissas of amax: one Newton step from amax x (1 / max) is the quotient (Markstein)."""
    bits = np.arange(2**23, dtype=np.uint32) | np.uint32(0x3F800000)
    amax = bits.view(np.float32)
    for top in (127.0, 448.0):
        reciprocal = np.float32(1) / np.float32(top)
        quotient = (amax * reciprocal).astype(np.float64)
        rest = (amax - top * quotient).astype(np.float32)  # exact in float64, and in the fma
        scale = (rest.astype(np.longdouble) * reciprocal + quotient).astype(np.float32)
        np.testing.assert_array_equal(scale, amax / np.float32(top))


def written(fmt: TensorFormat) -> tuple[torch.Tensor, torch.Tensor, Outcome]:
    x = torch.from_numpy(RNG.standard_normal((64, 96))).float()
    found = quantize_tensor(x, fmt, seed=3)
    assert found.scales is not None
    return found.codes, found.scales, Outcome(values=x.double(), error=torch.zeros_like(x).double())


@pytest.mark.parametrize("name", ["int8.b32x32+sr", "int8.b32x32", "e4m3fn.b1x128+sr"])
def test_the_check_takes_the_codec_s_answer_and_refuses_the_slightest_change(name: str) -> None:
    fmt = TensorFormat.parse(name)
    codes, scales, reference = written(fmt)
    assert compare(codes, scales, reference, fmt, 3).ok
    if name.endswith("+sr"):
        assert not compare(codes, scales, reference, fmt, 4).ok
    spoilt = codes.clone()
    spoilt.view(torch.uint8)[40, 50] ^= 1
    verdict = compare(spoilt, scales, reference, fmt, 3)
    assert not verdict.ok
    assert "row 0 + 40, column 50" in verdict.reason
    scaled = scales.clone()
    scaled[1, 0] *= 1 + 1e-5
    assert "scale of the block" in compare(codes, scaled, reference, fmt, 3).reason
    poisoned = Outcome(values=reference.values.clone(), error=reference.error)
    poisoned.values[0, 0] = torch.nan
    assert not compare(codes, scales, poisoned, fmt, 3).ok


def test_a_vector_outside_its_error_is_refused() -> None:
    value = np.arange(4.0)
    assert compare_vector("mean", torch.arange(4.0), value, value * 0) == ""
    assert "mean[2]" in compare_vector("mean", torch.tensor([0, 1, 2.1, 3]), value, value * 0)
    assert "mean[0]" in compare_vector("mean", torch.full((4,), torch.nan), value, value + 9)
