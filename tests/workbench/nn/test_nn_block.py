"""The transformer block: what it saves, what it draws, what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nn_cases import PlainSgd, normal, runtime
from torch.utils.checkpoint import checkpoint

from tiles.formats import Rounding, TensorFormat
from workbench.nn import (
    CodedTensor,
    Codes,
    ReferenceBackend,
    Runtime,
    TransformerBlock,
    convert,
)

WIDTH, BATCH, TOKENS = 64, 2, 64


def block(run: Runtime | None = None, **options: Any) -> TransformerBlock:
    torch.manual_seed(0)
    return TransformerBlock(WIDTH, 4, runtime() if run is None else run, **options)


def stream(seed: int = 0, tokens: int = TOKENS) -> torch.Tensor:
    return normal(BATCH, tokens, WIDTH, seed=seed, dtype=torch.bfloat16).requires_grad_()


def gradients(model: TransformerBlock, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model(x).float().pow(2).mean().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"stream": x.grad.clone()}  # type: ignore[union-attr]


def plain_block(model: TransformerBlock, x: torch.Tensor) -> torch.Tensor:
    """The same block in the dtype of ``x``, from its parameters."""
    p = {name: value.detach().to(x.dtype) for name, value in model.named_parameters()}
    f = torch.nn.functional
    normed = f.layer_norm(x, (WIDTH,), p["norm1.weight"], p["norm1.bias"])
    qkv = f.linear(normed, p["qkv.weight"], p["qkv.bias"])
    q, k, v = (t.view(BATCH, -1, 4, WIDTH // 4).transpose(1, 2) for t in qkv.chunk(3, -1))
    mixed = f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + f.linear(mixed, p["out.weight"], p["out.bias"])
    normed = f.layer_norm(x, (WIDTH,), p["norm2.weight"], p["norm2.bias"])
    hidden = f.gelu(f.linear(normed, p["up.weight"], p["up.bias"]))
    return x + f.linear(hidden, p["down.weight"], p["down.bias"])


@pytest.mark.parametrize("recipe", ["jetfire", "jetfire-64", "jetfire-128"])
def test_computes_a_pre_norm_transformer_block(recipe: str) -> None:
    model, x = block(runtime(recipe)), stream()
    y, dy = model(x), normal(BATCH, TOKENS, WIDTH, seed=5, dtype=torch.bfloat16)
    y.backward(dy)
    leaf = x.detach().double().requires_grad_()
    reference = plain_block(model, leaf)
    reference.backward(dy.double())
    assert y.dtype is torch.bfloat16
    with torch.no_grad():
        error = (y.double() - reference).norm() / (reference - leaf).norm()
    # Nine roundings to 8-bit blocks, each about 0.01 of its tensor's norm, and the bf16 stream.
    assert 0 < float(error) < 0.05
    assert x.grad is not None
    assert leaf.grad is not None
    through = leaf.grad - dy.double()
    assert float((x.grad.double() - leaf.grad).norm() / through.norm()) < 0.08


def saved_bytes(model: torch.nn.Module, run: Callable[[], torch.Tensor]) -> dict[torch.dtype, int]:
    """Bytes that autograd keeps for backward, parameters and codes of weights left out."""
    found: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    weights = {p.data_ptr() for p in model.parameters()}
    for layer in model.modules():
        if hasattr(layer, "weight_codes"):
            weights |= {t.data_ptr() for t in layer.weight_codes().forward.tensors}
    total: dict[torch.dtype, int] = {}
    for pointer, tensor in found.items():
        if pointer not in weights:
            size = tensor.numel() * tensor.element_size()
            total[tensor.dtype] = total.get(tensor.dtype, 0) + size
    return total


def test_saves_codes_for_backward() -> None:
    """C = stream's elements: norms 2, qkv 3, attention's output 1, products 1 + 1 + 4, GELU 4."""
    model, x = block(), stream()
    total = saved_bytes(model, lambda: model(x))
    elements = BATCH * TOKENS * WIDTH
    # The norms' inputs, their outputs (inputs of qkv and up), qkv, attention's output, GELU's two.
    assert total.pop(torch.int8) == elements * (1 + 1 + 3 + 1 + 1 + 1 + 4 + 4)
    scales = elements * 16 // 32**2 * 4
    statistics = 2 * 2 * BATCH * TOKENS * 4 + BATCH * 4 * TOKENS * 4
    assert total.pop(torch.float32) == scales + statistics
    assert total == {}


def test_an_ordinary_block_saves_several_times_as_much() -> None:
    model, x = block(), stream()
    coded = sum(saved_bytes(model, lambda: model(x)).values())
    leaf = x.detach().requires_grad_()
    plain = sum(saved_bytes(model, lambda: plain_block(model, leaf)).values())
    assert plain > 1.9 * coded


class CountingBackend(ReferenceBackend):
    """Counts matrices that are quantised, by shape."""

    def __init__(self) -> None:
        self.quantized: list[tuple[int, ...]] = []

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        self.quantized.append(tuple(x.shape))
        return super().quantize(x, out, seed=seed, share=share)


@pytest.mark.parametrize(("kept", "each"), [(True, 1), (False, 4)], ids=["kept", "anew"])
def test_weights_are_quantised_once_a_step_or_in_every_pass(kept: bool, each: int) -> None:
    counting = CountingBackend()
    model = block(runtime(backend=counting, keep_weights=kept))
    optimizer = PlainSgd(model)
    shape = tuple(model.up.weight.shape)
    for step in (1, 2, 3):
        for _ in range(2):  # two micro-batches
            model(stream()).float().sum().backward()
        assert counting.quantized.count(shape) == step * each
        optimizer.step()


@pytest.mark.parametrize("recipe", ["jetfire", "deepseek-fp8"])
def test_codes_of_weights_that_are_made_anew_are_the_ones_that_would_be_kept(recipe: str) -> None:
    found = []
    for kept in (False, True):
        torch.manual_seed(0)
        layer = convert(torch.nn.Linear(128, 64), runtime(recipe, keep_weights=kept)).model
        x = normal(48, 128).requires_grad_()
        y = layer(x)
        y.float().pow(2).sum().backward()
        found.append((y.detach(), x.grad, layer.weight.grad, layer.bias.grad))
    for anew, once in zip(*found, strict=True):
        assert torch.equal(anew, once)


def test_a_weights_gradient_is_there_before_the_inputs_gradient_is_made() -> None:
    """So that the saved input and the gradient's memory are free again."""
    order: list[str] = []

    class Ordered(ReferenceBackend):
        def coded_product(self, a: Codes, b: Codes, **rest: Any) -> Codes:
            order.append("input")
            return super().coded_product(a, b, **rest)

    layer = convert(torch.nn.Linear(64, 64), runtime(backend=Ordered())).model
    layer.weight.register_post_accumulate_grad_hook(lambda _: order.append("weight"))
    x = convert(torch.nn.LayerNorm(64), layer.runtime).model(stream())
    layer(x).float().sum().backward()
    assert order == ["input", "weight", "input"]  # the first is forward


def test_what_a_layer_returns_may_be_written_to() -> None:
    layer = convert(torch.nn.Linear(64, 64), "deepseek-fp8").model
    x = normal(32, 64).requires_grad_()
    expected = layer(x)
    found = layer(x)
    found.mul_(2.0)
    assert torch.equal(found, 2 * expected)
    found.sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None


@pytest.mark.slow  # the first of torch's optimisers loads its compiler
@pytest.mark.parametrize("kind", ["foreach", "fused"])
def test_weights_follow_the_steps_of_torch_optimisers(kind: str) -> None:
    """Fused steps are written past the count of a parameter's changes."""
    model = convert(torch.nn.Linear(32, 32), "jetfire").model
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, **{kind: True})  # type: ignore[arg-type]
    model(normal(32, 32)).float().pow(2).mean().backward()
    before = model.weight_codes().forward.dequantize()  # type: ignore[operator]
    optimizer.step()
    found = model.weight_codes().forward.dequantize()  # type: ignore[operator]
    assert not torch.equal(found, before)
    assert float((found - model.weight.detach()).abs().max()) < 0.01  # type: ignore[operator]


@pytest.mark.parametrize("recipe", ["jetfire", "deepseek-fp8"])
def test_training_goes_on_after_inference_mode(recipe: str) -> None:
    model = convert(torch.nn.Linear(128, 128), recipe).model
    with torch.inference_mode():
        expected = model(normal(32, 128)).float()
    y = model(normal(32, 128).requires_grad_()).float()
    y.sum().backward()
    assert torch.equal(y.detach(), expected)
    assert model.weight.grad is not None


def test_a_write_past_torch_is_forgotten_by_hand() -> None:
    model = block()
    before = model.up.weight_codes()
    model.up.weight.data.zero_()
    assert model.up.weight_codes() is before
    model.up.forget()
    assert int(model.up.weight_codes().forward.main.codes.abs().max()) == 0


def test_the_same_seed_draws_the_same_gradients_and_another_one_others() -> None:
    one, same, other = (
        gradients(block(runtime(seed=seed), dropout=0.1), stream()) for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_forward_is_rounded_to_nearest_whatever_the_seed() -> None:
    outputs = [block(runtime(seed=seed))(stream()) for seed in (1, 2)]
    assert torch.equal(*outputs)


def test_evaluation_uses_no_random_bits() -> None:
    run = runtime()
    model = block(run, dropout=0.5).eval()
    with torch.no_grad():
        assert torch.equal(model(stream()), model(stream()))
    assert run.seeds.count == 0


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_layer_computed_again_drops_the_same_elements(reentrant: bool) -> None:
    """The gradient of a weight before the dropout, with rounding's share of it far below."""

    def gradient(again: bool) -> torch.Tensor:
        model = block(dropout=0.5)
        x = stream()
        y = checkpoint(model, x, use_reentrant=reentrant) if again else model(x)
        y.backward(normal(*y.shape, seed=3, dtype=y.dtype))
        grad = model.down.weight.grad
        assert grad is not None
        return grad

    expected = gradient(again=False)
    assert float((gradient(again=True) - expected).norm() / expected.norm()) < 0.05


def test_a_captured_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    run = runtime()
    for draw in (run.draw, run.mask_key):
        with pytest.raises(RuntimeError, match="every replay would round by the same bits"):
            draw()
    allowed = runtime(replayable=True)
    assert allowed.draw() == run.seeds.draw()
    allowed.mask_key()
    with torch.no_grad():
        assert run.draw() == 0


class KeyBackend(ReferenceBackend):
    """Writes down the keys of everything that is rounded stochastically."""

    def __init__(self) -> None:
        self.keys: list[int] = []

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        if out.rounding is Rounding.STOCHASTIC:
            self.keys.append(seed)
        return super().quantize(x, out, seed=seed, share=share)


@pytest.mark.parametrize("feed_forward", ["gelu", "swiglu"])
def test_no_two_gradients_are_rounded_by_the_same_bits(feed_forward: str) -> None:
    """In two blocks of one model, over two steps."""
    recording = KeyBackend()
    run = runtime(backend=recording)
    model = torch.nn.Sequential(*(block(run, feed_forward=feed_forward) for _ in range(2)))
    for _ in range(2):
        model(stream()).float().pow(2).mean().backward()
    assert len(recording.keys) >= 2 * 2 * 10
    assert len(set(recording.keys)) == len(recording.keys)


@pytest.mark.parametrize(
    "options",
    [
        {"feed_forward": "swiglu", "norm": "rmsnorm", "bias": False, "hidden": 96},
        {"feed_forward": "geglu", "dropout": 0.1, "causal": False},
        {"feed_forward": "silu"},
        {"feed_forward": "relu"},
    ],
    ids=str,
)
def test_every_kind_trains(options: dict[str, Any]) -> None:
    found = gradients(block(**options), stream())
    for name, grad in found.items():
        assert grad.isfinite().all(), name
        assert grad.abs().max() > 0, name


@pytest.mark.parametrize("tokens", [1, 33, 50])
def test_tokens_that_fill_no_block(tokens: int) -> None:
    """Ragged blocks are scaled by the values that they have."""
    model, x = block(), stream(tokens=tokens)
    y = model(x)
    y.float().pow(2).mean().backward()
    leaf = x.detach().double()
    with torch.no_grad():
        error = (y.double() - plain_block(model, leaf)).norm() / (y.double() - leaf).norm()
    assert float(error) < 0.05
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("recipe", ["int8-fallback", "jetfire"])
def test_fallback_lowers_the_error_that_outliers_bring(recipe: str) -> None:
    """A gradient to the weight is a product of the saved activations: nothing else is rounded."""
    x = normal(256, 256, seed=3)
    x[::128, ::128] *= 300  # an outlier in each block of 128
    dy = normal(256, 64, seed=4)
    errors = []
    for share in (0.0, 0.5):
        layer = convert(torch.nn.Linear(256, 64), recipe, fallback=share).model
        run = layer.runtime
        codes = run.gradient(dy, seed=5)  # type: ignore[union-attr, operator]
        layer(x).backward(CodedTensor(codes, dy.shape, torch.float32))
        exact = codes.dequantize(torch.float64).t() @ x.double()
        errors.append(float((layer.weight.grad - exact).norm()))  # type: ignore[union-attr, operator]
    assert errors[1] < 0.8 * errors[0]


def test_a_block_with_fallback_trains() -> None:
    found = gradients(block(runtime(fallback=0.1)), stream())
    without = gradients(block(runtime()), stream())
    assert all(grad.isfinite().all() for grad in found.values())
    assert not torch.equal(found["up.weight"], without["up.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 60, "heads": 4}, "width 60, hidden 240: norm1 has 60 features"),
        ({"heads": 5}, "5 heads do not divide a width of 64"),
        ({"feed_forward": "tanh"}, "feed_forward 'tanh'.*choose from gelu"),
        ({"norm": "batchnorm"}, "norm 'batchnorm': choose from .*rmsnorm"),
        ({"runtime": runtime("bf16")}, "recipe bf16 keeps no codes between layers: take jetfire"),
        ({"dropout": 1.0}, "must lie in"),
    ],
    ids=["width", "heads", "feed_forward", "norm", "recipe", "dropout"],
)
def test_refuses_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"width": 64, "heads": 4, "runtime": runtime()} | options
    with pytest.raises(ValueError, match=message):
        TransformerBlock(**given)


def test_refuses_a_stream_of_another_width() -> None:
    with pytest.raises(ValueError, match="input of 32 features: this norm takes 64"):
        block()(stream()[..., :32])
