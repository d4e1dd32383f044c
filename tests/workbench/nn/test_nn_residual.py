"""The residual stream and the norm behind it, against float64 autograd on the codes of the sum."""

import pytest
import torch
from nn_cases import assert_rounded, coded, normal, numbers, runtime
from torch import nn
from torch.nn import functional

from workbench.nn import CodedTensor, QuantizedNorm, normed_stream


@pytest.mark.parametrize("op", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("coded_gradient", [False, True], ids=["numbers", "codes"])
@pytest.mark.parametrize("joined", [False, True], ids=["fork", "sum"])
def test_the_stream_and_the_norm_behind_it(op: str, coded_gradient: bool, joined: bool) -> None:
    run = runtime()
    norm = QuantizedNorm(op, 96, *vectors(op), 1e-5, run)
    stream = normal(2, 32, 96, seed=18, dtype=torch.bfloat16).requires_grad_()
    branch = normal(2, 32, 96, seed=19, dtype=torch.bfloat16).requires_grad_() if joined else None
    seen: list[torch.Tensor] = []
    if branch is not None:
        branch.register_hook(seen.append)
    total, y = normed_stream(stream, norm, run, branch=branch, feeds_product=True)
    assert torch.equal(total, stream if branch is None else stream + branch)
    assert isinstance(y, CodedTensor)
    # The exact norm of the codes of the sum.
    codes = run.codes(total.detach())
    leaf = codes.dequantize(torch.float64).requires_grad_()
    gamma, beta = (None if v is None else v.detach().double() for v in (norm.weight, norm.bias))
    if op == "layernorm":
        exact = functional.layer_norm(leaf, (96,), gamma, beta, 1e-5)
    else:
        exact = functional.rms_norm(leaf, (96,), gamma, 1e-5)
    assert_rounded(y, exact.view(2, 32, 96), 0.5)
    d_total = normal(2, 32, 96, seed=20, dtype=torch.bfloat16)
    d_y = coded(2, 32, 96, seed=21) if coded_gradient else normal(2, 32, 96, seed=21).bfloat16()
    wide_y = numbers(d_y) if isinstance(d_y, CodedTensor) else d_y
    exact.backward(wide_y.double().view(64, 96))
    torch.autograd.backward([total, y], [d_total, d_y])
    assert leaf.grad is not None
    assert stream.grad is not None
    wanted = d_total.double() + leaf.grad.view(2, 32, 96)
    if coded_gradient:  # the norm's gradient was rounded to codes before
        scale = leaf.grad.abs().max() / 127
        assert float((stream.grad - wanted).abs().max()) < 1.1 * scale + 2**-8 * wanted.abs().max()
    else:
        torch.testing.assert_close(stream.grad.double(), wanted, rtol=2**-8, atol=1e-5)
    if branch is not None:
        assert_rounded(seen[0], stream.grad.double(), 1.0)
    exact_norm = leaf.detach() - leaf.detach().mean(1, keepdim=True) * (op == "layernorm")
    exact_norm *= (exact_norm.square().mean(1, keepdim=True) + 1e-5).rsqrt()
    assert norm.weight is not None
    assert norm.weight.grad is not None
    d_gamma = (exact_norm * wide_y.double().view(64, 96)).sum(0)
    torch.testing.assert_close(norm.weight.grad.double(), d_gamma, rtol=1e-5, atol=1e-4)
    if norm.bias is not None:
        assert norm.bias.grad is not None
        sums = wide_y.double().sum((0, 1))
        torch.testing.assert_close(norm.bias.grad.double(), sums, rtol=1e-5, atol=1e-4)


def test_half_of_a_streams_gradients_is_enough() -> None:
    """What reads the stream alone, or the norm alone."""
    for at in range(2):
        run = runtime()
        norm = QuantizedNorm("layernorm", 96, *vectors("layernorm"), 1e-5, run)
        stream = normal(32, 96, dtype=torch.bfloat16).requires_grad_()
        normed_stream(stream, norm, run)[at].backward(normal(32, 96, seed=1, dtype=torch.bfloat16))
        assert stream.grad is not None
        assert norm.weight is not None
        assert (norm.weight.grad is None) == (at == 0)
        if at == 0:
            assert torch.equal(stream.grad, normal(32, 96, seed=1, dtype=torch.bfloat16))


def test_a_norm_with_hooks_is_called() -> None:
    run, called = runtime(), []
    norm = QuantizedNorm("layernorm", 96, *vectors("layernorm"), 1e-5, run)
    stream = normal(2, 32, 96, dtype=torch.bfloat16)
    expected = normed_stream(stream, norm, run, branch=stream)
    norm.register_forward_hook(lambda *given: called.append(given))
    total, y = normed_stream(stream, norm, run, branch=stream)
    assert len(called) == 1
    assert torch.equal(total, expected[0])
    assert torch.equal(numbers(y), numbers(expected[1]))


def vectors(op: str) -> tuple[nn.Parameter, nn.Parameter | None]:
    gamma, beta = (nn.Parameter(normal(96, seed=s)) for s in (7, 8))
    return gamma, beta if op == "layernorm" else None
