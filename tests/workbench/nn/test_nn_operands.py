"""What products multiply, how often it is quantised, and what is summed without codes."""

import io
import pickle

import numpy as np
import pytest
import torch
from nn_cases import normal
from torch import nn

from tiles.formats import TensorFormat
from workbench.nn import (
    CodedTensor,
    Codes,
    ReferenceBackend,
    attention,
    convert,
    load_training_state,
    residual_add,
    training_runtime,
    training_state,
)


class Recording(ReferenceBackend):
    """Writes down what is multiplied and what is quantised."""

    def __init__(self) -> None:
        self.multiplied: list[Codes] = []
        self.quantized: list[tuple[int, ...]] = []

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        self.quantized.append(tuple(x.shape))
        return super().quantize(x, out, seed=seed, share=share)

    def coded_product(self, a: Codes, b: Codes, **rest: object) -> Codes:
        self.multiplied.append(a)
        return super().coded_product(a, b, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "between", [(), (nn.GELU(),), (nn.GELU(), nn.Dropout(0.5)), (nn.LayerNorm(64),)], ids=str
)
def test_every_product_of_activations_has_its_fallback(between: tuple[nn.Module, ...]) -> None:
    layers = nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, 64))
    recording = Recording()
    model = convert(layers, "jetfire", fallback=0.3, backend=recording).model
    model(normal(64, 64))
    assert [a.fallback is not None for a in recording.multiplied] == [True, True]


class Projections(nn.Module):
    """Three layers that read one plain tensor, as in an ordinary attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(128)
        self.q, self.k, self.v = (nn.Linear(128, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.q(x) + self.k(x) * self.v(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("recipe", "each"), [("deepseek-fp8", 2), ("int8-fallback", 1)])
def test_one_input_of_three_layers_is_quantised_and_saved_once(recipe: str, each: int) -> None:
    recording, saved = Recording(), {}
    torch.manual_seed(0)
    model = convert(Projections(), recipe, keep=("norm",), backend=recording).model

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.element_size() == 1:
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(normal(32, 128))
    inputs = [s for s in recording.quantized if s in ((32, 128), (128, 32))]
    assert len(inputs) == each
    activations = [n for n in saved.values() if n == 32 * 128]
    assert len(activations) == 1
    y.sum().backward()
    expected = convert(Projections(), recipe, keep=("norm",)).model
    expected.load_state_dict(model.state_dict())
    for name in ("q", "k", "v"):  # alone, so that each quantises for itself
        found = getattr(model, name).weight.grad
        assert found.abs().max() > 0
    assert torch.equal(expected(normal(32, 128)), y)


def test_an_input_that_was_written_to_is_quantised_anew() -> None:
    model = convert(Projections(), "deepseek-fp8").model
    x = model.norm(normal(32, 128))
    before = model.q(x)
    with torch.no_grad():
        x.mul_(2.0)
    assert not torch.allclose(model.q(x), before)


def test_a_model_is_saved_as_a_whole_between_its_passes() -> None:
    model = convert(Projections(), "deepseek-fp8").model
    x = model.norm(normal(32, 128))
    y = model.q(x)
    torch.save(model, stored := io.BytesIO())
    stored.seek(0)
    again = torch.load(stored, weights_only=False)
    assert torch.equal(again.q(x), y)


@pytest.mark.parametrize("recipe", ["e4m3-tensor", "jetfire"])
def test_a_model_goes_through_pickle_after_a_pass(recipe: str) -> None:
    """Plain pickle, as between processes, cannot read tensors of 8-bit floats."""
    model = convert(nn.Linear(64, 32), recipe).model
    x = normal(8, 64)
    y = model(x)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), y)


@pytest.mark.parametrize("recipe", ["e4m3-tensor", "jetfire"])
def test_weights_that_take_each_others_place_are_quantised_anew(recipe: str) -> None:
    """One that is gone leaves its memory to the next, and neither was ever written to."""
    model = convert(nn.Linear(64, 32, bias=False), recipe).model
    x = normal(8, 64)
    memory = np.empty((32, 64), np.float32)
    for place in range(2):
        memory[:] = normal(32, 64, seed=place).numpy()
        weight = torch.from_numpy(memory)  # a tensor of its own, where the last one lay
        with torch.no_grad():
            y = torch.func.functional_call(model, {"weight": weight}, (x,))
        exact = x @ weight.t()
        assert (y - exact).norm() < 0.1 * exact.norm(), place


def test_of_two_weights_at_once_each_has_its_codes() -> None:
    model = convert(nn.Linear(64, 32, bias=False), "e4m3-tensor").model
    x, weights = normal(8, 64), [normal(32, 64, seed=1), normal(32, 64, seed=2)]
    with torch.no_grad():
        one, other = (torch.func.functional_call(model, {"weight": w}, (x,)) for w in weights)
    assert not torch.allclose(one, other)


def test_weights_made_under_inference_mode_are_quantised_in_every_call() -> None:
    """Torch counts no writes to them."""
    x = normal(8, 64)
    with torch.inference_mode():
        model = convert(nn.Linear(64, 32, bias=False), "e4m3-tensor").model
        before = model(x)
        model.weight.mul_(2.0)
        after = model(x)
    assert torch.equal(after, 2 * before)


def test_a_buffer_of_the_caller_is_read_each_time() -> None:
    """It may be written by a kernel that counts no change."""
    model = convert(nn.Linear(128, 64), "deepseek-fp8").model
    x = normal(32, 128)
    before = model(x)
    x.data.mul_(2.0)
    assert not torch.allclose(model(x), before)


@pytest.mark.parametrize("trained", [False, True])
def test_no_operand_of_backward_without_backward(trained: bool) -> None:
    recording = Recording()
    model = convert(nn.Linear(128, 64), "deepseek-fp8", backend=recording).model
    with torch.set_grad_enabled(trained):
        model(normal(32, 128))
    assert ((128, 32) in recording.quantized) == trained


@pytest.mark.parametrize("recipe", ["deepseek-fp8", "mxfp8-e4m3", "e4m3-tensor"])
def test_gradients_of_biases_are_sums_of_the_plain_gradient(recipe: str) -> None:
    layer = convert(nn.Linear(128, 64), recipe).model
    dy = normal(4, 32, 64)
    layer(normal(4, 32, 128)).backward(dy)
    exact = dy.double().sum(dim=(0, 1)).float()
    torch.testing.assert_close(layer.bias.grad, exact, rtol=1e-5, atol=1e-5)


def test_the_gradient_of_a_plain_branch_stays_in_numbers() -> None:
    """It belongs to a layer that is kept in high precision."""
    stream = normal(2, 32, 96, seed=18, dtype=torch.bfloat16)
    branch = normal(2, 32, 96, seed=19).requires_grad_()
    total, _ = residual_add(stream, branch, training_runtime("jetfire"))
    dy = normal(2, 32, 96, seed=20, dtype=torch.bfloat16)
    total.backward(dy)
    torch.testing.assert_close(branch.grad, dy.float(), rtol=0, atol=0)


@pytest.mark.parametrize("recipe", ["jetfire", "deepseek-fp8"])
def test_no_tokens_pass_through_and_leave_no_gradient(recipe: str) -> None:
    """As an expert that is sent none."""
    layers = (nn.LayerNorm(64), nn.Linear(64, 128), nn.GELU(), nn.Dropout(0.5), nn.Linear(128, 64))
    model = convert(nn.Sequential(*layers), recipe).model
    x = torch.empty(0, 64, requires_grad=True)
    y = model(x)
    y.sum().backward()
    assert (tuple(y.shape), y.dtype) == ((0, 64), torch.float32)
    assert model[1].weight.grad is not None  # type: ignore[index]
    assert float(model[1].weight.grad.abs().max()) == 0  # type: ignore[index, arg-type]


def test_attention_and_sums_of_no_tokens() -> None:
    run = training_runtime("jetfire")
    assert attention(torch.empty(0, 8, 96), 2, run).shape == (0, 8, 32)
    total, copy = residual_add(torch.empty(0, 32), torch.empty(0, 32), run)
    assert total.shape == copy.shape == (0, 32)
    with pytest.raises(ValueError, match="0 heads: attention has at least one"):
        attention(torch.empty(1, 8, 96), 0, run)


def test_a_sum_that_is_refused_says_shapes() -> None:
    codes = ReferenceBackend().quantize(normal(32, 64), TensorFormat.parse("int8.b32x32"))
    stream = CodedTensor(codes, (32, 64), torch.bfloat16)
    with pytest.raises(ValueError, match=r"stream of shape \(32, 64\), codes, and branch of shape"):
        residual_add(stream, normal(32, 64), training_runtime("jetfire"))


def test_a_state_whose_seed_is_no_integer_is_refused() -> None:
    model = convert(nn.Linear(32, 32), "jetfire").model
    state = training_state(model)
    with pytest.raises(ValueError, match="seed '7', count 0: both are integers"):
        load_training_state(model, {**state, "seed": "7"})
