"""Steps that are refused: gradients that are not finite."""

import copy

import pytest
import torch
from nn_cases import PlainSgd
from tied_model import IDS, model
from torch import nn

from workbench.nn import StepGuard, StepRefused, StepTaken, convert


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["jetfire", "deepseek-fp8"])
def test_a_step_with_gradients_that_are_not_finite_is_refused_and_said(
    name: str, value: float
) -> None:
    network = convert(model(), name).model
    optimizer = PlainSgd(network)
    guard = StepGuard(network, optimizer)
    before = copy.deepcopy(network.state_dict())
    out = network(IDS)
    out.backward(torch.full_like(out, 1.0).index_fill_(0, torch.tensor([1]), value))
    with pytest.warns(RuntimeWarning, match="step 1 refused: the gradient of .* is not finite"):
        refused = guard.step()
    assert isinstance(refused, StepRefused)
    assert "up.weight" in refused.parameters
    assert all(torch.equal(before[n], p) for n, p in network.state_dict().items())
    assert optimizer.steps == 0
    optimizer.zero_grad()
    network(IDS).pow(2).mean().backward()
    assert guard.step() == StepTaken(step=1)
    assert (guard.taken, guard.refused) == (1, 1)
    assert not torch.equal(before["up.weight"], network.up.weight)


def test_a_guard_clips_what_is_finite_and_names_what_is_not() -> None:
    """Clipped before it, one NaN is in every gradient."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    guard = StepGuard(network, PlainSgd(network, rate=1.0), max_norm=0.5)  # type: ignore[arg-type]
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in network.parameters()]
    assert guard.step() == StepTaken(step=1)
    moved = [
        (p.detach() - b).pow(2).sum() for p, b in zip(network.parameters(), before, strict=True)
    ]
    assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(0.5, rel=1e-4)
    network[1].bias.grad[0] = float("nan")
    with pytest.warns(RuntimeWarning, match=r"the gradient of 1\.bias is not finite"):
        refused = guard.step()
    assert isinstance(refused, StepRefused)
    assert refused.parameters == ("1.bias",)
    with pytest.raises(ValueError, match="max_norm 0: it must be positive"):
        StepGuard(network, PlainSgd(network), max_norm=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1.0, float("inf")])
def test_a_guard_reads_sparse_gradients(value: float) -> None:
    table = nn.Embedding(8, 4, sparse=True)
    table(torch.tensor([1, 1, 3])).sum().backward()
    assert table.weight.grad is not None
    assert table.weight.grad.is_sparse
    table.weight.grad = table.weight.grad * value
    guard = StepGuard(table, PlainSgd(table))  # type: ignore[arg-type]
    if value == 1.0:
        assert guard.step() == StepTaken(step=1)
        return
    with pytest.warns(RuntimeWarning, match="the gradient of weight is not finite"):
        guard.step()


def test_a_guard_without_gradients_says_what_is_missing() -> None:
    network = convert(model(), "jetfire").model
    guard = StepGuard(network, PlainSgd(network))
    with pytest.raises(ValueError, match=r"call backward\(\) before step\(\)"):
        guard.step()
