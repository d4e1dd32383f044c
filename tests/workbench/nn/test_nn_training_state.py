"""Checkpoints of converted models: training goes on to the bit, or is refused."""

import copy

import pytest
import torch
from nn_cases import PlainSgd
from tied_model import IDS, model
from torch import nn

from workbench.nn import convert, load_training_state, training_state


def train(network: nn.Module, steps: int, optimizer: PlainSgd) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        network(IDS).pow(2).mean().backward()
        optimizer.step()


def test_training_goes_on_to_the_bit() -> None:
    one = convert(model(), "jetfire", seed=7).model
    plain = PlainSgd(one)
    train(one, 1, plain)
    state = copy.deepcopy(training_state(one))
    train(one, 2, plain)
    other = convert(model(), "jetfire", seed=1).model
    load_training_state(other, state)
    train(other, 2, PlainSgd(other))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_refuses_a_checkpoint_of_another_recipe() -> None:
    state = training_state(convert(model(), "jetfire-64").model)
    network = convert(model(), "jetfire").model
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="the checkpoint is of recipe jetfire-64, fallback 0, the"):
        load_training_state(network, state)
    with pytest.raises(ValueError, match="not a state of tile-workbench/training-state/2"):
        load_training_state(network, network.state_dict())
    other = {**training_state(network), "model": {**before, "up.weight": torch.ones(2, 2)}}
    with pytest.raises(ValueError, match=r"up\.weight and 0 more do not fit the model"):
        load_training_state(network, other)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_unconverted_model_has_no_training_state() -> None:
    with pytest.raises(ValueError, match="Tied has layers of 0 runtimes: convert it as a whole"):
        training_state(model())
