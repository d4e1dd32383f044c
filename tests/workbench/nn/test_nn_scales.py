"""Scales from calls before, and fixed ones; recipes by name that take them."""

import copy
import math

import pytest
import torch
from nn_cases import PlainSgd, normal
from torch import nn

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from workbench.nn import (
    RECIPES,
    QuantizedLinear,
    ReferenceBackend,
    StepGuard,
    StepRefused,
    convert,
    load_training_state,
    training_runtime,
    training_state,
)
from workbench.nn.tensor_scales import Delayed, Fixed, LayerScales

E4M3 = TensorFormat.parse("e4m3fn.tensor")
DELAYED = ("e4m3-tensor-delayed", "fp8-lm")


def layer(name: str, **options: object) -> QuantizedLinear:
    torch.manual_seed(0)
    made = convert(nn.Linear(64, 32), name, **options).model  # type: ignore[arg-type]
    assert isinstance(made, QuantizedLinear)
    return made


@pytest.mark.parametrize("fmt", ["e4m3fn.tensor", "e5m2.tensor", "int8.tensor", "int8.tensor+sr"])
def test_a_given_scale_of_the_data_gives_the_codecs_codes(fmt: str) -> None:
    x, out = normal(40, 48), TensorFormat.parse(fmt)
    expected = quantize_tensor(x, out, seed=5)
    assert expected.scales is not None
    found = ReferenceBackend().quantize_by(x, out, expected.scales, seed=5).main
    assert torch.equal(found.bits, expected.bits)


def test_what_exceeds_a_given_scale_saturates() -> None:
    x = torch.tensor([[1000.0, -1000.0, 1.0, 448.0]])
    found = ReferenceBackend().quantize_by(x, E4M3, torch.ones(1, 1)).dequantize()
    assert found.tolist() == [[448.0, -448.0, 1.0, 448.0]]


def test_delayed_scales_are_those_of_the_largest_call_looked_back_upon() -> None:
    """The rule by hand, over calls whose largest magnitudes are known."""
    scales, peaks, found = LayerScales(Delayed(history=3)), [4.0, 1.0, 9.0, 2.0, 2.0, 2.0, 5.0], []
    for peak in peaks:
        x = torch.tensor([[peak, -peak / 2]])
        found.append(float(scales.scale("input", x, E4M3.element, train=True)))
    before = [4.0, 4.0, 4.0, 9.0, 9.0, 9.0, 2.0]  # the first call looks at itself
    assert found == [float(torch.tensor(p) / 448) for p in before]


def test_roles_have_pasts_of_their_own_and_evaluation_has_none() -> None:
    scales = LayerScales(Delayed(history=2))
    scales.scale("input", torch.full((1, 1), 8.0), E4M3.element, train=True)
    own = float(scales.scale("weight", torch.full((1, 1), 2.0), E4M3.element, train=True))
    assert own == float(torch.tensor(2.0) / 448)
    scales.scale("input", torch.full((1, 1), 64.0), E4M3.element, train=False)
    kept = float(scales.scale("input", torch.full((1, 1), 1.0), E4M3.element, train=True))
    assert kept == float(torch.tensor(8.0) / 448)


def test_zeros_before_any_number_have_scale_one() -> None:
    for rule in (Delayed(), Fixed()):
        scales = LayerScales(rule)
        assert float(scales.scale("input", torch.zeros(2, 2), E4M3.element, train=True)) == 1
        after = float(scales.scale("input", torch.full((2, 2), 64.0), E4M3.element, train=True))
        assert after == (64 if isinstance(rule, Fixed) else float(torch.tensor(64.0) / 448))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [*DELAYED, "unit-scaling"])
def test_what_is_not_finite_is_seen_and_not_remembered(name: str, value: float) -> None:
    made = layer(name)
    guard = StepGuard(made, PlainSgd(made))  # type: ignore[arg-type]
    made(normal(16, 64)).sum().backward()
    assert made.scales is not None
    before = made.scales.state()
    x = normal(16, 64)
    x[2, 3] = value
    made(x).sum().backward()
    with pytest.warns(RuntimeWarning, match="not finite"):
        assert isinstance(guard.step(), StepRefused)
    assert all(kept.isfinite().all() for kept in made.scales.state().values())
    largest = {role: float(kept.max()) for role, kept in before.items()}
    assert {role: float(kept.max()) for role, kept in made.scales.state().items()} == largest


def test_fixed_scales_are_powers_of_two_near_the_root_mean_square_for_good() -> None:
    for size in (1e-12, 0.02, 1.0, 3e7):
        scales = LayerScales(Fixed())
        x = normal(64, 64) * size
        found = float(scales.scale("weight", x, E4M3.element, train=True))
        assert math.frexp(found)[0] == 0.5
        root = float(x.double().pow(2).mean().sqrt())
        assert 2**-0.5 * 0.999 < root / found < 2**0.5 * 1.001
        assert float(scales.scale("weight", 100 * x, E4M3.element, train=True)) == found


@pytest.mark.parametrize("name", [*DELAYED, "unit-scaling"])
def test_training_goes_on_to_the_bit_with_its_scales(name: str) -> None:
    def train(model: nn.Module, steps: range) -> None:
        optimizer = PlainSgd(model)
        for step in steps:
            optimizer.zero_grad()
            model(normal(16, 64, seed=step) * (1 + step)).pow(2).mean().backward()
            optimizer.step()

    one = layer(name)
    train(one, range(3))
    state = copy.deepcopy(training_state(one))
    train(one, range(3, 6))
    other = layer(name, seed=1)
    load_training_state(other, state)
    train(other, range(3, 6))
    assert torch.equal(one.weight, other.weight)
    forgetful = layer(name, seed=1)
    load_training_state(forgetful, {**state, "scales": {"": {}}})
    train(forgetful, range(3, 6))
    assert not torch.equal(one.weight, forgetful.weight)


def test_refuses_scales_of_another_history() -> None:
    state = training_state(trained := layer("e4m3-tensor-delayed", history=4))
    trained(normal(16, 64)).sum().backward()
    state = training_state(trained)
    message = r"scales of : input holds \(4,\) numbers, \(16,\) are kept here"
    with pytest.raises(ValueError, match=message):
        load_training_state(layer("e4m3-tensor-delayed"), state)
    with pytest.raises(ValueError, match="scales of other do not fit the model"):
        load_training_state(trained, {**state, "scales": {**state["scales"], "other": {}}})


@pytest.mark.parametrize("name", ["jetfire", "unit-scaling", "e4m3-tensor"])
def test_refuses_a_history_where_nothing_is_delayed(name: str) -> None:
    with pytest.raises(ValueError, match=f"history 8: recipe {name} scales by"):
        training_runtime(name, history=8)
    with pytest.raises(ValueError, match="history 0: delayed scaling looks back on 1 call or more"):
        training_runtime("fp8-lm", history=0)


def test_recipes_of_inference_train_with_gradients_of_their_own_format() -> None:
    found = {name: str(training_runtime(name).recipe.gradient) for name in RECIPES}
    assert {
        "int8-tensor": "int8.tensor+sr",
        "int8-row": "int8.row+sr",
        "mxint8": "mxint8.mx+sr",
        "mxfp4": "e2m1fn.mx+sr",
        "mxfp6-e2m3": "e2m3fn.mx",
        "mxfp6-e3m2": "e3m2fn.mx",
        "mxfp4-w-mxfp6-a": "e3m2fn.mx",
        "int4-tensor": "int4.tensor+rtz",
        "unit-scaling": "e5m2.tensor",
        "fp8-lm": "e5m2.tensor",
    }.items() <= found.items()
    assert all(training_runtime(name).recipe.trains for name in RECIPES)


def test_errors_of_gradients_rank_the_recipes() -> None:
    """Rows of different size, as tokens are: more scales, then more bits, are less error."""
    x = normal(96, 64) * torch.logspace(-1, 1, 96)[:, None]
    dy = normal(96, 32, seed=1) * torch.logspace(-1, 1, 96)[:, None]
    exact = dy.double().t() @ x.double()
    errors = {}
    for name in ("mxfp8-e4m3", "mxfp6-e2m3", "mxfp4", "int8-row", "int8-tensor", "int4-tensor"):
        made = layer(name)
        made(x).backward(dy)
        assert made.weight.grad is not None
        errors[name] = float((made.weight.grad - exact).norm() / exact.norm())
    assert errors["int8-row"] < errors["int8-tensor"] < errors["int4-tensor"]
    assert errors["mxfp8-e4m3"] < errors["mxfp4"] < errors["int4-tensor"]
    assert errors["int4-tensor"] > 4 * errors["int8-tensor"]
