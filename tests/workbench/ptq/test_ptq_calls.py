"""Calls with ``out=``, in place and of functions that no scheme has; masks that are added."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from ptq_cases import assert_close, normal
from torch import nn
from torch.nn import functional as F

from workbench.ptq import STANDARD, quantize


class Calls(nn.Module):
    """A model that is one function."""

    def __init__(self, function: Callable[..., torch.Tensor], *weights: torch.Tensor) -> None:
        super().__init__()
        self.function = function
        self.weights = nn.ParameterList([nn.Parameter(w, requires_grad=False) for w in weights])

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.function(*inputs, *self.weights)


def into(function: Callable[..., Any], **options: Any) -> Callable[..., torch.Tensor]:
    """A function that writes its result into a tensor, and gives that tensor back."""

    def call(*operands: torch.Tensor) -> torch.Tensor:
        out = torch.full((4, 4), 7.0)
        found = function(*operands, **options, out=out)
        assert found is out
        return out

    return call


X, Y, W = normal(4, 4), normal(4, 4, seed=1), normal(4, 4, seed=2)


@pytest.mark.parametrize(
    ("function", "inputs", "weights", "kind"),
    [
        (torch.matmul, (X, Y), (), "matmul"),
        (torch.linalg.matmul, (X, Y), (), "matmul"),
        (torch.mm, (X, Y), (), "matmul"),
        (torch.mm, (X,), (W,), "linear"),
        (lambda a, w, **o: torch.addmm(Y, a, w, **o), (X,), (W,), "linear"),
        (torch.add, (X, Y), (), "add"),
        (lambda a, b, **o: torch.add(a, b, alpha=2, **o), (X, Y), (), "add"),
        (torch.mul, (X, Y), (), "mul"),
    ],
)
def test_what_is_written_into_a_tensor_is_the_quantised_result(
    function: Callable[..., torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    weights: tuple[torch.Tensor, ...],
    kind: str,
) -> None:
    def made(one: Callable[..., torch.Tensor]) -> Any:
        return quantize(
            Calls(one, *weights), "int8-tensor", calibration=[inputs], scheme="extended"
        )

    written, plain = made(into(function)), made(function)
    assert [o.kind for o in written.operators] == [kind]
    with torch.no_grad():
        y, expected = written.model(*inputs), plain.model(*inputs)
        exact = function(*inputs, *weights)
    assert torch.equal(y, expected)
    assert not torch.equal(y, exact)
    assert_close(y, exact, rtol=0.1, atol=0.2)
    again = torch.empty(0)  # torch grows an empty one
    grown = quantize(
        Calls(lambda *given: function(*given, out=again), *weights), "int8-tensor",
        calibration=[inputs], scheme="extended",
    )  # fmt: skip
    assert torch.equal(grown.model(*inputs), expected)
    assert torch.equal(again, expected)


def test_a_kept_call_writes_too() -> None:
    made = quantize(
        Calls(lambda a, b: into(torch.add)(into(torch.matmul)(a, b), b)), "int8-tensor",
        calibration=[(X, Y)],
    )  # fmt: skip
    assert {k.name: k.kind for k in made.kept} == {":add": ""}
    with torch.no_grad():
        product = made.model(X, Y) - Y
    assert_close(product, X @ Y, rtol=0.1, atol=0.2)
    assert not torch.allclose(product, X @ Y, rtol=1e-4)


def test_a_product_that_adds_in_place_is_an_operator() -> None:
    def add_product(a: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        sums = torch.ones(4, 4)
        sums.addmm_(a, w)
        return sums

    made = quantize(Calls(add_product, W), "int8-row", calibration=[X])
    assert [(o.name, o.kind) for o in made.operators] == [(":linear", "linear")]
    with torch.no_grad():
        y = made.model(X)
    assert_close(y, 1 + X @ W, rtol=0.05, atol=0.05)
    assert not torch.equal(y, 1 + X @ W)


def test_a_bias_that_counts_nothing_is_not_looked_at() -> None:
    bias = torch.full((4,), torch.nan)
    made = quantize(
        Calls(lambda x, w: torch.addmm(bias, x, w, beta=0, alpha=2), W), "int8-row", calibration=[X]
    )
    assert_close(made.model(X), 2 * X @ W, rtol=0.05, atol=0.05)


V, B = normal(4, seed=3), normal(2, 4, 4, seed=4)
LISTED = {
    "einsum": (lambda x: torch.einsum("ij,jk->ik", x, x), ":product"),
    "tensordot": (lambda x: torch.tensordot(x, x, dims=([1], [0])), ":product"),
    "inner": (lambda x: torch.inner(x, x), ":product"),
    "mv": (lambda x: torch.mv(x, V), ":product"),
    "dot": (lambda x: x[0].dot(V), ":product"),
    "outer": (lambda x: torch.outer(V, x[0]), ":product"),
    "multi_dot": (lambda x: torch.linalg.multi_dot([x, x, x]), ":product"),
    "baddbmm": (lambda x: torch.baddbmm(B, B, B) + x.sum(), ":product"),
    "baddbmm_": (lambda x: B.clone().baddbmm_(B, B), ":product"),
    "bilinear": (lambda x: F.bilinear(x, x, B), ":product"),
    "addcmul": (lambda x: torch.addcmul(x, x, x), ":product"),
    "a matrix by a vector": (lambda x: x @ V, ":matmul"),
    "a layer of one output": (lambda x: F.linear(x, V), ":linear"),
    "log_softmax": (lambda x: F.log_softmax(x, -1), ":softmax"),
    "method softmax": (lambda x: x.softmax(-1), ":softmax"),
    "leaky_relu": (lambda x: F.leaky_relu(x), ":activation"),
    "method relu": (lambda x: x.relu(), ":activation"),
    "relu_": (lambda x: F.relu_(x.clone()), ":activation"),
    "sub_": (lambda x: x.clone().sub_(x), ":sub"),
    "reflected": (lambda x: 1 - x, ":sub"),
    "reciprocal": (lambda x: 1 / x, ":div"),
    "embedding_bag": (lambda x: F.embedding_bag(torch.zeros(2, 2).long(), x), ":embedding"),
    "rms_norm": (lambda x: F.rms_norm(x, (4,)), ":norm"),
    "conv_transpose": (lambda x: F.conv_transpose1d(x[None], x[:, None]), ":convolution"),
}


@pytest.mark.parametrize("name", LISTED)
def test_arithmetic_that_no_scheme_has_is_listed(name: str) -> None:
    function, place = LISTED[name]

    def call(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        function(x)
        return x @ y

    made = quantize(Calls(call), "int8-tensor", calibration=[(X, Y)], scheme="extended")
    reasons = {k.name: k.reason for k in made.kept}
    assert place in reasons
    vector = place in (":matmul", ":linear")
    expected = "a product with a vector" if vector else "int8-tensor has no such operator"
    assert reasons[place].startswith(expected)
    assert not made.unmet
    made.model(X, Y)
    assert not made.unmet


def test_sums_with_numbers_and_products_of_indices_are_no_arithmetic_of_a_scheme() -> None:
    def call(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        ids = torch.ones(4, 4, dtype=torch.int64)
        return (x @ y) * 2 + 1 + (ids @ ids + ids)[0, 0]

    made = quantize(Calls(call), "int8-tensor", calibration=[(X, Y)], scheme="standard")
    assert not made.kept


@pytest.mark.parametrize("recipe", ["int8-tensor", "int8-row"], ids=["padded", "unfolded"])
@pytest.mark.parametrize("dilation", [1, 3])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions_padded_by_a_word(padding: str, dilation: int, recipe: str) -> None:
    scheme = replace(STANDARD, name="all", keep_first_last=False)
    for function, layer, x, w in (
        (F.conv1d, nn.Conv1d, normal(2, 3, 16), normal(4, 3, 5)),
        (F.conv2d, nn.Conv2d, normal(2, 3, 16, 9), normal(4, 3, 3, 3)),
    ):
        options = {"padding": padding, "dilation": dilation}
        call = Calls(lambda x, w, f=function, o=options: f(x, w, **o), w)
        twin = layer(3, 4, w.shape[2:], bias=False, **options)
        twin.weight = nn.Parameter(w)
        y, expected = (
            quantize(one, recipe, calibration=[x], scheme=scheme).model(x) for one in (call, twin)
        )
        assert torch.equal(y, expected)
        assert not torch.equal(y, call(x))


@pytest.mark.parametrize("recipe", ["int8-tensor", "int8-row", "fp8-ptq-e5m2", "mxfp8-e4m3"])
def test_a_mask_that_calibration_did_not_meet_passes_as_it_is(recipe: str) -> None:
    scores, none = normal(4, 32), torch.zeros(4, 32)
    made = quantize(
        Calls(torch.add), recipe, scheme="extended", calibration=[(scores, none)]
    )  # fmt: skip
    assert [o.name for o in made.operators] == [":add"]
    mask = none.clone()
    mask[:, 5:] = -torch.inf
    y = made.model(scores, mask)
    assert torch.equal(y[:, :5], made.model(scores, none)[:, :5])
    assert bool((y[:, 5:] == -torch.inf).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_smallest_number_of_a_type_is_a_mask(dtype: torch.dtype) -> None:
    mask = torch.tensor([0.0, torch.finfo(dtype).min], dtype=torch.float64).to(dtype)
    x = normal(3, 2).to(dtype)
    made = quantize(
        Calls(lambda s, m: (s + s) + m), "int8-tensor", calibration=[(x, mask)], scheme="extended"
    )
    assert [o.name for o in made.operators] == [":add"]
    assert "is a mask" in {k.name: k.reason for k in made.kept}[":add.2"]
