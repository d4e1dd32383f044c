"""Functions between layers: found wherever they are called, rounded, computed the same."""

from collections.abc import Callable

import pytest
import torch
from ptq_cases import (
    Encoder,
    Functional,
    assert_close,
    normal,
    rounded_by_numpy,
    tokens,
)
from torch import nn
from torch.nn import functional as F

from tiles.formats import TensorFormat
from workbench.ptq import EXTENDED, quantize
from workbench.ptq.attention import PlainAttention
from workbench.ptq.attention_call import attention
from workbench.ptq.weight_operand import WeightOperand


def test_an_encoder_s_operators_are_all_found() -> None:
    made = quantize(Encoder(), "fp8-ptq-e4m3", calibration=[tokens(3, 5)], scheme="extended")
    assert {o.name: o.kind for o in made.operators} == {
        "embedding": "embedding",
        "layer.self_attn.query": "linear",
        "layer.self_attn.key": "linear",
        "layer.self_attn.value": "linear",
        "layer.self_attn:attention.scores": "matmul",
        "layer.self_attn:attention.values": "matmul",
        "layer.self_attn.out_proj": "linear",
        "layer:add": "add",
        "layer.norm1": "layernorm",
        "layer.linear1": "linear",
        "layer.linear2": "linear",
        "layer:add.2": "add",
        "layer.norm2": "layernorm",
        "product": "matmul",
        ":add": "add",
        "head": "linear",
    }
    assert {k.name: k.reason for k in made.kept} == {
        ":softmax": "fp8-ptq-e4m3 has no such operator",
        "layer:activation": "fp8-ptq-e4m3 has no such operator",
    }


def test_the_standard_scheme_leaves_sums_and_norms_alone_and_says_so() -> None:
    made = quantize(Encoder(), "fp8-ptq-e4m3", calibration=[tokens(3, 5)])
    assert {o.kind for o in made.operators} == {"embedding", "linear", "matmul"}
    reasons = {k.name: k.reason for k in made.kept}
    assert reasons["layer:add"] == "the standard scheme leaves add alone"
    assert reasons["layer.norm1"] == "the standard scheme leaves layernorm alone"


def test_functions_without_modules_compute_on_rounded_operands() -> None:
    model, x = Functional(), normal(2, 3, 8)
    made = quantize(model, "fp8-ptq-mixed", calibration=[x], scheme="extended")
    kinds = ["linear", "linear", "matmul", "conv", "matmul", "layernorm", "mul", "add"]
    names = [":linear", ":linear.2", ":matmul", ":conv", ":matmul.2", ":layernorm", ":mul", ":add"]
    kept = {k.name: k.reason for k in made.kept}
    assert "first one" in kept.pop(":conv")
    assert "last linear" in kept.pop(":linear.2")
    assert not kept
    quantized = [
        pair for pair in zip(names, kinds, strict=True) if pair[0] not in (":conv", ":linear.2")
    ]
    assert [(o.name, o.kind) for o in made.operators] == quantized
    seen: dict[str, torch.Tensor] = {}

    def tensor(value: torch.Tensor, name: str) -> torch.Tensor:
        """Rounded under the scale of calibration, which met the exact numbers."""
        return rounded_by_numpy(value, "e4m3fn", float(seen[name].abs().max() / 448))

    def rows(weight: torch.Tensor) -> torch.Tensor:
        return torch.stack([rounded_by_numpy(row, "e3m4fn") for row in weight])

    def forward(exact: bool) -> torch.Tensor:
        def operand(value: torch.Tensor, name: str) -> torch.Tensor:
            if exact:
                seen[name] = value.clone()
            return value if exact else tensor(value, name)

        weight = model.weight if exact else rows(model.weight)
        y = F.linear(operand(x, "linear"), weight)
        y = torch.addmm(torch.ones(6), y.reshape(-1, 6), model.turned).view(2, 3, 6)
        z = operand(y, "left") @ operand(y.mT, "right")
        kernel = F.conv1d(x, model.kernel, padding=1)[:, :3]
        z = operand(z, "left.2") @ operand(kernel, "right.2")
        z = F.layer_norm(operand(z, "norm"), (8,))
        z = operand(z, "mul") * operand(x, "x")
        return operand(z, "add") + operand(x, "x")

    with torch.no_grad():
        forward(exact=True)
        assert_close(made.model(x), forward(exact=False), rtol=1e-5, atol=1e-5)
        assert not torch.equal(made.model(x), model(x))


def test_blocks_do_not_span_matrices_of_a_batch() -> None:
    class Product(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b

    size = torch.tensor([1.0, 1e5])[:, None, None]
    a, b = normal(2, 4, 64) * size, normal(2, 64, 3, seed=1)
    made = quantize(Product(), "int8-b128", calibration=[(a, b)])
    y, exact = made.model(a, b), a @ b
    error = (y - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2))
    assert bool((error < 0.02).all())  # under a scale of both the small one would drown


@pytest.mark.parametrize("recipe", ["int8-b128", "mxfp8-e4m3"])
def test_blocks_of_the_right_factor_run_along_the_contraction(recipe: str) -> None:
    """Columns of very different size would share a scale if blocks ran the other way."""

    class Product(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a @ b

    a = normal(2, 4, 64)
    b = normal(2, 64, 3, seed=1) * torch.tensor([1.0, 1e4, 1e-4])
    made = quantize(Product(), recipe, calibration=[(a, b)])
    y, exact = made.model(a, b), a @ b
    error = (y - exact).norm(dim=(0, 1)) / exact.norm(dim=(0, 1))
    if recipe == "mxfp8-e4m3":
        assert bool((error < 0.06).all())
    else:  # 128 columns of the turned matrix share one scale: the small ones drown
        assert float(error[1]) < 0.02
        assert float(error[2]) > 0.9


def cases() -> list[tuple[str, dict[str, object]]]:
    mask = torch.zeros(4, 5).masked_fill(torch.ones(4, 5).triu(2) > 0, -torch.inf)
    return [
        ("plain", {}),
        ("scaled", {"scale": 0.3}),
        ("added mask", {"attn_mask": mask}),
        ("boolean mask", {"attn_mask": mask == 0}),
        ("causal", {"is_causal": True}),
        ("grouped", {"enable_gqa": True}),
    ]


@pytest.mark.parametrize(
    ("name", "options"), cases(), ids=lambda c: c if isinstance(c, str) else ""
)
def test_attention_taken_apart_is_the_fused_one(name: str, options: dict[str, object]) -> None:
    keys = 4 if name == "causal" else 5
    heads = 1 if name == "grouped" else 2
    q, k, v = (
        normal(3, 2, 4, 8),
        normal(3, heads, keys, 8, seed=1),
        normal(3, heads, keys, 8, seed=2),
    )
    apart = attention(torch.matmul, torch.matmul, q, k, v, **options)  # type: ignore[arg-type]
    fused = F.scaled_dot_product_attention(q, k, v, **options)  # type: ignore[arg-type]
    assert_close(apart, fused)


@pytest.mark.parametrize("batch_first", [True, False], ids=["batch first", "tokens first"])
@pytest.mark.parametrize("need_weights", [True, False], ids=["weights", "no weights"])
@pytest.mark.parametrize("separate", [True, False], ids=["other widths", "one width"])
def test_torch_s_attention_layer_taken_apart_is_itself(
    batch_first: bool, need_weights: bool, separate: bool
) -> None:
    torch.manual_seed(0)
    widths = {"kdim": 12, "vdim": 10} if separate else {}
    layer = nn.MultiheadAttention(
        16, 4, batch_first=batch_first, bias=not separate, **widths
    ).eval()
    q = normal(2, 5, 16)
    k, v = (normal(2, 6, 12, seed=1), normal(2, 6, 10, seed=2)) if separate else (q, q)
    padding = torch.zeros(2, k.shape[1], dtype=torch.bool)
    padding[1, -2:] = True
    mask = torch.zeros(5, k.shape[1]).masked_fill(torch.ones(5, k.shape[1]).triu(3) > 0, -torch.inf)
    given = [t if batch_first else t.transpose(0, 1) for t in (q, k, v)]
    options = {"key_padding_mask": padding.float() * -1e4, "need_weights": need_weights,
               "attn_mask": mask}  # fmt: skip
    with torch.no_grad():
        y, weights = PlainAttention(layer)(*given, **options)
        exact, exact_weights = layer(*given, **options)
    assert_close(y, exact)
    if need_weights:
        assert_close(weights, exact_weights)
    else:
        assert weights is exact_weights is None


def test_attention_that_adds_keys_of_its_own_is_listed() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(16, 2, add_bias_kv=True)
            self.out = nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.inner(x, x, x)[0])

    made = quantize(Model().eval(), "int8-row", calibration=[normal(3, 2, 16)])
    assert "rows of its own" in {k.name: k.reason for k in made.kept}["inner"]
    assert [o.name for o in made.operators] == ["out"]


def test_a_mask_that_is_added_keeps_its_sum_exact() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return (x + x) + mask

    x, mask = normal(2, 4), torch.tensor([0.0, -torch.inf, 0.0, 0.0])
    made = quantize(Masked(), "int8-tensor", calibration=[(x, mask)], scheme="extended")
    assert [o.name for o in made.operators] == [":add"]
    (kept,) = made.kept
    assert kept.name == ":add.2"
    assert "mask" in kept.reason
    assert bool(made.model(x, mask)[:, 0].isfinite().all())


def test_layers_that_are_called_twice_or_shared_are_one_operator() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(8, 8)
            self.other = self.one

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.other(self.one(x) * 30)

    made = quantize(Twice(), "int8-tensor", calibration=[normal(4, 8)])
    assert [o.name for o in made.operators] == ["one"]
    assert made.model.one is made.model.other
    scale = made.session.operators["one"].operands["input"].scale
    assert scale is not None
    assert float(scale) * 127 > 30  # of both calls


def test_a_call_that_calibration_did_not_meet_is_exact_and_listed() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ x if float(x[0, 0]) < 100 else x @ x @ x

    x = normal(4, 4)
    made = quantize(Branch(), "int8-tensor", calibration=[x])
    big = x.clone()
    big[0, 0] = 200.0
    made.model(big)
    assert made.unmet == {":matmul.2": "not met in calibration"}


def test_methods_of_the_model_and_its_parts_are_quantised_too() -> None:
    """A caller may enter by any module: what runs inside is followed."""
    model = Encoder()
    made = quantize(model, "mxfp4", calibration=[tokens(3, 5)])
    assert type(made.model) is Encoder
    x = normal(2, 5, 16)
    with torch.no_grad():
        inner, exact = made.model.layer(x), model.layer(x)
    assert not torch.allclose(inner, exact, atol=1e-3)
    with torch.no_grad():
        assert torch.equal(torch.ones(2) + 1, torch.full((2,), 2.0))  # nothing is left switched on


@pytest.mark.parametrize("broken", [lambda x: x[..., :3], lambda x: "text"], ids=["shape", "type"])
def test_an_error_inside_the_model_leaves_nothing_behind(broken: Callable[..., object]) -> None:
    made = quantize(Encoder(), "int8-tensor", calibration=[tokens(3, 5)])
    with pytest.raises((RuntimeError, TypeError, AttributeError)):
        made.model.layer(broken(normal(2, 5, 16)))
    assert torch._C._len_torch_function_stack() == 0
    y = made.model(tokens(3, 5))
    assert torch.equal(y, made.model(tokens(3, 5)))


def test_a_weight_that_is_not_finite_is_refused_wherever_it_is() -> None:
    model = Functional()
    with torch.no_grad():
        model.kernel[0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="the weight of :conv holds NaN or infinite values"):
        quantize(model, "int8-row", calibration=[normal(2, 3, 8)])


def test_weights_that_are_computed_are_rounded_on_every_call() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.gain = nn.Parameter(normal(4, 8)), 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(x, self.weight * self.gain)

    x = normal(3, 8)
    made = quantize(Scaled(), "w8a16", calibration=[x])
    with torch.no_grad():
        one = made.model(x)
        made.model.gain = 2.0
        assert torch.equal(made.model(x), 2 * one)
    # Not even where memory and count of changes are those of the one before.
    operand, weight = WeightOperand(TensorFormat.parse("int8.row")), normal(4, 8)
    before = operand.rounded(weight)
    weight.numpy()[:] *= 2
    assert torch.equal(operand.rounded(weight), 2 * before)


def test_a_batch_of_parameters_is_a_factor_like_any_other() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(normal(2, 8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    made = quantize(Stacked(), "int8-tensor", calibration=[normal(2, 3, 8)])
    assert made.operators[0].formats == {"left": "int8.tensor", "right": "int8.tensor"}


def test_the_given_model_stays_as_it_is() -> None:
    model, ids = Encoder(), tokens(3, 5)
    with torch.no_grad():
        before = model(ids)
        model.layer.train()
        quantize(model, "mxfp4", calibration=[ids], scheme=EXTENDED)
        assert model.layer.training
        assert torch.equal(model.eval()(ids), before)
    assert isinstance(model.layer.self_attn, nn.MultiheadAttention)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch's own model
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no grad"])
@pytest.mark.parametrize("recipe", ["fp8-ptq-e4m3", "w8a16"])
def test_torch_s_encoder_takes_a_padding_mask(grad: bool, recipe: str) -> None:
    """Given one, it looks for weights that the layer taken apart no longer has."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
            return self.encoder(x, src_key_padding_mask=padding)

    model, x = Padded().eval(), normal(2, 5, 16)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    made = quantize(model, recipe, calibration=[(x, padding)])
    assert "encoder.layers.0.self_attn.query" in {o.name for o in made.operators}
    with torch.set_grad_enabled(grad):
        y, exact = made.model(x, padding).detach(), model(x, padding).detach()
    for row, length in ((0, 5), (1, 3)):
        assert_close(y[row, :length], exact[row, :length], rtol=0.1, atol=0.2)
        assert not torch.equal(y[row, :length], exact[row, :length])
    changed = x.clone()
    changed[1, 3:] = 9.0
    with torch.no_grad():  # what is padded reaches nobody
        assert torch.equal(made.model(changed, padding)[1, :3], made.model(x, padding)[1, :3])
