"""Conversion of ordinary models."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from nn_cases import normal
from tied_model import IDS, model
from torch import nn

from tiles.formats import TensorFormat
from tiles.recipes import recipe
from workbench.nn import (
    RECIPES,
    QuantizedActivation,
    QuantizedDropout,
    QuantizedLinear,
    QuantizedNorm,
    TransformerBlock,
    convert,
    training_runtime,
    training_state,
)
from workbench.nn.runtime import backend_of


def test_replaces_what_the_recipe_knows_and_lists_the_rest() -> None:
    done = convert(model(), "jetfire", keep=("head",))
    after = {r.name: r.after for r in done.replaced}
    assert after == {
        "norm": "QuantizedNorm",
        "up": "QuantizedLinear",
        "act": "QuantizedActivation",
        "drop": "QuantizedDropout",
        "down": "QuantizedLinear",
    }
    assert {k.name: k.reason for k in done.kept} == {
        "embed": "jetfire has no such operator",
        "tanh": "jetfire has no such operator",
        "odd": "10 features out: rows of codes need multiples of 16",
        "head": "asked for",
    }
    assert "kept in high precision: tanh (Tanh): jetfire has no such operator" in str(done)
    types = {QuantizedLinear, QuantizedActivation, QuantizedDropout, QuantizedNorm}
    assert types <= {type(layer) for layer in done.model.modules()}


#: Relative errors of outputs and of gradients: 8 and 6 bits, and 4 bits.
ERRORS = {False: (0.1, 0.3), True: (0.2, 1.0)}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_the_model(name: str) -> None:
    most, most_of_gradients = ERRORS[name in ("mxfp4", "mxfp4-w-mxfp6-a", "int4-tensor")]
    plain = model().eval()
    done = convert(copy.deepcopy(plain), name)
    expected, found = plain(IDS), done.model(IDS)
    assert found.dtype is expected.dtype
    with torch.no_grad():
        assert 0 < float((found - expected).norm() / expected.norm()) < most
    expected.pow(2).mean().backward()
    found.pow(2).mean().backward()
    pairs = zip(plain.named_parameters(), done.model.parameters(), strict=True)
    for (key, before), after in pairs:
        assert before.grad is not None
        assert after.grad is not None
        off = float((after.grad - before.grad).norm() / before.grad.norm().clamp(min=1e-3))
        assert off < most_of_gradients, key


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_emulated_is_said(name: str) -> None:
    said = str(convert(nn.Linear(32, 32), name))
    assert (", emulated: operands are quantised" in said) == (
        name[:5] in ("mxfp6", "mxfp4", "int4-")
    )


def test_products_alone_under_the_other_recipes() -> None:
    done = convert(model(), "e4m3-tensor")
    assert {r.name for r in done.replaced} == {"up", "down", "head"}
    assert {k.reason for k in done.kept if k.name == "norm"} == {
        "e4m3-tensor quantises products alone"
    }


def test_parameters_stay_the_objects_that_they_are() -> None:
    plain = model()
    before = dict(plain.named_parameters())
    done = convert(plain, "jetfire")
    assert done.model is plain
    after = dict(done.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    assert done.model.head.weight is done.model.embed.weight


def test_a_state_dict_goes_both_ways() -> None:
    plain, other = model(), convert(model(), "jetfire-64").model
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    plain.load_state_dict(other.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True)
    )
    fresh = model()
    other.load_state_dict(fresh.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(fresh.parameters(), other.parameters(), strict=True)
    )


def test_a_single_layer_is_a_model_too() -> None:
    done = convert(nn.Linear(32, 32), "jetfire")
    assert isinstance(done.model, QuantizedLinear)
    assert done.replaced[0].name == ""


def test_attributes_that_other_modules_read_are_there() -> None:
    plain = (nn.Linear(32, 64), nn.LayerNorm(64, eps=1e-3), nn.Dropout(0.25))
    found = convert(nn.Sequential(*plain), "jetfire").model
    names = (("in_features", "out_features"), ("eps", "normalized_shape"), ("p",))
    for before, after, read in zip(plain, found, names, strict=True):  # type: ignore[arg-type]
        for name in read:
            assert getattr(after, name) == getattr(before, name)


def test_an_encoder_layer_of_torch_computes_on_codes_in_evaluation_too() -> None:
    """Its fused inference reads parameters past the layers."""
    torch.manual_seed(0)
    done = convert(nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True), "jetfire")
    assert {k.name for k in done.kept} == {"self_attn", "self_attn.out_proj"}
    x = normal(2, 8, 32)
    trained = done.model(x).detach()
    with torch.no_grad():
        assert torch.equal(done.model.eval()(x).float(), trained.float())


def test_layers_that_codes_cannot_replace_say_why() -> None:
    hooked, act = nn.Linear(32, 32), nn.GELU()
    hooked.register_forward_hook(lambda *_: None)
    act.register_full_backward_hook(lambda *_: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old one is deprecated
        normed = nn.utils.weight_norm(nn.Linear(32, 32))
    done = convert(nn.Sequential(nn.Linear(32, 32), hooked, act, normed), "jetfire")
    hooks = "it has hooks: remove them, convert, and register them again"
    assert {k.name: k.reason for k in done.kept} == {
        "1": hooks,
        "2": hooks,
        "3": "its weight is computed from others, as by weight_norm: remove that first",
    }


def test_a_forward_of_its_own_is_kept_and_one_that_was_put_back_is_not() -> None:
    own, back = nn.Linear(32, 32), nn.Linear(32, 32)
    exact = own.forward
    own.forward = lambda x: exact(x) + 1  # type: ignore[method-assign]
    back.forward = back.forward  # type: ignore[method-assign]
    done = convert(nn.Sequential(own, back), "jetfire")
    assert [k.name for k in done.kept] == ["0"]
    assert [r.name for r in done.replaced] == ["1"]


def test_layers_of_numbers_that_are_not_quantised_are_kept() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64).double())
    done = convert(model, "e4m3-tensor")
    (kept,) = done.kept
    assert kept.name == "1"
    assert kept.reason == "its weight is torch.float64: codes are made of bf16, fp16 and fp32"


def test_copies_of_a_layer_draw_other_keys_and_are_one_model() -> None:
    layer = convert(nn.Linear(32, 32), "jetfire").model
    both = nn.Sequential(layer, copy.deepcopy(layer))
    assert both[0].weight is not both[1].weight
    assert both[0].runtime.draw() != both[1].runtime.draw()  # type: ignore[union-attr, operator]
    assert training_state(both)["count"] == 2


def test_ranks_of_one_model_draw_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(rank: int) -> tuple[int, int]:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        run = training_runtime("jetfire", seed=5)
        torch.manual_seed(0)
        return run.draw(), run.mask_key()

    assert keys(1) == keys(1)
    assert len({*keys(0), *keys(1), *keys(2)}) == 6


def test_a_shared_layer_stays_shared() -> None:
    layer = nn.Linear(32, 32)
    done = convert(nn.Sequential(layer, nn.GELU(), layer), "jetfire")
    assert done.model[0] is done.model[2]  # type: ignore[index]


def test_a_layer_is_kept_by_any_of_its_names() -> None:
    layer = nn.Linear(32, 32)
    done = convert(nn.Sequential(layer, nn.Linear(32, 32), layer), "jetfire", keep=("2",))
    assert {k.name: k.reason for k in done.kept} == {"0": "asked for"}
    assert done.model[2] is layer  # type: ignore[index]


def test_layers_that_write_to_their_input_are_named() -> None:
    done = convert(nn.Sequential(nn.Linear(32, 32), nn.LeakyReLU(inplace=True)), "jetfire")
    assert done.kept[0].reason == (
        "jetfire has no such operator; it writes to its input, which codes refuse: "
        "set inplace to False"
    )
    found = convert(nn.Sequential(nn.Linear(32, 32), nn.LeakyReLU(inplace=True)), "mxfp8-e4m3")
    assert found.kept[0].reason == "mxfp8-e4m3 has no such operator"


def test_the_rest_of_a_model_with_blocks_follows_their_runtime() -> None:
    run = training_runtime("jetfire", seed=3)
    model = nn.Sequential(TransformerBlock(32, 2, run), nn.LayerNorm(32), nn.Linear(32, 48))
    done = convert(model, run)
    assert {r.name for r in done.replaced} == {"1", "2"}
    assert done.runtime is run
    with pytest.raises(ValueError, match="converted already"):
        convert(model, training_runtime("jetfire"))
    with pytest.raises(ValueError, match="a runtime has a fallback, a seed and a backend"):
        convert(nn.Linear(32, 32), run, seed=1)


def test_under_autocast_outputs_are_its_dtype() -> None:
    done = convert(model(), "mxfp8-e4m3", keep=("head", "odd"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert done.model.up(torch.ones(16, 32)).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jetfire-32", {}, "recipe 'jetfire-32' does not train here: did you mean 'jetfire"),
        ("w4a16-g128", {}, "does not train here.*choose from bf16"),
        (
            "jetfire",
            {"keep": ("lm_head",)},
            "keep 'lm_head': no layer of the model has such a name",
        ),
        ("jetfire", {"fallback": 1.5}, "fallback 1.5: the share of blocks lies from 0 to below 1"),
        ("e4m3-tensor", {"fallback": 0.1}, "only INT8 blocks with fp32 scales fall back"),
        ("jetfire", {"seed": -1}, "seed -1, count 0: a 64-bit unsigned integer"),
        ("jetfire", {"keep": ("*",)}, "no layer of Tied can follow jetfire: embed"),
        (recipe("llm-int8"), {}, "columns of outliers are for inference alone"),
        (recipe("fp8-ptq-e5m2"), {}, "activation e5m2 has no scales, training needs them"),
        (
            replace(recipe("jetfire"), activation=TensorFormat.parse("int8.b1x32")),
            {},
            "activation int8.b1x32 needs square blocks",
        ),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit(name, options, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        convert(model(), name, **options)


def test_refuses_what_is_no_model_or_no_recipe() -> None:
    with pytest.raises(TypeError, match="convert takes a torch module, not dict"):
        convert({}, "jetfire")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a recipe is a name or a Recipe"):
        convert(model(), 8)  # type: ignore[arg-type]


def test_refuses_to_convert_twice() -> None:
    with pytest.raises(ValueError, match="converted already"):
        convert(convert(model(), "jetfire").model, "jetfire-64")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_kernels_say_so() -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device here; train on 'cpu'"):
        backend_of(torch.device("cuda"))


def test_nan_inputs_stay_nan() -> None:
    network = convert(nn.Sequential(nn.Linear(32, 32), nn.GELU()), "jetfire").model
    x = normal(64, 32)
    x[3, 5] = float("nan")
    y = network(x).float()
    assert y[:32].isnan().all()  # the block row that the NaN lies in
    assert y[32:].isfinite().all()
