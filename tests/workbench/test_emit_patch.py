"""A package's ``patch``: what is replaced and left, states, refusals."""

import copy
import importlib
import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from patched_models import (
    HIDDEN,
    INNER,
    SCALED,
    mlp,
)
from patched_package import NAME, module, nothing_warned_yet, package
from torch import nn

from tiles.formats.torch_codec import quantize_tensor
from tiles.recipes import recipe
from workbench.emission import EmittedPackage

__all__ = ["module", "nothing_warned_yet", "package"]


@pytest.mark.parametrize("name", SCALED)
def test_layers_are_replaced_and_compute_what_the_recipe_says(
    module: ModuleType, name: str
) -> None:
    model, x = mlp(), torch.randn(2, 5, HIDDEN).bfloat16()
    plain = copy.deepcopy(model)
    report = module.patch(model, name)
    assert [(one.name, one.tuned) for one in report.replaced] == [
        ("up_proj", True), ("down_proj", True)
    ]  # fmt: skip
    assert [(one.name, one.reason) for one in report.left] == [("lm_head", "kept by 'lm_head'")]
    assert report.bytes_before == 2 * 2 * HIDDEN * INNER
    assert HIDDEN * INNER * 2 < report.bytes_after < 0.6 * report.bytes_before
    layer = model.up_proj
    assert (layer.in_features, layer.out_features) == (HIDDEN, INNER)
    found, exact = model.up_proj(x), plain.up_proj(x)
    assert (found.shape, found.dtype) == ((2, 5, INNER), torch.bfloat16)
    fmt = recipe(name)
    a = quantize_tensor(x.view(-1, HIDDEN), fmt.activation).dequantize(torch.float64)
    b = quantize_tensor(plain.up_proj.weight.detach(), fmt.weight).dequantize(torch.float64)
    wanted = (a @ b.T).bfloat16() + plain.up_proj.bias
    assert torch.equal(found.view(-1, INNER), wanted)
    assert 0 < (found - exact).double().norm() < 0.06 * exact.double().norm()
    turned = torch.randn(HIDDEN, 6).bfloat16().t()
    assert torch.equal(model.up_proj(turned), model.up_proj(turned.contiguous()))


def test_the_fastest_measured_recipe_is_taken_and_said(module: ModuleType) -> None:
    report = module.patch(mlp())
    assert report.recipe == "e4m3-row"
    assert report.chosen == "e4m3-row is the fastest of 4 recipes on 2 shapes (measured)"
    text = str(report)
    assert text.startswith("2 layers replaced, e4m3-row is the fastest of 4 recipes")
    assert "  up_proj: 128 -> 192, tuned" in text
    assert "  lm_head: left, kept by 'lm_head'" in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["schema"] == "tile-workbench/patch/1"
    assert data["replaced"][0] == {
        "name": "up_proj", "out_features": INNER, "in_features": HIDDEN, "tuned": True,
    }  # fmt: skip


def test_unpatch_brings_the_very_layers_back(module: ModuleType) -> None:
    model, x = mlp(), torch.randn(4, HIDDEN).bfloat16()
    layer, before = model.up_proj, model(x)
    module.patch(model)
    assert not torch.equal(model(x), before)
    with pytest.raises(ValueError, match="no layer to replace, 2 are patched already"):
        module.patch(model)
    assert module.unpatch(model) == ("up_proj", "down_proj")
    assert model.up_proj is layer
    assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="no layer of the model is patched"):
        module.unpatch(model)
    module.patch(model, undo=False)
    with pytest.raises(ValueError, match="up_proj: the plain layer was not kept"):
        module.unpatch(model)


def test_state_is_codes_and_scales_and_loads_into_a_model_patched_alike(
    module: ModuleType,
) -> None:
    first, second, x = mlp(0), mlp(1), torch.randn(4, HIDDEN).bfloat16()
    plain = copy.deepcopy(first)
    module.patch(first, "deepseek-fp8")
    module.patch(second, "deepseek-fp8")
    state = first.state_dict()
    assert {name for name in state if name.startswith("up_proj")} == {
        "up_proj.bias", "up_proj.codes", "up_proj.formats", "up_proj.scales"
    }  # fmt: skip
    assert not torch.equal(second(x), first(x))
    second.load_state_dict(state)
    assert torch.equal(second(x), first(x))
    with pytest.raises(RuntimeError, match=r"Missing key.*up_proj.codes"):
        second.load_state_dict(plain.state_dict())
    again = copy.deepcopy(first)
    assert torch.equal(again(x), first(x))


@pytest.mark.parametrize(
    ("stored", "other"), [("e4m3-row", "int8-row"), ("deepseek-fp8", "int8-b128")]
)
def test_the_state_of_another_recipe_is_refused_and_changes_no_codes(
    module: ModuleType, stored: str, other: str
) -> None:
    first, second = mlp(0), mlp(1)
    module.patch(first, stored)
    module.patch(second, other)
    codes = {name: one.clone() for name, one in second.named_buffers()}
    with pytest.raises(RuntimeError, match=f"up_proj: the state is of {stored} .*, the layer of"):
        second.load_state_dict(first.state_dict())
    assert all(torch.equal(one, codes[name]) for name, one in second.named_buffers())


@pytest.mark.parametrize("name", ["deepseek-fp8", "int8-b128", "e4m3-row"])
def test_a_change_of_dtype_leaves_codes_and_scales_alone(module: ModuleType, name: str) -> None:
    model = mlp()
    module.patch(model, name)
    layer = model.up_proj
    codes, scales = layer.codes.clone(), layer.scales.clone()
    model.to(torch.float16).float()
    assert (layer.codes.dtype, layer.scales.dtype) == (codes.dtype, torch.float32)
    assert torch.equal(layer.codes.view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(layer.scales, scales)
    assert layer.bias.dtype == torch.float32


def test_scales_with_contiguous_rows_move_with_the_model(module: ModuleType) -> None:
    linear = importlib.import_module(f"{NAME}._quantized_linear")
    codes_of = importlib.import_module(f"{NAME}._weight_codes")
    codes, scales = codes_of.quantize_weight(torch.randn(6, 300), "e4m3fn", (1, 128))
    layer = linear.QuantizedLinear("e4m3-row", "e4m3fn.row", codes, scales, None)
    layer.to(torch.bfloat16)
    assert scales.stride(0) == 1
    assert (layer.scales.dtype, torch.equal(layer.scales, scales)) == (torch.float32, True)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(INNER, HIDDEN)
        self.out = nn.Linear(HIDDEN, INNER, bias=False)
        self.out.weight = self.embed.weight
        self.blocks = nn.ModuleList([nn.Linear(HIDDEN, INNER) for _ in range(2)])
        self.again = self.blocks[1]
        self.attention = nn.MultiheadAttention(HIDDEN, 2)
        self.encoder = nn.TransformerEncoderLayer(HIDDEN, 2, INNER)
        self.wide = nn.Linear(HIDDEN, INNER).double()
        self.hooked = nn.Linear(HIDDEN, INNER)
        self.hooked.register_forward_hook(lambda *given: None)


def test_what_is_left_has_its_reason_and_shared_layers_are_replaced_everywhere(
    module: ModuleType,
) -> None:
    model = Tied().bfloat16()
    model.wide.double()
    report = module.patch(model, "int8-row", keep=("blocks.0",))
    assert [one.name for one in report.replaced] == ["again", "blocks.1"]
    assert model.again is model.blocks[1]
    reasons = {one.name: one.reason for one in report.left}
    assert reasons == {
        "out": "its weight is shared with another module",
        "blocks.0": "kept by 'blocks.0'",
        "attention.out_proj": "NonDynamicallyQuantizableLinear is no plain nn.Linear",
        "encoder.self_attn.out_proj": "NonDynamicallyQuantizableLinear is no plain nn.Linear",
        "encoder.linear1": "TransformerEncoderLayer reads its weights by itself",
        "encoder.linear2": "TransformerEncoderLayer reads its weights by itself",
        "wide": "its weights are torch.float64, int8-row takes bf16 activations",
        "hooked": "it has hooks: remove them first",
    }
    module.unpatch(model)
    assert model.again is model.blocks[1]


class Reading(nn.Module):
    """Asks for weights as T5 (a dtype), Mamba (a product) and Bloom (a part of one) do."""

    def __init__(self) -> None:
        super().__init__()
        self.wi, self.wo = nn.Linear(HIDDEN, INNER), nn.Linear(INNER, HIDDEN)
        self.step, self.split = nn.Linear(HIDDEN, INNER), nn.Linear(HIDDEN, INNER)
        self.inner = nn.Sequential(nn.Linear(HIDDEN, INNER), nn.ReLU())
        self.inner.last = nn.Linear(HIDDEN, INNER)
        nn.init.zeros_(self.wi.weight)  # before it is patched

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.wi(x).to(self.wo.weight.dtype)
        y: torch.Tensor = self.wo(hidden)
        return y + (self.step.weight.t() @ self._split(x)[..., None])[..., 0]

    @torch.no_grad()
    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return sum(
            nn.functional.linear(x[..., s : s + 64], self.split.weight[:, s : s + 64])
            for s in (0, 64)
        ) + nn.functional.linear(x, self.inner.last.weight)  # type: ignore[return-value]


def test_layers_whose_weight_another_module_reads_stay_plain(module: ModuleType) -> None:
    model, x = Reading().bfloat16(), torch.randn(3, HIDDEN).bfloat16()
    report = module.patch(model, "int8-row")
    assert [one.name for one in report.replaced] == ["wi", "inner.0"]
    assert {one.name: one.reason for one in report.left} == dict.fromkeys(
        ("wo", "step", "split", "inner.last"), "Reading reads its weight by itself"
    )
    assert model(x).shape == (3, HIDDEN)


def test_untuned_layers_are_said_once_for_each_kind(module: ModuleType) -> None:
    def model() -> nn.Module:
        sizes = [(HIDDEN, INNER), (HIDDEN, 64), (HIDDEN, 64), (64, 32)]
        return nn.Sequential(*(nn.Linear(k, n) for k, n in sizes)).bfloat16()

    with pytest.warns(RuntimeWarning) as caught:
        report = module.patch(model(), "int8-row")
    assert [one.tuned for one in report.replaced] == [True, False, False, False]
    assert sorted(str(one.message) for one in caught) == [
        f"Linear: int8-row was never tuned for layers of {kind}: running a conservative default, "
        "whose speed is unknown"
        for kind in ("128 -> 64", "64 -> 32")
    ]
    assert {one.filename for one in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.patch(model(), "int8-row")
        # Nor does the first launch say it again.
        module._lookup.choose("triton_gemm", ("int8-row", "bf16"), (64, HIDDEN), 4, "NVIDIA H200")
    # Of other extents nothing was said yet.
    with pytest.warns(RuntimeWarning, match=r"never tuned for extents \(96, 128\)"):
        module._lookup.choose("triton_gemm", ("int8-row", "bf16"), (96, HIDDEN), 4, "NVIDIA H200")
    with pytest.warns(RuntimeWarning) as caught:
        report = module.patch(model(), "int8-row", untuned="plain")
    assert [str(one.message).split(": ")[2] for one in caught] == ["the plain layer runs"] * 2
    assert [one.name for one in report.replaced] == ["0"]
    assert report.left[0].reason == "int8-row was never tuned for layers of 128 -> 64"


def test_activations_that_nobody_tuned_are_said_too(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = importlib.import_module(f"{NAME}._linear_recipes")
    wanted = ("triton_quantize", (INNER,))
    files = tuple(f for f in inside.FILES if (f.kernel, f.extents) != wanted)
    assert len(files) < len(inside.FILES)
    monkeypatch.setattr(inside, "FILES", files)
    with pytest.warns(RuntimeWarning) as caught:
        report = module.patch(mlp(), "int8-row")
    assert [str(one.message).partition(": running")[0] for one in caught] == [
        "Linear: quantising 192 columns to int8.row was never tuned"
    ]
    assert [(one.name, one.tuned) for one in report.replaced] == [
        ("up_proj", True), ("down_proj", False)
    ]  # fmt: skip


def test_where_warnings_are_errors_every_attempt_is_told(module: ModuleType) -> None:
    model = nn.Sequential(nn.Linear(HIDDEN, 80)).bfloat16()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(RuntimeWarning, match="never tuned for layers of 128 -> 80"):
                module.patch(model, "int8-row")
    assert type(model[0]) is nn.Linear
    # A layer that stays plain says nothing about calls of the package.
    with pytest.warns(RuntimeWarning, match="the plain layer runs"):
        module.patch(nn.Sequential(nn.Linear(HIDDEN, INNER), *model).bfloat16(), untuned="plain")
    recipe = ("e4m3-row", "bf16")
    with pytest.warns(RuntimeWarning, match=r"never tuned for extents \(80, 128\)"):
        module._lookup.choose("triton_gemm", recipe, (80, HIDDEN), 4, "NVIDIA H200")


def test_another_gpu_is_said_once_and_left_plain_where_that_is_asked(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = importlib.import_module(f"{NAME}._patch")
    made = {layer.names[0]: layer for layer in inside.layers(mlp())}
    up = made["up_proj"]
    monkeypatch.setattr(type(up), "home", lambda self, device: torch.device("cuda:0"))
    known, _ = inside.linear_recipes()
    for name, wanted in (
        ("NVIDIA H200", ""),
        ("NVIDIA L40S", "NVIDIA L40S is not a GPU this package was tuned for (h200)"),
    ):
        monkeypatch.setattr(inside, "device_facts", lambda device, name=name: (name, 132))
        assert inside._untuned(up, known["int8-row"], None) == wanted
    within = importlib.import_module(f"{NAME}._linear_layers")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(within, "device_facts", lambda device: ("Tesla T4", 40))
    reason = within.obstacle(mlp(), up, known["int8-row"], False, None)
    assert reason == "Tesla T4 runs none of the package's kernels"


def test_refusals_are_one_line_and_change_nothing(module: ModuleType, tmp_path: Path) -> None:
    model = mlp()
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("recipe 'jetfire': the package has no entry for it; there is deepseek-fp8, e4m3-row",
         model, {"recipe": "jetfire"}),
        ("keep 'lmhead': no module of the model has such a name", model, {"keep": ("lmhead",)}),
        (r"keep is 'lm_head': write a sequence of names, \('lm_head',\)", model,
         {"keep": "lm_head"}),
        ('untuned \'off\': choose "default" or "plain"', model, {"untuned": "off"}),
        ("LayerNorm has no linear layer: nothing to replace", nn.LayerNorm(4), {}),
        ("the model is a linear layer itself: wrap it", nn.Linear(4, 4), {}),
        ("none of 3 linear layers can be replaced, up_proj: its weights are torch.float32",
         mlp(dtype=torch.float32), {}),
        ("none of 3 linear layers can be replaced, up_proj: it lies on the meta device",
         mlp().to("meta"), {}),
        ("cannot be read .No such file or directory.: check the path", model,
         {"weights": tmp_path / "none.safetensors"}),
        ("holds 0 indices and 0", model, {"weights": tmp_path}),
    ]  # fmt: skip
    for message, given, keywords in cases:
        with pytest.raises(ValueError, match=message) as caught:
            module.patch(given, **keywords)
        assert "\n" not in str(caught.value)
    assert type(model.up_proj) is nn.Linear
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"up_proj.weight": "../away.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"'\.\./away\.safetensors' leads out of the folder"):
        module.patch(model, weights=tmp_path)


def test_an_edited_package_is_refused(module: ModuleType, package: EmittedPackage) -> None:
    recipes = importlib.import_module(f"{NAME}._linear_recipes")
    path = package.folder / "src" / NAME / "configs" / "triton_gemm-int8-row-bf16-192x128-h200.json"
    text, model = path.read_text(), mlp()
    try:
        path.write_text(text + "\n")
        recipes.check_digests.cache_clear()
        with pytest.raises(ValueError, match=r"is not the file that was emitted .*: install"):
            module.patch(model)
    finally:
        path.write_text(text)
        recipes.check_digests.cache_clear()
    assert type(model.up_proj) is nn.Linear
    module.patch(model)
